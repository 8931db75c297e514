import { get } from "../lib/api.js";
import { address, asked, go } from "../lib/router.js";
import { RANGES } from "../traffic/window.js";

export const NAMES = ["query", "route", "target", "key", "finish", "feedback", "range", "since", "until"];
export const FINISHES = [["stop", "ended"], ["length", "cut at the limit"], ["tool_calls", "called a tool"], ["content_filter", "filtered"], ["cancelled", "cancelled"], ["error", "went wrong"]];
export const FEEDBACKS = [["any", "any"], ["good", "thumbs up"], ["bad", "thumbs down"], ["score", "a score"], ["correction", "a correction"], ["comment", "a comment"]];

/** What the address searches for, as the API wants it. */
export function filters() {
  const { range, ...given } = asked();
  const since = RANGES[range] && !given.since ? Math.floor(Date.now() / 1000 - RANGES[range][1]) : given.since;
  return Object.fromEntries(NAMES.filter((name) => name !== "range").map((name) => [name, name === "since" ? since : given[name]]).filter(([, value]) => value));
}
export const search = (patch, { part = "", replace = true } = {}) => go(address("/conversations", { ...asked(), ...patch }, part), { replace });
export const read = (more) => get(`generations${address("", { ...filters(), limit: 50, ...more })}`);

/** Generations as the conversations they belong to, the newest first: [{id, part, rows}]. */
export function grouped(rows) {
  const groups = new Map();
  for (const row of rows) {
    const part = row.conversation ? `c:${row.conversation}` : `g:${row.id}`;
    if (!groups.has(part)) groups.set(part, { part, conversation: row.conversation, rows: [] });
    groups.get(part).rows.push(row);
  }
  return [...groups.values()];
}

/** What a person, or a program, asked last. */
export function title({ request }) {
  const said = request?.messages?.findLast(({ role, content }) => role === "user" && content)?.content ?? request?.prompt;
  return typeof said === "string" && said.trim() ? said.trim().slice(0, 200) : "Text not kept";
}
