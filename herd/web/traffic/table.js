import { colour, count, dollars, moment, percent, seconds, short } from "../lib/format.js";
import { html, memo, useState } from "../lib/html.js";
import { Named } from "../parts.js";
import { called, SHARES, speed } from "./questions.js";

const COLUMNS = [
  ["Requests", (r) => count(r.requests)], ["Wrong", (r) => (r.errors ? `${count(r.errors)}, ${percent(r.errors / r.requests)}` : "0")],
  ...["total", "first_token"].flatMap((what) => SHARES.map((p) => [p, (r) => seconds(speed(r, what, p))])),
  ["Read", (r) => short(r.prompt_tokens)], ["Written", (r) => short(r.completion_tokens)], ["Cost", (r) => dollars(r.cost)],
];
const Head = ({ first }) => html`<thead><tr><th rowspan="2" scope="col">${first}</th><th colspan="2" scope="colgroup">How many</th><th colspan="3" scope="colgroup">Whole answer</th>
  <th colspan="3" scope="colgroup">First token</th><th colspan="2" scope="colgroup">Tokens</th><th scope="colgroup">How much</th></tr><tr>${COLUMNS.map(([name]) => html`<th scope="col">${name}</th>`)}</tr></thead>`;
const Cells = ({ row }) => COLUMNS.map(([, say]) => html`<td>${say(row)}</td>`);

/** The same numbers as the charts', by group and, unfolded, by step; a name or a time opens what is behind it. */
export const Table = memo(({ by, groups, rows, totals, link }) => {
  const [open, setOpen] = useState(false);
  const named = (group) => html`<${Named} name=${called(group)} colour=${colour(group ?? "")} />`;
  return html`<section><h2>In numbers</h2>
    <div class="wide-table" tabindex="0" role="region" aria-label=${`Traffic by ${by}, in numbers`}><table class="numbers"><${Head} first=${by} /><tbody>
      ${groups.map((row) => html`<tr key=${row.group}><th scope="row"><a href=${link(row.group)}>${named(row.group)}</a></th><${Cells} row=${row} /></tr>`)}
      <tr class="sum"><th scope="row">Together</th><${Cells} row=${totals} /></tr></tbody></table></div>
    <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Step by step</button>
    ${open && html`<div class="wide-table steps" tabindex="0" role="region" aria-label="Step by step"><table class="numbers"><${Head} first="time" /><tbody>
      ${[...rows].sort((a, b) => b.start - a.start || b.requests - a.requests).map((row) => html`<tr key=${`${row.start} ${row.group}`}><th scope="row"><a href=${link(row.group, row.start)}>${moment(row.start)} ${named(row.group)}</a></th><${Cells} row=${row} /></tr>`)}
    </tbody></table></div>`}</section>`;
}, (a, b) => a.groups === b.groups && a.names === b.names && a.rows === b.rows);
