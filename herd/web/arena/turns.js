import { Announcer } from "../chat/thread.js";
import { Waiting } from "../chat/parts.js";
import { colour, count, dollars, PICO, seconds } from "../lib/format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { pending, SIDES } from "./battle.js";

export const PLACES = { left: "Left", right: "Right" };
const NEAR = 160; // pixels from the end that still count as being there
const END = { length: "cut at the token limit", cancelled: "stopped", error: "broke off", content_filter: "held back by its provider" };
const WON = "your choice", CHOSEN = { tie: "a tie", both_bad: "not good" };
export const points = (x) => count(Math.round(x));

/** ▲ 4.2: which way a rating went, and how far. */
export function change(x) {
  if (x == null) return null;
  const size = Math.abs(x) < 0.05 ? "0" : Math.abs(x).toFixed(1);
  return size === "0" ? ["level", "unchanged", "±0"] : x > 0 ? ["up", `up ${size}`, `▲ ${size}`] : ["down", `down ${size}`, `▼ ${size}`];
}

/** The rating's interval, whether anybody may have the weights, what the reply cost and how long it took, as far as they are known. */
export const facts = ({ low, high, open, licence, cost, total_ms: took }) => [
  low != null && high != null && `95 % ${points(low)} to ${points(high)}`,
  [open != null && (open ? "open" : "closed"), licence].filter(Boolean).join(", "), cost != null && (cost ? dollars(cost * PICO) : "free"), took != null && seconds(took),
].filter(Boolean);

/** Who a side is: its place before the vote, its name and numbers after it, in the same two lines. */
function Who({ side, name, told, chosen }) {
  const moved = told && change(told.change);
  return html`<header class="who"><p><span class="place soft">${PLACES[side]}</span>
      ${name && html`<i class="swatch" style=${{ background: colour(name) }}></i><b><bdi>${name}</bdi></b>`}
      ${chosen && html`<span class="chosen">${chosen}</span>`}</p>
    <p class="soft">${told ? html`<b class="rating">${told.rating == null ? "not rated yet" : points(told.rating)}</b>
        ${moved && html`<span class=${`change ${moved[0]}`} role="img" aria-label=${moved[1]}>${moved[2]}</span>`} <span><bdi>${facts(told).join(" · ")}</bdi></span>`
      : name ? "chosen by you" : "named after your vote"}</p></header>`;
}

function Side({ side, reply, name, told, chosen, streaming }) {
  const off = pending(reply) && !streaming;
  return html`<article class=${`side ${chosen === WON ? "won" : ""}`} aria-label=${`${PLACES[side]} answer`} aria-busy=${pending(reply) && streaming ? "true" : null}>
    <${Who} side=${side} name=${name} told=${told} chosen=${chosen} />
    ${reply.text ? html`<${Markdown} text=${reply.text} />` : pending(reply) && streaming ? html`<${Waiting} />` : !reply.failed && !off && html`<p class="soft">It said nothing.</p>`}
    ${reply.failed && html`<p class="bad-text failed" role="alert"><bdi>${reply.failed}</bdi></p>`}
    ${(off || END[reply.finish]) && html`<p class="soft end">${off ? "broke off" : END[reply.finish]}</p>`}</article>`;
}

/** Every prompt with its two answers beneath, side by side. */
export function Turns({ state, names }) {
  const { turns, reveal, streaming } = state;
  const box = useRef();
  const [away, setAway] = useState(false);
  const scrolled = () => { const { scrollHeight, scrollTop, clientHeight } = box.current; setAway(scrollHeight - scrollTop - clientHeight > NEAR); };
  // A new prompt comes to the top and stays there: with two answers at once there is no one end to follow.
  useEffect(() => { box.current.lastElementChild.scrollIntoView(); }, [turns.length]);
  useLayoutEffect(scrolled);
  const narrow = matchMedia("(max-width: 760px)").matches; // one card fills the screen there, the other waits beside it
  const chosen = (side) => reveal && (CHOSEN[reveal.outcome] ?? (reveal.outcome === side && WON));
  const now = turns.at(-1);
  const said = streaming && now && { id: String(turns.length), content: `Left: ${now.left.text}${pending(now.left) ? "" : ` Right: ${now.right.text}`}` };
  return html`<div class="thread battle" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-label="Prompts and answers" aria-live="off">
    ${turns.map((turn, i) => html`<section key=${i} class="round" aria-label=${`Turn ${i + 1}`}><p class="said">${turn.prompt}</p>
      <div class="pair" ...${narrow && { tabindex: 0, role: "group", "aria-label": "Both answers; they scroll sideways" }}>${SIDES.map((side) => html`<${Side} key=${side} side=${side} reply=${turn[side]} name=${reveal?.[side].name ?? names?.[side]} 
        ...${i === turns.length - 1 ? { told: reveal?.[side], chosen: chosen(side), streaming } : {}} />`)}</div></section>`)}</div>
    <div class="end-place">${away && html`<button class="to-end" onClick=${() => { box.current.scrollTop = box.current.scrollHeight; }}>Jump to the end</button>`}</div>
    <${Announcer} message=${said} />`;
}
