import { html, useEffect, useRef } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { focusComposer } from "../lib/ui.js";
import { Pace, Waiting } from "./parts.js";

const OUTCOMES = [["a", "this", "The first answer is better"], ["b", "that", "The second answer is better"],
  ["tie", "equal", "Both are as good"], ["both_bad", "neither", "Neither is good"]];
const SAID = { tie: "equal", both_bad: "neither" };

/** Two answers to one prompt, side by side, and the question which is better. */
export function Compare({ session, compare, a, b, writing }) {
  const ref = useRef();
  // The button that asked for the second answer is gone: who came by keyboard goes on from here.
  useEffect(() => { if (document.activeElement === document.body) ref.current.focus({ preventScroll: true }); }, []);
  const go = (message) => { session.follow(message.id); focusComposer(); };
  const ready = !writing && a?.generation && b?.generation;
  return html`<section class="compare" ref=${ref} tabindex="-1" aria-label="Two answers to compare">
    <div class="pair">${[[a, "this"], [b, "that"]].map(([message, name]) => html`<article class="side" aria-label=${`Answer: ${name}`} aria-busy=${message?.pending ? "true" : null}>
      <h3>${name}</h3>${message?.content ? html`<${Markdown} text=${message.content} />` : html`<${Waiting} />`}
      ${message && !message.pending && html`<${Pace} stats=${message.stats} />`}</article>`)}</div>
    ${compare.voted
      ? html`<p class="ask"><span>Kept as a vote: ${SAID[compare.voted]}. Go on with</span>
          <button onClick=${() => go(a)}>this</button><button onClick=${() => go(b)}>that</button></p>`
      : html`<p class="ask"><span id="which">Which is better?</span>${OUTCOMES.map(([outcome, name, title]) => html`
          <button title=${title} aria-describedby="which" disabled=${!ready} onClick=${() => session.vote(outcome).then(focusComposer)}>${name}</button>`)}
          <button class="quiet" disabled=${writing} onClick=${() => session.follow(b.id)}>Skip</button></p>`}
  </section>`;
}
