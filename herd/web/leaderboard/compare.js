import { get } from "../lib/api.js";
import { colour, count, percent } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useReading } from "../parts.js";
import { Failed } from "../shell.js";
import { Track } from "./dots.js";
import { between, signed } from "./numbers.js";

/** Which of two is better, and how sure: in a sentence, with the numbers behind it. */
export function Compare({ names, a, b, raters, version, beside, turn }) {
  const both = a && b && a !== b;
  const { data, error, load } = useReading(async () => both && get(`leaderboard/compare?${new URLSearchParams({ a, b, raters })}`), JSON.stringify([a, b, raters, version]));
  const found = data && data.a === a && data.b === b ? data : null;
  const pick = (label, value, other, name) => html`<label><span class="hidden">${label}</span><select value=${value ?? ""} onChange=${(event) => turn({ [name]: event.target.value || null })}>
    <option value="">choose one</option>${[...new Set([...names, ...(value ? [value] : [])])].map((one) => html`<option key=${one} value=${one} disabled=${one === other}>${one}</option>`)}</select></label>`;
  return html`<section class=${`versus ${both ? "held" : ""}`} aria-label="Compare two targets">
    <p class="pair"><b>Which is better?</b> ${pick("First target", a, b, "a")} or ${pick("Second target", b, a, "b")}
      ${(a || b) && html`<button class="quiet" onClick=${() => turn({ a: null, b: null })}>Clear</button>`}</p>
    <div class="told" role="status">${found ? html`<p class="answer">${found.sentence}</p>`
      : html`<p class="answer soft">${both ? (error ? "" : "Reading the votes between them …") : a || b ? "Choose one more." : "Choose two targets here, or two dots below."}</p>`}</div>
    ${both && error && !found && html`<${Failed} error=${error} kept="The leaderboard stays as it is." retry=${load} />`}
    ${found && html`<div class="behind"><${Share} ...${found} />
      <dl><div><dt>Votes between them</dt><dd>${count(found.votes)}</dd></div>
        <div><dt>To decide</dt><dd>${found.decision === "NOT ENOUGH DATA" ? (found.needed == null ? "not known yet" : `about ${count(+found.needed.toPrecision(2))} more`) : "decided"}</dd></div>
        ${found.difference?.estimate != null && html`<div><dt>Rating, ${a} less ${b}</dt><dd>${signed(found.difference.estimate)} (${between(found.difference.low, found.difference.high, signed)})</dd></div>`}
        ${found.flip != null && html`<div><dt>Votes that would turn it</dt><dd>${count(found.flip)}</dd></div>`}</dl></div>
      <p class="soft small">The sentence is of the votes between the two and holds however often you look; the ratings are of all votes, their interval of one look. ${beside}</p>`}</section>`;
}

/** The share of votes for the first, ties as halves, on a track whose middle is even. */
function Share({ a, estimate, low, high }) {
  if (estimate == null) return null;
  const [share, least, most] = [estimate, low, high].map((x) => Math.max(0, Math.min(1, 0.5 + x)));
  const words = `${percent(share)} (${percent(least)} to ${percent(most)})`;
  return html`<figure><div role="img" aria-label=${`Share of the votes for ${a}: ${words}`}><${Track} low=${least} value=${share} high=${most} at=${(x) => 100 * x} paint=${colour(a)}><i class="tick even"></i><//></div>
    <figcaption class="soft small">${a} was preferred in ${words}, ties as halves; valid at any time</figcaption></figure>`;
}
