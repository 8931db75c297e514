import { store } from "./store.js";

const here = () => ({ path: location.pathname, part: location.hash.slice(1) });

/** Where the person is: a page's `path`, and the `part` of it that is in front (what follows #). */
export const place = store(here());

export function go(to, { replace = false } = {}) {
  if (to !== location.pathname + location.hash) history[replace ? "replaceState" : "pushState"](null, "", to);
  place.set(here());
}

addEventListener("popstate", () => place.set(here())); // also when a hash is typed
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  if (!link || link.target || link.hasAttribute("download") || event.defaultPrevented) return;
  if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
