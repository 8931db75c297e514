import { post } from "../lib/api.js";
import { count, figure } from "../lib/format.js";
import { html } from "../lib/html.js";
import { routeNamed, status } from "../lib/status.js";
import { notify } from "../lib/ui.js";

/** What was decided about a candidate, and the evidence for it. */
export function Verdict({ result, changed }) {
  status.use();
  const { decision, reason, name, current, candidate, metrics, pairs } = result;
  const serving = routeNamed(name)?.model;
  const undo = () => post(`routes/${encodeURIComponent(name)}/rollback`)
    .then(() => { notify(`${name} is ${current} again.`); changed(); }, (error) => notify(`Nothing was undone. ${error.message}`));
  const heading = {
    SWITCH: `Switch: ${candidate ?? "the candidate"} replaces ${current ?? "what was served"}`,
    STAY: `Stay with ${current ?? "what is served"}`, "NOT ENOUGH DATA": "Not enough data to decide",
  }[decision] ?? decision;
  const rows = [
    ["Pairs learned from", count(pairs?.train)], ["Pairs held out", count(pairs?.held_out ?? result.n)], ["Conversations", count(result.clusters)],
    ["Held-out pairs ranked right", change(metrics, "pairs_ranked_right", (x) => `${Math.round(100 * x)} %`)],
    ["Bits per byte of ordinary text", change(metrics, "bits_per_byte", figure)],
  ].filter(([, value]) => value && value !== "–");
  return html`<section class=${`verdict ${decision === "SWITCH" ? "yes" : ""}`} aria-label="Verdict"><h3>${heading}</h3><p>${reason}</p>
    ${result.low != null && html`<${Interval} ...${result} />`}
    <dl class="facts">${rows.map(([title, value]) => html`<div><dt>${title}</dt><dd>${value}</dd></div>`)}</dl>
    ${decision === "SWITCH" && (serving === candidate
      ? html`<p><button onClick=${undo}>Undo: serve ${current} again</button></p>`
      : serving && html`<p class="soft">Now ${name} is ${serving}.</p>`)}</section>`;
}

const change = (metrics, key, say) => metrics?.[key] != null && `${metrics.before?.[key] != null ? `${say(metrics.before[key])} → ` : ""}${say(metrics[key])}`;

/** The estimate and its interval on a line through zero: right of it, the candidate is better. */
function Interval({ estimate, low, high }) {
  const reach = 1.15 * Math.max(Math.abs(low), Math.abs(high), 1e-9);
  const x = (value) => 150 + (140 * value) / reach;
  return html`<figure class="interval"><svg viewBox="0 0 300 34" width="300" height="34" role="img" aria-label=${`Growth of the margin ${figure(estimate)}, interval ${figure(low)} to ${figure(high)}`}>
      <path class="zero" d="M150 4V30" /><path class="range" d=${`M${x(low)} 17H${x(high)}`} /><circle cx=${x(estimate)} cy="17" r="5" /></svg>
    <figcaption class="soft">Margin of the better answer grew by ${figure(estimate)} (95 % interval ${figure(low)} to ${figure(high)}); right of the line, the candidate is better.</figcaption></figure>`;
}
