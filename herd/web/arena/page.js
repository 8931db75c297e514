import { Composer } from "../chat/composer.js";
import { PROMPTS } from "../chat/empty.js";
import { get } from "../lib/api.js";
import { colour } from "../lib/format.js";
import { html, useEffect, useState } from "../lib/html.js";
import { address, asked, go } from "../lib/router.js";
import { status } from "../lib/status.js";
import { focusComposer, notify, ui } from "../lib/ui.js";
import { Choice } from "../parts.js";
import { Failed, Top } from "../shell.js";
import { battle, leave, open, openStored, ready, send, vote } from "./battle.js";
import { Picture } from "./picture.js";
import { Turns } from "./turns.js";
import { focusVotes, KEYS, Result, useHands, Votes } from "./vote.js";

const MODES = [["arena", "Blind"], ["pair", "Chosen pair"], ["stored", "Stored pairs"]];

/** What the address asks for: mode, the chosen pair (default: the first two targets). */
function wanted(part, kind, targets) {
  const { mode = part ? kind : "arena", left = targets[0], right = targets.find((name) => name !== left) } = asked();
  return { mode: MODES.some(([name]) => name === mode) ? mode : "arena", left, right };
}

/** A round like this one: the same mode, the same pair. */
const begin = ({ mode, left, right }) => {
  const to = address("/arena", mode === "pair" ? { mode, left, right } : { mode: mode === "arena" ? null : mode });
  leave();
  if (mode === "stored" && to === location.pathname + location.search + location.hash) openStored();
  go(to);
  requestAnimationFrame(focusComposer);
};

export function Arena({ part }) {
  const now = battle.use();
  const state = part && part !== now.id ? { ...now, phase: "loading", reveal: null, picture: false } : now; // in the moment before it is asked for
  const { data } = status.use();
  const targets = data?.arena ?? [];
  const want = wanted(part, state.kind, targets);
  const [progress, setProgress] = useState("");
  useEffect(() => { get("leaderboard").then((found) => setProgress(found.progress), () => {}); }, []); // nice to know, nothing more
  useEffect(() => {
    if (part) open(part);
    else if (want.mode === "stored") openStored();
    else leave();
  }, [part, want.mode === "stored"]);
  const next = () => begin(want);
  useKeys(next);
  const names = want.mode === "pair" && want.left && want.right ? want : null;
  const done = state.state !== "open";
  useHands(state.phase === "ready" && done ? "done" : ready(state) && "ready");
  const writes = state.phase === "ready" && !done && want.mode !== "stored" && state.kind !== "embed" && state.kind !== "stored";
  return html`<main id="main" class="page arena"><${Top} route=""><h1>Arena</h1><//>
    <div class="modes"><${Choice} label="Mode" value=${want.mode} options=${MODES} onChange=${(mode) => begin({ ...want, mode })} />
      ${want.mode === "pair" && html`<${Pair} want=${want} targets=${targets} fixed=${Boolean(state.id)} />`}
      <span class="progress soft" role="status">${state.reveal?.progress ?? progress}</span></div>
    <div class="column">
      ${state.phase === "missing" ? html`<${Says} title="This battle is not here" run=${next} action="Begin a new one">It may have been deleted, or its address is not whole.<//>`
        : state.phase === "foreign" ? html`<${Says} title="This battle is somebody else’s" run=${next} action="Begin one of your own">Only the browser that began a battle sees it, so that nobody votes for another.<//>`
        : state.phase === "nothing" ? html`<${Says} title="No stored pair waits for you" run=${() => begin({ mode: "arena" })} action="Begin a blind battle">Two kept answers to one prompt come here to be judged, without writing new ones.<//>`
        : state.phase === "loading" ? (state.error ? html`<div class="thread"></div>` : html`<${Skeleton} />`)
        : state.turns.length ? html`<${Turns} state=${state} names=${names} />` : html`<${Empty} want=${want} />`}
      ${state.picture && state.reveal && html`<${Picture} state=${state} close=${() => { battle.set({ picture: false }); focusVotes(); }} />`}
      ${state.error && html`<${Failed} ...${state.error} dismiss=${() => battle.set({ error: null })} />`}
      <div class=${state.phase === "ready" && (done || state.turns.length) ? "hands" : ""}>
        ${state.phase === "ready" && (done ? html`<${Result} state=${state} next=${next} />` : state.turns.length > 0 && html`<${Votes} state=${state} />`)}
        ${writes && html`<${Write} key="write" state=${state} want=${want} />`}</div>
    </div></main>`;
}

function Write({ state, want }) {
  const given = { kind: want.mode, targets: [want.left, want.right] };
  const talk = { set: battle.set, route: "both", send: (text) => send(text, given).then(focusVotes) };
  const path = state.turns.map(({ prompt }) => ({ role: "user", content: prompt }));
  return html`<${Composer} session=${talk} path=${path} focus=${!path.length} state=${{ text: state.text, phase: state.turns.length && !ready(state) ? "busy" : state.phase }} />`;
}

/** Arrows vote and N goes on, where nobody is writing, choosing or scrolling. */
function useKeys(next) {
  useEffect(() => {
    const key = (event) => {
      const { target } = event, now = battle.get(), { palette, help } = ui.get();
      if (event.defaultPrevented || event.isComposing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || palette || help) return;
      if (event.key === "Escape" && target.closest("input, textarea, .battle")) { event.preventDefault(); target.blur(); focusVotes(); }
      if (target.closest("input:not([type=checkbox]), textarea, select, [contenteditable], .battle")) return;
      const outcome = KEYS[event.key];
      if (outcome && ready(now)) {
        event.preventDefault();
        if (now.text.trim()) notify("Your next message is not sent. Send it or clear it, then vote.");
        else vote(outcome);
      }
      const onward = event.key === "n" || (event.key === "Enter" && !target.closest("a, button, label, summary"));
      if (onward && now.state !== "open") { event.preventDefault(); next(); }
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  });
}

function Pair({ want, targets, fixed }) {
  const names = [...new Set([want.left, ...targets, want.right].filter(Boolean))];
  const pick = (side) => (event) => go(address("/arena", { mode: "pair", left: want.left, right: want.right, [side]: event.target.value }), { replace: true });
  return html`<span class="two">${["left", "right"].map((side) => html`<label><i class="swatch" style=${{ background: colour(want[side]) }}></i><span class="hidden">${side}</span>
    <select aria-label=${`Target at the ${side}`} value=${want[side]} disabled=${fixed} onChange=${pick(side)}>${names.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`)}</span>`;
}

const Says = ({ title, children, run, action }) => html`<div class="thread"><div class="empty"><h2>${title}</h2><p>${children}</p><button class="primary" onClick=${run}>${action}</button></div></div>`;

function Empty({ want }) {
  const same = want.mode === "pair" && (!want.right || want.left === want.right);
  return html`<div class="thread"><div class="empty"><h2>Which of two is better?</h2>
    <p>${same ? "Choose two different targets above; one prompt goes to both." : want.mode === "pair" ? "Write one prompt: the two you chose answer side by side, and you say which is better."
      : "Write one prompt: two models answer without their names, you say which is better, and only then see who they were."}</p>
    <ul class="prompts">${PROMPTS.map((text) => html`<li><button disabled=${same} onClick=${() => send(text, { kind: want.mode, targets: [want.left, want.right] }).then(focusVotes)}>${text}</button></li>`)}</ul></div></div>`;
}

const Skeleton = () => html`<div class="thread battle" aria-busy="true" role="status" aria-label="Loading the battle"><section class="round"><div class="bone mine"></div>
  <div class="pair"><div class="bone side"></div><div class="bone side"></div></div></section></div>`;
