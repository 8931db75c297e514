import { post } from "../lib/api.js";
import { PICO } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { status } from "../lib/status.js";
import { Field, Rows, Several } from "../routes/fields.js";
import { KEEP } from "../routes/definition.js";
import { Failed } from "../shell.js";

export const SCOPES = [["admin", "everything"], ["read", "read traffic and pages"], ["vote", "vote and give feedback"], ["use:*", "use every route"]];
const UNITS = ["dollars", "requests", "tokens"], PERIODS = ["minute", "hour", "day", "week", "month", "total"];
const USES = [["evaluate", "evaluate"], ["evaluate,train", "evaluate and train"], ["nothing", "nothing"]];
const START = { application: "", scopes: ["use:*"], limits: [], expires_days: "", keep: "", use: "" };

/** The form of a new key; `made(row with its secret)` when the server has it. */
export function Create({ made, close }) {
  const [form, setForm] = useState(START);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  // Not the models that a provider only lists, which may be hundreds: `herd keys create --scope` names one of those.
  const routes = (status.use().data?.routes ?? []).filter(({ name, kind, model }) => kind !== "remote" || !name.endsWith(`/${model}`));
  const set = (patch) => { setForm({ ...form, ...patch }); setError(null); };
  const wrong = (path) => (error?.param && (error.param === path || error.param.startsWith(`${path}.`)) ? error.message : null);
  const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
  const { limits } = form;
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    const { application, scopes, expires_days: days, keep, use } = form;
    const body = { application: application.trim(), scopes, limits: limits.map(({ amount, ...one }) => ({ ...one, amount: one.unit === "dollars" && number(amount) * PICO ? Math.round(number(amount) * PICO) : number(amount) })), ...(days.trim() && { expires_days: number(days) }), ...(keep && { keep }), ...(use && { use: use.split(",").filter((one) => one !== "nothing") }) };
    try { made(await post("keys", body)); } catch (problem) { setError(problem); setBusy(false); }
  };
  const pairs = [...SCOPES, ...routes.map(({ name }) => [`use:${name}`, `use ${name}`])];
  const pick = (label, value, options, change) => html`<select aria-label=${label} value=${value} onChange=${(event) => change(event.target.value)}>${options.map((one) => html`<option>${one}</option>`)}</select>`;
  const placed = ["application", "scopes", "limits", "expires_days", "keep", "use"].some(wrong);
  return html`<form class="card editor" aria-label="A new key" onSubmit=${send}>
    <div class="entries"><${Field} id="key-application" name="Application" hint="whose key it is; its traffic has this name" maxlength="200" first value=${form.application} wrong=${wrong("application")} onInput=${(event) => set({ application: event.target.value })} />
      <${Field} id="key-days" name="Valid for" hint="days" placeholder="until it is revoked" inputmode="decimal" value=${form.expires_days} wrong=${wrong("expires_days")} onInput=${(event) => set({ expires_days: event.target.value })} /></div>
    <${Several} legend="It may" pairs=${pairs} chosen=${form.scopes} change=${(scopes) => set({ scopes })} wrong=${wrong("scopes")} />
    <${Rows} legend="Limits" hint="A request that would pass one is refused, and says when the next period begins." rows=${form.limits} change=${(limits) => set({ limits })} make=${() => ({ amount: "", unit: "dollars", period: "month" })} add="Add a limit" wrong=${(i) => i != null && wrong(`limits.${i}`) && (Number(limits[i].amount) > 0 ? error.message : "Give a number above 0.")}
      draw=${(one, change, i) => html`<input class="weight" inputmode="decimal" aria-label=${`Amount of limit ${i + 1}`} value=${one.amount} onInput=${(event) => change({ ...one, amount: event.target.value })} />
        ${pick(`Unit of limit ${i + 1}`, one.unit, UNITS, (unit) => change({ ...one, unit }))}<span class="soft">a</span>${pick(`Period of limit ${i + 1}`, one.period, PERIODS, (period) => change({ ...one, period }))}<i class="fill"></i>`} />
    <div class="entries">${[["keep", "Keep of its traffic", KEEP], ["use", "To be used to", USES]].map(([name, title, options]) => html`<${Field} key=${name} id=${`key-${name}`} name=${title} wrong=${wrong(name)}>
      <select id=${`key-${name}`} value=${form[name]} onChange=${(event) => set({ [name]: event.target.value })}><option value="">as the route says</option>${options.map(([value, words]) => html`<option value=${value}>${words}</option>`)}</select><//>`)}</div>
    ${error && !placed && html`<${Failed} error=${error} kept="No key was made." dismiss=${() => setError(null)} />`}
    <footer class="saving"><i class="fill"></i><button type="button" class="quiet" onClick=${close}>Cancel</button>
      <button class="primary" disabled=${busy || !form.application.trim() || !form.scopes.length}>Make the key</button></footer></form>`;
}
