// A route's definition, as herd.toml and the API have it, as the fields of a form, and back; every field is text or a list.

/** [path, name, hint, what an empty field means] */
export const NUMBERS = [
  ["retries", "Retries", "more attempts at a target before the next has its turn", "1"],
  ["timeout.first_token", "First token within", "seconds, of each attempt", "60"],
  ["timeout.total", "Whole answer within", "seconds, over all attempts", "600"],
  ["concurrency", "At once", "requests at a time", "no limit"],
];
export const SHADOW = [["shadow.share", "Share", "of the requests, from 0 to 1", "0.01"], ["shadow.concurrency", "At once", "copies at a time", "2"], ["shadow.budget", "Budget", "dollars a day", "no limit"]];
export const KEEP = [["text", "text and numbers"], ["metadata", "numbers only"], ["none", "nothing"]];
export const USE = [["evaluate", "evaluate"], ["train", "train"]];
export const REDACT = [["email", "e-mail addresses"], ["phone", "phone numbers"], ["card", "card numbers"], ["iban", "bank accounts"], ["secret", "keys and secrets"], ["ip", "IP addresses"]];
const LISTS = ["fallbacks", "drop", "use", "redact"];
const TEXTS = [...NUMBERS, ...SHADOW].map(([path]) => path).concat("shadow.target", "keep", "retain_days");
const EMPTY = { keep: "text", use: ["evaluate"] };

export function read(definition) {
  const whole = { ...EMPTY, ...definition };
  const dig = (path) => path.split(".").reduce((at, key) => at?.[key], whole);
  const form = { targets: (whole.targets ?? []).map((one) => (typeof one === "string" ? { target: one, weight: "" } : { target: one.target, weight: one.weight == null ? "" : String(one.weight) })) };
  for (const path of TEXTS) form[path] = dig(path) == null ? "" : String(dig(path));
  for (const name of LISTS) form[name] = [...(whole[name] ?? [])];
  return form;
}

/** What a number's field says; words that are none go as they are, for the server to name. */
const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text.trim() : Number(text));

export function write(form) {
  const definition = { targets: form.targets.map(({ target, weight }) => (weight.trim() ? { target: target.trim(), weight: number(weight) } : target.trim())) };
  const fallbacks = form.fallbacks.map((name) => name.trim());
  if (fallbacks.length) definition.fallbacks = fallbacks;
  for (const path of TEXTS) {
    const text = form[path].trim();
    if (!text || (path.startsWith("shadow.") && !form["shadow.target"].trim()) || (path === "keep" && text === EMPTY.keep)) continue;
    const value = path === "keep" || path === "shadow.target" ? text : number(text);
    const [table, name] = path.split(".");
    if (name) (definition[table] ??= {})[name] = value; else definition[path] = value;
  }
  for (const name of ["drop", "redact"]) if (form[name].length) definition[name] = form[name];
  if (String(form.use) !== String(EMPTY.use)) definition.use = form.use;
  return definition;
}

const said = (pairs) => (value) => [].concat(value).map((one) => pairs.find(([key]) => key === one)?.[1] ?? one).join(", ");
const SAY = [
  ["fallbacks", "Falls back to", (list) => list.join(", then ")], ...NUMBERS.map(([path, name, , empty]) => [path, name, (text) => `${text || empty}${path.startsWith("timeout") ? " s" : ""}`]),
  ["shadow.target", "Shadow copies to"], ["shadow.share", "Shadow share", (text) => text || "0.01"], ["shadow.concurrency", "Shadow copies at once", (text) => text || "2"], ["shadow.budget", "Shadow budget a day", (text) => text && `$${text}`],
  ["keep", "Keeps", said(KEEP)], ["use", "May be used to", said(USE)], ["redact", "Blacks out", said(REDACT)], ["drop", "May leave out"], ["retain_days", "Kept for", (text) => (text ? `${text} days` : "ever")],
];
const nothing = (words) => words || "nothing";

/** A definition as [name, words] pairs; `all` says defaults, too. */
export function words(definition) {
  const form = read(definition);
  return SAY.filter(([path]) => String(form[path]) && (!path.startsWith("shadow") || form["shadow.target"])).map(([path, name, say = String]) => [name, say(form[path])]);
}

/** What is different in words, one a line. A definition of null is a route that is not there. */
export function changes(before, after) {
  if (!before || !after) return [before ? "removed" : "made"];
  const [a, b] = [read(before), read(after)];
  const weights = (form) => new Map(form.targets.map(({ target, weight }) => [target, Number(weight || 1)]));
  const [old, now] = [weights(a), weights(b)];
  const targets = [...new Set([...old.keys(), ...now.keys()])].flatMap((name) => (
    !old.has(name) ? `${name} joins with weight ${now.get(name)}` : !now.has(name) ? `${name} leaves` : old.get(name) !== now.get(name) ? `weight of ${name}: ${old.get(name)} → ${now.get(name)}` : []));
  return [...targets, ...SAY.flatMap(([path, name, say = String]) => {
    const [from, to] = [nothing(say(a[path])), nothing(say(b[path]))];
    return from === to || (path !== "shadow.target" && path.startsWith("shadow") && !(a["shadow.target"] && b["shadow.target"])) ? [] : `${name.toLowerCase()}: ${from} → ${to}`;
  })];
}
