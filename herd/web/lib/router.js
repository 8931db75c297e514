import { store } from "./store.js";

const here = () => ({ path: location.pathname, query: location.search, part: location.hash.slice(1) });

/** Where the person is: a page's `path`, what is asked of it (`query`), and the `part` of it that is in front (what follows #). */
export const place = store(here());

/** What the address asks of its page, by name. */
export const asked = () => Object.fromEntries(new URLSearchParams(place.get().query));

/** The address of a page that is asked for something; names without a value are left out. */
export function address(path, { ...given }, part = "") {
  const text = new URLSearchParams(Object.entries(given).filter(([, value]) => value != null && value !== "")).toString();
  return path + (text && `?${text}`) + (part && `#${encodeURIComponent(part)}`);
}

export function go(to, { replace = false } = {}) {
  if (to !== location.pathname + location.search + location.hash) history[replace ? "replaceState" : "pushState"](null, "", to);
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
