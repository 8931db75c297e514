import { get, post, put } from "../lib/api.js";
import { useEffect, useState } from "../lib/html.js";
import { store } from "../lib/store.js";
import { read, write } from "./definition.js";

/** Unsaved changes by route: {form, name, base: the definition and version that they are of}. They outlive a change of page. */
export const drafts = store({});
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function draft(key, patch) {
  drafts.set(({ [key]: old, ...others }) => {
    const now = patch && { ...old, ...patch };
    return !now || (key && !now.note && same(write(now.form), write(read(now.base.definition)))) ? others : { ...others, [key]: now };
  });
}
addEventListener("beforeunload", (event) => { if (Object.keys(drafts.get()).length) event.preventDefault(); });

/** What the server thinks of a definition while it is typed: null while it has not answered, {} if it would be taken, else {param, message}. */
export function useCheck(name, definition, begun) {
  const text = JSON.stringify([name, definition]);
  const [found, set] = useState({ text: null, problem: null });
  useEffect(() => {
    if (!begun) return set({ text: null, problem: null });
    const timer = setTimeout(() => {
      const [asked, wanted] = JSON.parse(text);
      post("routes/check", { name: asked, definition: wanted }).then(() => set({ text, problem: {} }), (error) => set({ text, problem: error.status ? { param: path(error.param), message: error.message.replace(PLACE, "") } : {} }));
    }, 200);
    return () => clearTimeout(timer);
  }, [text, begun]);
  return { problem: found.problem, current: found.text === text };
}
const PLACE = /^(?:[a-z_]+(?:\[\d+\]|\.[a-z_]+)*: )+/; // the message stands at its field
/** Where in the definition: "targets.1.weight", however the server writes it. */
const path = (param) => (param ?? "").replace(/\[(\d+)\]/g, ".$1").replace(/^definition\.?/, "");

export const save = (name, definition, expect, note) => put(`routes/${encodeURIComponent(name)}`, { definition, ...(expect == null ? {} : { expect }), ...(note ? { note } : {}) });
export const whole = (name) => get(`routes/${encodeURIComponent(name)}`);
