import { useEffect, useState } from "./html.js";

/** Counts the changes of theme, so that what is drawn on a canvas is drawn again. */
export function useTheme() {
  const [theme, redraw] = useState(0);
  useEffect(() => {
    const again = () => redraw((n) => n + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", again);
    system.addEventListener("change", again);
    return () => { removeEventListener("themechange", again); system.removeEventListener("change", again); };
  }, []);
  return theme;
}

/** What `var(--token)` is inside `box` now, as a canvas wants it. */
export function resolved(box, colour) {
  box.style.color = colour;
  const found = getComputedStyle(box).color;
  box.style.color = "";
  return found;
}

export const axis = (box, more) => ({
  stroke: resolved(box, "var(--soft)"), grid: { stroke: resolved(box, "var(--line)"), width: 1 }, ticks: { show: false }, font: "12px system-ui", size: 44, ...more,
});

/** What an axis of times says at its ticks: the hour, and the day where one begins. */
export const times = (u, splits, _, __, by) => splits.map((unix) => {
  const date = new Date(unix * 1000);
  return by >= 86400 || !(date.getHours() + date.getMinutes())
    ? date.toLocaleDateString([], { day: "numeric", month: "short" }) : date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
});

/** Keeps a plot as wide as its box; what it returns ends that. */
export function follow(box, plot, height) {
  const observer = new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height }));
  observer.observe(box);
  return () => { observer.disconnect(); plot.destroy(); };
}
