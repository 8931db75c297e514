import { colour, count } from "../lib/format.js";
import { html, memo, useLayoutEffect, useMemo, useRef, useState } from "../lib/html.js";
import { Named } from "../parts.js";
import { rated, ranks, ratingScale, said } from "./numbers.js";

const MOST = 40; // rows that are there unasked

/** The first of each group of `rows`, and a button for the others. */
export function useFold(rows, keep) {
  const [all, setAll] = useState(false);
  const met = {}, shown = all || rows.length <= MOST + 5 ? rows : rows.filter((row) => (met[row.component] = (met[row.component] ?? 0) + 1) <= MOST || keep.includes(row.name));
  const button = rows.length > MOST + 5 && html`<button class="quiet unfolds" aria-expanded=${String(all)} onClick=${() => setAll(!all)}>${all ? `Only the first ${MOST}${new Set(rows.map(({ component }) => component)).size > 1 ? " of each group" : ""}` : `All ${rows.length} targets`}</button>`;
  return [shown, button];
}

/** Lets what `ref` holds slide from where it was; `place` says where as a transform, by its value. */
function useSlide(ref, value, place) {
  const before = useRef(value);
  useLayoutEffect(() => {
    const from = before.current, time = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--move"));
    before.current = value;
    if (from !== value && time) ref.current.animate([{ transform: place(from, value) }, { transform: place(value, value) }], { duration: time, easing: "ease-out" });
  }, [value]);
}

/** An interval and its estimate on a track: `at` gives the place of a value in percent. */
export function Track({ low, value, high, at, paint, hollow, children }) {
  const ref = useRef();
  const known = [low, value, high].some((x) => x != null);
  const from = low == null ? 0 : at(low), to = high == null ? 100 : at(high), middle = value == null ? from : at(value);
  useSlide(ref, middle, (x) => `translateX(${x}%)`);
  return html`<span class="track">${children}<span class="moves" ref=${ref} style=${{ transform: `translateX(${middle}%)`, color: paint }}>
    ${known && html`<i class="reach" style=${{ left: `${from - middle}%`, width: `${to - from}%` }}></i>`}${value != null && html`<i class=${hollow ? "point hollow" : "point"}></i>`}</span></span>`;
}

const Grid = ({ axis }) => axis.ticks.map((tick) => html`<i class="tick" key=${tick} style=${{ left: `${axis.at(tick)}%` }}></i>`);

const Row = memo(({ row, place, axis, chosen, choose }) => {
  const ref = useRef();
  useSlide(ref, place, (x, now) => `translateY(${100 * (x - now)}%)`);
  return html`<li ref=${ref}><button class="line" aria-pressed=${String(Boolean(chosen))} aria-label=${said(row)} title=${said(row)} onClick=${() => choose(row.name)}>
    <span class="ranks">${ranks(row)}</span><${Named} name=${row.name} colour=${colour(row.name)} />
    <${Track} low=${row.low} value=${row.rating} high=${row.high} at=${axis.at} paint=${colour(row.name)} hollow=${row.open === false}><${Grid} axis=${axis} /><//>
    <span class="figure">${rated(row)}</span></button></li>`;
}, (a, b) => a.row === b.row && a.place === b.place && a.chosen === b.chosen && a.axis === b.axis);

/** A dot and its interval a target on one axis; each is a button that chooses it. */
export function Dots({ rows, a, b, choose, gauge, open }) {
  const now = useRef();
  now.current = choose;
  const [shown, more] = useFold(rows, [a, b]);
  const axis = useMemo(() => ratingScale(shown, innerWidth < 1000 ? 4 : 8), [rows, shown.length]);
  const held = document.activeElement?.closest(".ladder .line"); // a row that moves would lose the focus
  useLayoutEffect(() => { if (held?.isConnected && held !== document.activeElement) held.focus({ preventScroll: true }); });
  const groups = new Set(rows.map(({ component }) => component).filter((group) => group != null)).size;
  return html`<section aria-label="Ratings"><div class="line axis" aria-hidden="true"><span class="ranks">Rank</span><span class="named"></span>
      <span class="track">${axis.ticks.map((tick, i) => html`<span key=${i} style=${{ left: `${axis.at(tick)}%` }}>${count(tick)}</span>`)}</span><span class="figure">Rating</span></div>
    <ol class="ladder">${shown.flatMap((row, i) => [ // one list, so that a row keeps its place in the tree as it moves
      (groups > 1 || row.component == null) && row.component !== shown[i - 1]?.component && html`<li class="apart" key=${`group ${row.component}`}>${row.component == null ? "No vote rates these yet" : i ? "Not comparable with those above: no vote connects them" : "Connected by votes"}</li>`,
      html`<${Row} key=${`row ${row.name}`} row=${row} place=${i} axis=${axis} chosen=${row.name === a || row.name === b} choose=${(name) => now.current(name)} />`])}</ol>
    <p class="soft small">The dot is the rating, the line its 95 % interval; 400 points are odds of ten to one${gauge && `; ${gauge}`}.${rows.some(({ open }) => open === false) && " A hollow dot is a closed model."}${open && " Ranks count the closed models, too."} Choose two to compare them.</p>${more}</section>`;
}
