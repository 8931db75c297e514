const whole = new Intl.NumberFormat("en");
export const count = (n) => (n == null ? "–" : whole.format(n));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** 12.3 M, 8.1 k: parameters and tokens. */
export function short(n) {
  if (n == null) return "–";
  for (const [size, unit] of [[1e9, " B"], [1e6, " M"], [1e3, " k"]]) {
    if (n >= size) return `${(n / size).toFixed(n / size < 100 ? 1 : 0)}${unit}`;
  }
  return String(Math.round(n));
}
export function bytes(n) {
  if (n == null) return "–";
  for (const [size, unit] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (n >= size) return `${(n / size).toFixed(n / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${n} B`;
}
export function seconds(ms) {
  if (ms == null) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
}
/** What of money is kept as: 10⁻¹² dollars. */
export const PICO = 1e12;
/** $12.30, and of less than a cent two figures that mean something. */
export function dollars(picos) {
  const amount = picos == null ? null : picos / PICO;
  if (!amount) return amount == null ? "–" : "$0";
  const digits = Math.abs(amount) < 0.01 ? { maximumSignificantDigits: 2 } : { minimumFractionDigits: 2, maximumFractionDigits: 2 };
  return `$${amount.toLocaleString("en", digits)}`;
}
export const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`);
/** A measured number with three figures that mean something. */
export const figure = (x) => (typeof x !== "number" ? String(x) : Number.isInteger(x) ? count(x) : String(+x.toPrecision(3)));

/** When it was, as short as is clear: 14:05 today, else 3 Nov. */
export function when(unix) {
  const date = new Date(unix * 1000);
  return date.toDateString() === new Date().toDateString()
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short" });
}
/** The same with its time of day, for what lies days back. */
export const moment = (unix) => { const day = when(unix), time = new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }); return day === time ? day : `${day}, ${time}`; };
export const clock = (date) => date?.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }) ?? "an earlier time";

/** A model keeps its colour on every page: a place in the categorical scale, from its name. */
export function colour(name = "") {
  let sum = 0;
  for (const char of name.split("@")[0]) sum = (sum * 31 + char.codePointAt(0)) % 6;
  return `var(--data-${sum + 1})`;
}
