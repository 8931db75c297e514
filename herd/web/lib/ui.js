import { store } from "./store.js";

/** What is open on the page, and the conversation in front; not kept. */
export const ui = store({
  palette: false, help: false, list: false, settings: false, locked: false, notice: null, session: null,
});

let timer = 0;
/** One quiet line at the foot of the page, with at most one thing to do about it. */
export function notify(text, { action = null, run = null, seconds = 8 } = {}) {
  clearTimeout(timer);
  ui.set({ notice: { text, action, run } });
  timer = setTimeout(() => ui.set({ notice: null }), seconds * 1000);
}
export function unnotify() {
  clearTimeout(timer);
  ui.set({ notice: null });
}

/** Copies, also where the clipboard API is missing (plain http on a local network). */
export async function copy(text, what = "Copied.") {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  notify(what, { seconds: 2 });
}

/** Not on a touch screen, where it would open the keyboard unasked. */
export function focusComposer() {
  if (matchMedia("(hover: hover)").matches) document.querySelector("#composer")?.focus();
}
