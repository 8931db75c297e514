import { colour, count } from "../lib/format.js";
import { html, memo, useLayoutEffect, useRef, useState } from "../lib/html.js";
import { Choice } from "../parts.js";
import { between, rated, ratingScale } from "./numbers.js";
import { MEASURES } from "./table.js";

const FREE = 5; // percent of the width, for what costs nothing: a logarithm has no place for it

/** Places of amounts in percent, by their logarithm, with ticks at 1, 2, 5 of each power. */
function amounts(rows, key) {
  const all = rows.flatMap((row) => Object.values(row[key])).filter((x) => x > 0);
  const free = rows.some((row) => !(row[key].median > 0)), from = Math.log10(Math.min(...all) || 1) - 0.1, to = Math.max(Math.log10(Math.max(...all) || 1) + 0.1, from + 0.5);
  const start = free ? 3 * FREE : 2, at = (x) => (x > 0 ? start + ((98 - start) * (Math.log10(x) - from)) / (to - from) : FREE);
  const powers = Array.from({ length: Math.ceil(to) - Math.floor(from) + 1 }, (_, i) => 10 ** (Math.floor(from) + i));
  const marks = powers.flatMap((p) => (to - from > 2.5 ? [p] : to - from > 1.2 ? [p, 3 * p] : [p, 2 * p, 5 * p])).filter((x) => Math.log10(x) > from && Math.log10(x) < to);
  return { at, ticks: free ? [0, ...marks] : marks };
}

/** Those that no other beats at their price or less, the cheapest first. */
export function frontier(rows, key) {
  const sorted = [...rows].sort((x, y) => x[key].median - y[key].median || y.rating - x.rating);
  return sorted.filter((row, i) => sorted.slice(0, i).every((other) => other.rating < row.rating));
}

/** Places for names beside their dots, {x, y in percent}, so that none lies over another; one that finds no room is left out. */
function labels(named, width, height) {
  const placed = [];
  for (const { name, x, y } of named) {
    const text = name.length > 24 ? `${name.slice(0, 23)}…` : name, wide = 7 * text.length, px = (x * width) / 100, py = (y * height) / 100;
    const box = [[8, -8], [-8 - wide, -8], [8, 16], [-8 - wide, 16]].map(([dx, dy]) => ({ text, name, left: px + dx, top: py + dy }))
      .find(({ left, top }) => left > 0 && left + wide < width && top > 8 && top < height && placed.every((other) => left > other.left + 7 * other.text.length || left + wide < other.left || Math.abs(top - other.top) > 14));
    if (box) placed.push(box);
  }
  return placed;
}

/** Rating against what a reply costs, or takes; the line joins those that are worth their price. */
export const Pareto = memo(({ rows, a, b }) => {
  const [key, setKey] = useState("cost");
  const [title, say] = MEASURES[key];
  const known = rows.filter((row) => row.rating != null && row[key]?.median != null);
  const best = frontier(known, key), listed = best.map((row) => `${row.name} (${rated(row)}, ${say(row[key].median)})`).join(", ");
  return html`<section class="pareto"><h2>What it costs</h2><${Choice} label="Against" value=${key} options=${Object.entries(MEASURES).map(([name, [words]]) => [name, words])} onChange=${setKey} />
    ${known.length ? html`<${Scatter} ...${{ rows: known, best, key_: key, title, say, listed, chosen: [a, b] }} />
      <p class="soft small">Up is better, left is ${key === "cost" ? "cheaper" : "faster"}; lines are 95 % intervals of the rating and of the median reply. Nothing beats, at its price or less: ${listed}.${known.length < rows.length && ` Not measured: ${rows.length - known.length} of ${rows.length}.`}</p>`
      : html`<p class="soft">${title} is not measured yet: battles played here measure it, imported votes do not.</p>`}</section>`;
}, (x, y) => x.rows === y.rows && x.a === y.a && x.b === y.b);

function Scatter({ rows, best, key_, title, say, listed, chosen }) {
  const box = useRef();
  const [size, setSize] = useState([0, 0]);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([{ contentRect }]) => setSize([contentRect.width, contentRect.height]));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  const up = ratingScale(rows, 5), along = amounts(rows, key_);
  const x = (value) => `${along.at(value)}%`, y = (value) => `${100 - up.at(value)}%`;
  const steps = best.slice(1).flatMap((row, i) => [[best[i], row, "flat"], [best[i], row, "rise"]]);
  const last = best.at(-1), named = rows.filter((row) => chosen.includes(row.name) || best.includes(row) || rows.length < 12).sort((p, q) => chosen.includes(q.name) - chosen.includes(p.name) || q.rating - p.rating);
  return html`<div class="scatter"><span class="up soft small" aria-hidden="true">rating</span>
    <svg ref=${box} role="img" aria-label=${`Rating against ${title.toLowerCase()}. Not beaten at its price or less: ${listed}`}>
      ${up.ticks.map((tick) => html`<line key=${tick} class="rule" x1="0" x2="100%" y1=${y(tick)} y2=${y(tick)} /><text key=${`t${tick}`} x="-6" y=${y(tick)} dy="4" text-anchor="end">${count(tick)}</text>`)}
      ${steps.map(([from, to, kind], i) => html`<line key=${`f${i}`} class="frontier" x1=${x((kind === "flat" ? from : to)[key_].median)} x2=${x(to[key_].median)} y1=${y(from.rating)} y2=${y((kind === "flat" ? from : to).rating)} />`)}
      <line class="frontier" x1=${x(last[key_].median)} x2="100%" y1=${y(last.rating)} y2=${y(last.rating)} />
      ${rows.map((row) => html`<g key=${row.name} style=${{ color: colour(row.name) }}><title>${`${row.name}: rating ${rated(row)} (${between(row.low, row.high)}), ${title.toLowerCase()} ${say(row[key_].median)} (${between(row[key_].low, row[key_].high, say)})`}</title>
        <line x1=${x(row[key_].low ?? row[key_].median)} x2=${x(row[key_].high ?? row[key_].median)} y1=${y(row.rating)} y2=${y(row.rating)} /><line x1=${x(row[key_].median)} x2=${x(row[key_].median)} y1=${y(row.low ?? up.from)} y2=${y(row.high ?? up.to)} />
        <circle cx=${x(row[key_].median)} cy=${y(row.rating)} r="5" class=${row.open === false ? "hollow" : ""} /></g>`)}
      ${labels(named.map((row) => ({ name: row.name, x: along.at(row[key_].median), y: 100 - up.at(row.rating) })), ...size).map(({ name, text, left, top }) => html`<text key=${`n${name}`} class="name" x=${left} y=${top}>${text}</text>`)}
    </svg><div class="below soft small" aria-hidden="true">${along.ticks.map((tick) => html`<span key=${tick} style=${{ left: x(tick) }}>${say(tick)}</span>`)}</div><p class="soft small along" aria-hidden="true">${title}${along.ticks[0] !== 0 || along.ticks.length > 1 ? ", logarithmic" : ""}</p></div>`;
}
