export const RANGES = { "1h": ["1 hour", 3600], "24h": ["24 hours", 86400], "7d": ["7 days", 604800], "30d": ["30 days", 2592000] };
const STEPS = [10, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400];
const MOST = 72; // steps in a chart

/** The time that an address asks for, in whole steps (unix seconds); `fixed` where it does not move on. */
export function span({ since, until, range }, now = Date.now() / 1000) {
  const to = Number(until) || now;
  const from = Number(since) || to - (RANGES[range] ?? RANGES["24h"])[1];
  const step = STEPS.find((size) => (to - from) / size <= MOST) ?? 86400 * Math.ceil((to - from) / 86400 / MOST);
  return { since: Math.floor(from / step) * step, until: Math.ceil(to / step) * step, step, fixed: Boolean(until) };
}

/** One row a group and step as a place in time: `at(group)[i]` is its row at `times[i]`, or none. */
export function grid(rows, { since, until, step }) {
  const times = Array.from({ length: Math.max(1, Math.round((until - since) / step)) }, (_, i) => since + i * step);
  const groups = new Map();
  for (const row of rows) {
    if (!groups.has(row.group)) groups.set(row.group, []);
    groups.get(row.group)[Math.round((row.start - since) / step)] = row;
  }
  return { times, at: (group) => groups.get(group) ?? [] };
}

/** What a clock in the person's place shows, as an input of type datetime-local has it; and back. */
export const toLocal = (unix) => new Date((unix - 60 * new Date(unix * 1000).getTimezoneOffset()) * 1000).toISOString().slice(0, 16);
export const fromLocal = (text) => new Date(text).getTime() / 1000;
