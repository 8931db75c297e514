import { count } from "../lib/format.js";

/** A round scale over [low, high]: its ends, its ticks, and where a value lies on it in percent. */
export function scale(low, high, most = 6) {
  const rough = (high - low || 1) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * ([1, 2, 5].find((n) => n * size >= rough) ?? 10);
  const from = step * Math.floor(low / step), to = Math.max(step * Math.ceil(high / step), from + step);
  return {
    from, to, ticks: Array.from({ length: Math.round((to - from) / step) + 1 }, (_, i) => from + i * step),
    at: (value) => (100 * (Math.max(from, Math.min(to, value)) - from)) / (to - from),
  };
}

const OPEN = 50; // points that an interval without an end is seen of, at least

/** The scale of these rows' ratings. An interval that is much wider than all ratings together ends at the edge. */
export function ratingScale(rows, most) {
  const all = rows.map(({ rating, low, high }) => rating ?? low ?? high).filter((x) => x != null); // a bound stands for a rating that there is none of
  const ends = rows.flatMap(({ low, high }) => (low == null && high == null ? [] : [low ?? high - OPEN, high ?? low + OPEN]));
  if (!all.length) return scale(900, 1100, most);
  const least = Math.min(...all), best = Math.max(...all), room = Math.max(400, 0.75 * (best - least)); // of a few votes' worth
  return scale(Math.max(least - room, Math.min(...ends, least)), Math.min(best + room, Math.max(...ends, best)), most);
}

const whole = (x) => count(Math.round(x) || 0);
export const signed = (x, say = whole) => (x > 0 ? `+${say(x)}` : say(x).replace("-", "−"));
/** Both ends, or the one that is known. */
export const between = (low, high, say = whole) => (low != null && high != null ? `${say(low)} to ${say(high)}` : low != null ? `above ${say(low)}` : high != null ? `below ${say(high)}` : "–");
export const rated = (row) => (row.rating == null ? row.separated ?? "–" : whole(row.rating));
/** From the best to the worst rank that the votes allow. */
export const ranks = ({ best, worst }, to = "–") => (best == null ? "–" : best === worst ? String(best) : `${best}${to}${worst}`);
export const said = (row) => `${row.name}, ranks ${ranks(row, " to ")}, rating ${rated(row)}, 95 % interval ${between(row.low, row.high)}`;
