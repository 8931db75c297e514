// Runs before the first paint, so that a remembered theme does not flash.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("herd.theme"); } catch { /* storage may be off */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
