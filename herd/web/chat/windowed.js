import { html, useEffect, useLayoutEffect, useReducer, useRef } from "../lib/html.js";

const BATCH = 6; // items drawn or left out together
const MARGIN = 800; // pixels drawn beyond each end of the view
const GUESS = 600; // a batch's height before any was measured, in pixels

/** Draws, of many items, those near the view of the scrolling element `box`; the others are empty height.
    When heights change, the end stays in view while `following.current`, else what is seen first stays where it is. */
export function Windowed({ box, following, items, draw }) {
  const [, redraw] = useReducer((n) => n + 1, 0);
  const count = Math.ceil(items.length / BATCH);
  const own = useRef({ from: count - 3, to: count, heights: new Map(), guess: null, anchor: null }).current;
  const from = Math.max(0, Math.min(own.from, count - 1));
  const to = Math.min(own.to, count);
  const key = (i) => items[i * BATCH].id;
  const height = (i) => own.heights.get(key(i)) ?? own.guess ?? GUESS;
  const between = (a, b) => { let sum = 0; for (let i = a; i < b; i++) sum += height(i); return sum; };

  const placeOf = (batch) => batch.getBoundingClientRect().top - box.current.getBoundingClientRect().top + box.current.scrollTop;

  own.look = () => { // which batches are near, and which of the drawn is seen first
    const { scrollTop, clientHeight } = box.current;
    let first = 0, y = 0;
    while (first < count - 1 && y + height(first) < scrollTop - MARGIN) y += height(first++);
    let end = first;
    while (end < count && y < scrollTop + clientHeight + MARGIN) y += height(end++);
    const edge = box.current.getBoundingClientRect().top;
    const seen = [...box.current.querySelectorAll(".batch")].find((batch) => batch.getBoundingClientRect().bottom > edge);
    own.anchor = seen && { seen, at: placeOf(seen) };
    if (first === own.from && end === own.to) return;
    Object.assign(own, { from: first, to: end });
    redraw();
  };
  useLayoutEffect(() => {
    const view = box.current;
    view.querySelectorAll(".batch").forEach((batch, i) => own.heights.set(key(from + i), batch.getBoundingClientRect().height));
    own.guess ??= between(from, to) / (to - from);
    if (following.current) view.scrollTop = view.scrollHeight;
    else if (own.anchor?.seen.isConnected) {
      const moved = placeOf(own.anchor.seen) - own.anchor.at;
      if (Math.abs(moved) >= 1) view.scrollTop += moved;
    }
    own.look();
  });
  useEffect(() => {
    const view = box.current;
    const look = () => own.look();
    let width = view.clientWidth;
    const observer = new ResizeObserver(() => {
      if (view.clientWidth !== width) { own.heights.clear(); own.guess = null; }
      width = view.clientWidth;
      redraw();
    });
    view.addEventListener("scroll", look);
    observer.observe(view);
    observer.observe(view.querySelector(".reading")); // an answer's details unfold
    return () => { view.removeEventListener("scroll", look); observer.disconnect(); };
  }, []);

  const drawn = [];
  for (let i = from; i < to; i++) drawn.push(html`<div class="batch" key=${key(i)}>${items.slice(i * BATCH, (i + 1) * BATCH).map(draw)}</div>`);
  return html`<div class="reading" style=${{ paddingTop: `${between(0, from)}px`, paddingBottom: `${between(to, count)}px` }}>${drawn}</div>`;
}
