import { html, useEffect, useRef } from "../lib/html.js";
import { battle, ready, regenerate, repeatable, vote } from "./battle.js";

export const KEYS = { ArrowLeft: "left", ArrowUp: "tie", ArrowDown: "both_bad", ArrowRight: "right" };
const VOTES = [["left", "←", "Left", "Left is better"], ["tie", "↑", "Tie", "Tie: both are as good"], ["both_bad", "↓", "Both bad", "Both bad: neither is good"], ["right", "→", "Right", "Right is better"]];
const REASONS = ["accuracy", "helpfulness", "style", "brevity", "safety", "other"];
const set = (fields) => battle.set(fields);

/** Gives the focus to where the arrow keys vote and N goes on. */
export const focusVotes = () => document.querySelector("#votes")?.focus({ preventScroll: true });
/** Whoever is not writing goes on from the votes, or from what they revealed: `when` they are new. */
export function useHands(when) {
  useEffect(() => {
    const at = document.activeElement;
    if (when && (at === document.body || (at.id === "composer" && !at.value))) focusVotes();
  }, [when]);
}

/** The question, its four answers, and why; the vote takes the reasons along. */
export function Votes({ state }) {
  const can = ready(state);
  return html`<section class="votes" id="votes" tabindex="-1" aria-label="Your vote">
    ${state.why && html`<${Why} reasons=${state.reasons} comment=${state.comment} />`}
    <div class="four" role="group" aria-label="Which is better?">${VOTES.map(([outcome, key, name, title]) => html`<button key=${outcome} aria-label=${title} aria-keyshortcuts=${Object.keys(KEYS).find((one) => KEYS[one] === outcome)}
      disabled=${!can} onClick=${() => vote(outcome)}><kbd>${key}</kbd><span>${name}</span></button>`)}</div>
    <p class="line under soft"><button class="quiet unfolds" aria-expanded=${String(state.why)} onClick=${() => set({ why: !state.why })}>Say why</button>
      <span class=${`hint ${can || state.streaming ? "" : "said-why"}`}>${state.voting ? "Keeping your vote" : state.streaming ? "Both are answering" : can ? "Arrow keys vote; Esc first leaves a box" : "An answer is not whole: regenerate both"}</span>
      ${["arena", "pair"].includes(state.kind) && html`<button class="quiet" disabled=${!repeatable(state)} onClick=${regenerate}>Regenerate</button>`}</p></section>`;
}

function Why({ reasons, comment }) {
  const first = useRef();
  useEffect(() => { first.current.focus({ preventScroll: true }); }, []);
  const toggle = (name) => set({ reasons: reasons.includes(name) ? reasons.filter((one) => one !== name) : [...reasons, name] });
  return html`<fieldset class="reasoned"><legend class="hidden">Why, if you like</legend>
    <div class="reasons">${REASONS.map((name, i) => html`<label><input ref=${i ? null : first} type="checkbox" checked=${reasons.includes(name)} onChange=${() => toggle(name)} /> ${name}</label>`)}</div>
    <input class="wide" aria-label="Comment" placeholder="A comment, kept with your vote" maxlength="2000" value=${comment} onInput=${(event) => set({ comment: event.target.value })} /></fieldset>`;
}

/** The vote in words; who was who stands on the cards by now. */
export function outcomeWords({ outcome, left, right }) {
  const [winner, loser] = outcome === "right" ? [right, left] : [left, right];
  return { tie: `A tie: ${left.name} and ${right.name}`, both_bad: `Neither was good: ${left.name}, ${right.name}` }[outcome] ?? `${winner.name} over ${loser.name}`;
}

export function Result({ state, next }) {
  const { reveal } = state;
  return html`<section class="votes result" id="votes" tabindex="-1" aria-label="After your vote">
    <div role="status">${!reveal ? html`<p>This battle has expired: it takes no vote any more.</p>` : html`
      <p><b><bdi>${outcomeWords(reveal)}</bdi></b></p>
      ${reveal.void && html`<p class="void"><b>This vote does not count:</b> ${reveal.void === "leak" ? html`an answer says who wrote it${reveal.leak ? html`, in the words <q><bdi>${reveal.leak}</bdi></q>` : ""}.` : `${reveal.void}.`}</p>`}`}</div>
    <p class="line"><button class="primary" onClick=${next}>New round<kbd>N</kbd></button>
      ${reveal && html`<button aria-expanded=${String(state.picture)} onClick=${() => set({ picture: !state.picture })}>Share as a picture</button>`}
      <a href="/leaderboard">Leaderboard</a></p></section>`;
}

