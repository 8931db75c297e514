import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib/html.js";

/** Reads at once, again when `asked` changes, and every `seconds` while somebody looks; what was read before stays until then. */
export function useReading(read, asked = "", seconds = 0) {
  const [state, set] = useState({ data: null, error: null });
  const turn = useRef(0), waits = useRef(0);
  const load = async () => {
    const mine = ++turn.current;
    waits.current = Date.now() + 60000;
    try {
      const data = await read();
      if (mine === turn.current) set({ data, error: null, asked });
    } catch (error) { if (mine === turn.current) set((now) => ({ ...now, error })); }
    if (mine === turn.current) waits.current = 0;
  };
  const again = () => document.hidden || Date.now() < waits.current || load(); // a slow answer is waited for
  useEffect(() => {
    load();
    const timer = seconds ? setInterval(again, 1000 * seconds) : 0;
    if (seconds) document.addEventListener("visibilitychange", again);
    return () => { turn.current += 1; clearInterval(timer); document.removeEventListener("visibilitychange", again); };
  }, [asked, seconds]);
  // A server that is gone is said at the top of the page, where there is something to look at meanwhile.
  return { ...state, error: state.data && state.error?.status === 0 ? null : state.error, busy: state.asked !== asked, load, again };
}

/** A few choices side by side, one of them made. */
export const Choice = ({ label, value, options, onChange }) => html`<div class="choice" role="group" aria-label=${label}>
  ${options.map(([key, words]) => html`<button aria-pressed=${String(key === value)} onClick=${() => onChange(key)}>${words}</button>`)}</div>`;

/** A ref that gives a new field the focus, once. */
export const focused = (box) => { if (box && !box.dataset.met) { box.dataset.met = "yes"; box.focus(); } };

/** A button that asks once more, in its own place, before it does what cannot be undone. */
export function Sure({ label, ask, yes, run, kind = "quiet" }) {
  const [asking, setAsking] = useState(false);
  const place = useRef();
  const moved = useRef(false);
  useLayoutEffect(() => { if (moved.current) place.current.querySelector("button:last-of-type").focus(); moved.current = true; }, [asking]); // to the choice that changes nothing
  const key = (event) => { if (event.key === "Escape") { event.preventDefault(); setAsking(false); } };
  return html`<span class="sure" ref=${place}>${asking
    ? html`<span role="group" aria-label=${ask} onKeyDown=${key}>${ask} <button class="danger" onClick=${() => { setAsking(false); run(); }}>${yes}</button><button class="quiet" onClick=${() => setAsking(false)}>Keep</button></span>`
    : html`<button class=${kind} onClick=${() => setAsking(true)}>${label}</button>`}</span>`;
}

/** A model, target, route or key with its colour. */
export const Named = ({ name, colour }) => html`<span class="named"><i class="swatch" style=${{ background: colour }}></i>${name}</span>`;
