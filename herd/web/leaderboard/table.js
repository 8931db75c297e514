import { colour, count, dollars, PICO, seconds } from "../lib/format.js";
import { html, memo } from "../lib/html.js";
import { Named } from "../parts.js";
import { useFold } from "./dots.js";
import { between, rated, ranks } from "./numbers.js";

export const MEASURES = { cost: ["Cost a reply", (x) => dollars(PICO * x)], first_token_ms: ["First token", seconds], total_ms: ["Whole reply", seconds] };
const measured = (found, say) => (found?.median == null ? "–" : html`${say(found.median)}${found.low != null && found.low < found.high && html` <span class="soft">(${say(found.low)} to ${say(found.high)})</span>`}`);
/** Only what a browser opens as a page. */
const link = (card) => (/^(https?:\/\/|\/(?![\/\\]))/i.test(card ?? "") ? card : null);
/** How many votes, if they were not there, put a target below the next one. */
const flips = ({ flip }) => (!flip ? "–" : flip.votes == null ? "none found" : `${count(flip.votes)}, below ${flip.below}`);

const COLUMNS = [
  ["Rank", (r) => ranks(r)], ["Rating", rated], ["95 % interval", (r) => between(r.low, r.high)], ["Votes", (r) => count(r.votes)],
  ["Won", (r) => count(r.wins)], ["Lost", (r) => count(r.losses)], ["Tied", (r) => count(r.ties)], ["Both bad", (r) => count(r.both_bad)], ["Votes that would turn it", flips],
  ...Object.entries(MEASURES).map(([key, [name, say]]) => [name, (r) => measured(r[key], say)]),
  ["Weights", (r) => ({ true: "open", false: "closed" })[r.open] ?? "–"], ["Licence", (r) => r.licence ?? "–"],
  ["Card", (r) => link(r.card) ? html`<a href=${link(r.card)} target=${r.card.startsWith("/") ? null : "_blank"} rel="noopener noreferrer">card<span class="hidden"> of ${r.name}</span></a>` : "–"],
];

/** The same numbers as the dots', and what else is known of each target. */
export const Table = memo(({ rows, a, b }) => {
  const [shown, more] = useFold(rows, [a, b]);
  return html`<section><h2>In numbers</h2><div class="wide-table" tabindex="0" role="region" aria-label="The leaderboard in numbers"><table class="numbers">
    <thead><tr><th scope="col">Target</th>${COLUMNS.map(([name, say]) => html`<th scope="col" class=${say === flips ? "words" : ""}>${name}</th>`)}</tr></thead>
    <tbody>${shown.map((row) => html`<tr key=${row.name} class=${row.name === a || row.name === b ? "chosen" : ""}><th scope="row"><${Named} name=${row.name} colour=${colour(row.name)} />${row.new && html` <small>new</small>`}</th>
      ${COLUMNS.map(([name, say]) => html`<td key=${name} class=${say === flips ? "words" : ""}>${say(row)}</td>`)}</tr>`)}</tbody></table></div>
    <p class="soft small">Cost and times are those of the median reply of the last 30 days, with their 95 % intervals.</p>${more}</section>`;
}, (x, y) => x.rows === y.rows && x.a === y.a && x.b === y.b);
