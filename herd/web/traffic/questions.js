import { named } from "../lib/applications.js";
import { colour, count, dollars, percent, PICO, plural, seconds } from "../lib/format.js";
import { grid } from "./window.js";

export const SHARES = ["p50", "p95", "p99"];
const MOST = 8; // groups with a line of their own; the table has all
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]]; // apart from each other where two have one colour

/** Milliseconds of a percentile of `what` (total, first_token). */
export const speed = (row, what, p) => row?.[`${what}_ms`]?.[p] ?? null;
const speeds = (what) => (totals) => SHARES.map((p) => `${p} ${seconds(speed(totals, what, p))}`).join(" · ");

/** One chart a question: [name, its answer over the whole time, a row's value, how a value is said, more]. */
export const QUESTIONS = [
  ["How many", (t) => plural(t.requests, "request"), (row) => row?.requests ?? 0, (n) => count(Math.round(n)), { stepped: true }],
  ["How much", (t) => dollars(t.cost), (row) => row?.cost ?? 0, dollars, { stepped: true, least: PICO / 100 }],
  ["How often wrong", (t) => (t.requests ? `${percent(t.errors / t.requests)}, ${count(t.errors)} of ${count(t.requests)}` : "–"), (row) => (row?.requests ? row.errors / row.requests : null), percent, { finish: "error" }],
  ["How fast: the whole answer", speeds("total"), "total", seconds, { least: 1000 }],
  ["How fast: the first token", speeds("first_token"), "first_token", seconds, { least: 1000 }],
];

export const called = (group) => (group ? named(group) : "none");

/** What the charts draw of what was read: `groups` (all, the busiest first), their `lines`, `times`, and the `charts`. `places` (group → place) is kept from one reading to the next, so that no line changes its place while somebody looks. */
export function drawn({ time, rows, totals, whole }, only, share, places) {
  const busiest = [...whole].sort((a, b) => b.requests - a.requests);
  for (const { group } of busiest) if (!places.has(group)) places.set(group, places.size);
  const placed = (rows) => [...rows].sort((a, b) => places.get(a.group) - places.get(b.group));
  const groups = placed(busiest);
  const worn = new Map(); // colour → how many lines have it
  const lines = placed(busiest.slice(0, MOST)).map(({ group }) => {
    const paint = colour(group ?? "");
    worn.set(paint, (worn.get(paint) ?? -1) + 1);
    return { name: called(group), group, colour: paint, dash: DASHES[worn.get(paint) % DASHES.length] };
  });
  const shown = lines.filter(({ group }) => !only || group === only);
  const { times, at } = grid(rows, time);
  const past = times.filter((t) => t <= Date.now() / 1000).length;
  const summed = only ? groups.find(({ group }) => group === only) ?? totals : totals;
  const along = (group, value) => times.map((_, i) => (i < past ? value(at(group)[i]) : null));
  const charts = QUESTIONS.map(([name, said, value, format, more]) => ({
    name, format, ...more, said: said(summed),
    series: typeof value !== "string" ? shown.map((line) => ({ ...line, values: along(line.group, value) }))
      : shown.length === 1 ? SHARES.map((p, i) => ({ ...shown[0], share: p, name: p, dash: DASHES[i], width: 2 - i / 2, values: along(shown[0].group, (row) => speed(row, value, p)) }))
      : shown.map((line) => ({ ...line, values: along(line.group, (row) => speed(row, value, share)) })),
  }));
  return { groups, lines, times, charts };
}
