import { useLayoutEffect, useState } from "./html.js";

/** A value with listeners: `get`, `set(patch or function)`, and `use()` inside a component. */
export function store(value) {
  const listeners = new Set();
  return {
    get: () => value,
    set(patch) {
      value = typeof patch === "function" ? patch(value) : { ...value, ...patch };
      for (const listener of listeners) listener();
    },
    use() {
      const [, redraw] = useState(0);
      const seen = value;
      useLayoutEffect(() => {
        const listener = () => redraw((n) => n + 1);
        listeners.add(listener);
        if (seen !== value) listener();
        return () => listeners.delete(listener);
      }, [this]);
      return value;
    },
  };
}

/** localStorage, which a browser may refuse. */
export const remembered = {
  get(key) { try { return localStorage.getItem(`herd.${key}`); } catch { return null; } },
  set(key, text) { try { localStorage.setItem(`herd.${key}`, text); } catch { /* not remembered, then */ } },
};
