import { remove } from "../lib/api.js";
import { html, useState } from "../lib/html.js";
import { notify } from "../lib/ui.js";
import { Sure } from "../parts.js";
import { Failed } from "../shell.js";
import { changes, KEEP, NUMBERS, read, REDACT, SHADOW, USE, write } from "./definition.js";
import { draft, drafts, save, useCheck, whole } from "./drafts.js";
import { Field, Rows, Several } from "./fields.js";

const NAMED = REDACT.map(([key]) => key);

/** The fields of a route that is in the store, or of a new one (`route` null). `saved(name)` after it is kept or removed. */
export function Editor({ route, targets, saved }) {
  const key = route?.name ?? "";
  const kept = drafts.use()[key];
  const { form, name = key, note = "", base } = kept ?? { form: read(route?.definition ?? { targets: [""] }), base: route ?? { version: 0, definition: null } };
  const definition = write(form);
  const { problem, current } = useCheck(name || "new", definition, Boolean(kept)); // before it has a name, the rest is looked at
  const [failed, setFailed] = useState(null);
  const [theirs, setTheirs] = useState(null); // the route as somebody else saved it first
  const [saving, setSaving] = useState(false);
  const set = (patch) => draft(key, { form: { ...form, ...patch }, name, note, base });
  const wrong = (path) => (problem?.param === path || problem?.param?.startsWith(`${path}.`) ? problem.message : null);
  const row = (list) => (i) => (i == null ? problem?.param === list && problem.message : wrong(`${list}.${i}`));
  const keep = async (expect) => {
    setSaving(true);
    try {
      const { version } = await save(name, definition, expect, note);
      draft(key, null);
      setTheirs(null); setFailed(null);
      notify(`${name} is saved as version ${version}.`);
      saved(name);
    } catch (error) {
      const found = error.status === 409 && error.code !== "read_only" && await whole(name).catch(() => null);
      if (found) setTheirs(found); else setFailed(error);
    }
    setSaving(false);
  };
  const drop = () => remove(`routes/${encodeURIComponent(key)}`).then(() => { draft(key, null); notify(`${key} is removed; its history can bring it back.`); saved(null); }, setFailed);
  const text = (path) => ({ id: `route-${path}`, value: form[path], onInput: (event) => set({ [path]: event.target.value }), wrong: wrong(path) });
  const numbers = (fields) => fields.map(([path, title, hint, empty]) => html`<${Field} key=${path} name=${title} hint=${hint} placeholder=${empty} inputmode="decimal" ...${text(path)} />`);
  const target = (value, change, label) => html`<input list="known-targets" aria-label=${label} placeholder="a model, a target or provider/model" value=${value} onInput=${(event) => change(event.target.value)} spellcheck=${false} />`;
  const said = kept && route ? changes(base.definition, definition) : [];
  const placed = ["name", "targets", "fallbacks", "drop", "redact", "keep", "use", "retain_days", "shadow", ...NUMBERS.map(([path]) => path)].some((path) => wrong(path)); // else it has no field here
  return html`<form class="editor" aria-label=${route ? `Change ${key}` : "A new route"} onSubmit=${(event) => { event.preventDefault(); keep(base.version); }}>
    <datalist id="known-targets">${targets.map((one) => html`<option value=${one.name}>${one.model}</option>`)}</datalist>
    ${!route && html`<${Field} name="Name" hint="what applications call as the model" id="route-name" first value=${name} spellcheck=${false} wrong=${name && wrong("name")} onInput=${(event) => draft(key, { form, name: event.target.value, note, base })} />`}
    <div class="columns"><${Rows} legend="Targets" hint="Each conversation stays with one, drawn by weight." rows=${form.targets} change=${(rows) => set({ targets: rows })} make=${() => ({ target: "", weight: "" })} add="Add a target" wrong=${row("targets")}
        draw=${(one, change, i) => html`${target(one.target, (value) => change({ ...one, target: value }), `Target ${i + 1}`)}<input class="weight" inputmode="decimal" aria-label=${`Weight of target ${i + 1}`} placeholder="1" value=${one.weight} onInput=${(event) => change({ ...one, weight: event.target.value })} />`} />
      <${Rows} legend="Fallbacks" hint="Tried in this order before the first word, if the target fails." rows=${form.fallbacks} change=${(rows) => set({ fallbacks: rows })} make=${() => ""} add="Add a fallback" wrong=${row("fallbacks")} ordered
        draw=${(one, change, i) => target(one, change, `Fallback ${i + 1}`)} /></div>
    <div class="entries">${numbers(NUMBERS)}</div>
    <fieldset><legend>Shadow</legend><div class="entries"><${Field} name="Copy to" hint="never shown; its cost is booked apart" list="known-targets" placeholder="nobody" spellcheck=${false} ...${text("shadow.target")} />${form["shadow.target"].trim() && numbers(SHADOW)}</div></fieldset>
    <fieldset><legend>What is kept</legend><div class="entries">
      <${Field} name="Keep" id="route-keep" wrong=${wrong("keep")}><select id="route-keep" value=${form.keep} onChange=${(event) => set({ keep: event.target.value })}>${KEEP.map(([value, words]) => html`<option value=${value}>${words}</option>`)}</select><//>
      <${Field} name="For" hint="days" placeholder="ever" inputmode="decimal" ...${text("retain_days")} />
      <${Field} name="May leave out" hint="fields that a target cannot honour, with commas; * for all" placeholder="nothing" spellcheck=${false} value=${form.drop.join(", ")} id="route-drop" wrong=${wrong("drop")} onChange=${(event) => set({ drop: event.target.value.split(",").map((one) => one.trim()).filter(Boolean) })} /></div>
      <${Several} legend="May be used to" pairs=${USE} chosen=${form.use} change=${(use) => set({ use })} wrong=${wrong("use")} />
      <${Several} legend="Black out" pairs=${REDACT} chosen=${form.redact} change=${(redact) => set({ redact })} />
      <label class="entry">Black out what fits these regular expressions, one a line<textarea rows="2" spellcheck=${false} value=${form.redact.filter((one) => !NAMED.includes(one)).join("\n")} aria-invalid=${wrong("redact") ? "true" : null}
        onChange=${(event) => set({ redact: [...form.redact.filter((one) => NAMED.includes(one)), ...event.target.value.split("\n").filter(Boolean)] })}></textarea>${wrong("redact") && html`<small class="bad-text" role="alert">${wrong("redact")}</small>`}</label></fieldset>
    ${problem?.message && !placed && html`<p class="bad-text" role="alert">${problem.message}</p>`}
    ${theirs && html`<${Conflict} theirs=${theirs} base=${base} take=${() => { draft(key, null); setTheirs(null); saved(key); }} mine=${() => keep(theirs.versions[0].version)} />`}
    ${failed && html`<${Failed} error=${failed} kept="Your changes are still here." dismiss=${() => setFailed(null)} />`}
    <footer class="saving">${(kept || !route) && html`<${Field} name="Note" hint="" id=${`note-${key}`} maxlength="500" placeholder="why, for the history" value=${note} onInput=${(event) => draft(key, { form, name, base, note: event.target.value })} />`}
      <p class="soft" role="status">${!kept && route ? "Nothing is changed." : said.length ? `Unsaved: ${said.join("; ")}.` : "Not saved yet."}</p><i class="fill"></i>
      ${route && !kept && html`<${Sure} label="Remove the route" ask="Applications that call it will get an error." yes="Remove" run=${drop} />`}
      ${kept && html`<button type="button" class="quiet" onClick=${() => { draft(key, null); setTheirs(null); setFailed(null); }}>Discard</button>`}
      <button class="primary" disabled=${saving || !kept || !name || !current || Boolean(problem?.message)}>Save</button></footer></form>`;
}

/** Somebody saved another version while this one was being written. */
function Conflict({ theirs, base, take, mine }) {
  const newest = theirs.versions?.[0];
  return html`<div class="failure conflict" role="alert"><p><strong>${newest?.author || "Somebody"} saved version ${theirs.version ?? newest?.version} first.</strong> It says: ${changes(base.definition, theirs.definition).join("; ") || "the same as before"}. Your changes are still here.</p>
    <button type="button" onClick=${take}>Take theirs</button><button type="button" onClick=${mine}>Save mine over it</button></div>`;
}
