import { html } from "../lib/html.js";
import { ICONS } from "../lib/icons.js";
import { focused } from "../parts.js";

/** One field with its name, a hint, and what is wrong with it in the hint's place, so that nothing moves. */
export const Field = ({ id, name, hint = "", wrong = null, children, first = false, ...input }) => html`<div class="entry"><label for=${id}>${name}</label>
  ${children ?? html`<input id=${id} ref=${first ? focused : null} ...${input} aria-invalid=${wrong ? "true" : null} aria-describedby=${`${id}-hint`} />`}
  <small id=${`${id}-hint`} class=${wrong ? "bad-text" : "soft"} role=${wrong ? "alert" : null}>${wrong || hint}</small></div>`;

/** Some of a few. */
export const Several = ({ legend, pairs, chosen, change, wrong }) => html`<fieldset class="several"><legend>${legend}</legend>
  ${pairs.map(([key, words]) => html`<label><input type="checkbox" checked=${chosen.includes(key)} onChange=${(event) => change(event.target.checked ? [...chosen, key] : chosen.filter((one) => one !== key))} /> ${words}</label>`)}
  ${wrong && html`<small class="bad-text" role="alert">${wrong}</small>`}</fieldset>`;

/** A list of rows that can be added to, taken from and, where `ordered`, put in another order. */
export function Rows({ legend, hint, rows, change, make, add, draw, wrong, ordered = false }) {
  const swap = (i, j) => { const next = [...rows]; [next[i], next[j]] = [next[j], next[i]]; change(next); };
  const set = (i) => (value) => change(rows.map((row, at) => (at === i ? value : row)));
  return html`<fieldset class="list-of"><legend>${legend}</legend>${hint && html`<p class="soft">${hint}</p>`}
    ${rows.map((row, i) => html`<div class="entry-row">${draw(row, set(i), i)}
      ${ordered && html`<button type="button" class="icon" aria-label=${`Move ${i + 1} up`} disabled=${!i} onClick=${() => swap(i, i - 1)}>${ICONS.up}</button>
        <button type="button" class="icon" aria-label=${`Move ${i + 1} down`} disabled=${i === rows.length - 1} onClick=${() => swap(i, i + 1)}>${ICONS.down}</button>`}
      <button type="button" class="icon" aria-label=${`Take away ${i + 1}`} onClick=${() => change(rows.filter((_, at) => at !== i))}>${ICONS.remove}</button>
      ${wrong?.(i) && html`<small class="bad-text" role="alert">${wrong(i)}</small>`}</div>`)}
    ${wrong?.(null) && html`<small class="bad-text" role="alert">${wrong(null)}</small>`}
    <button type="button" class="quiet" onClick=${() => change([...rows, make()])}>${add}</button></fieldset>`;
}
