import { newId, post } from "../lib/api.js";
import { named } from "../lib/applications.js";
import { moment, percent } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { ICONS } from "../lib/icons.js";
import { focused } from "../parts.js";

const WORDS = { thumbs: ({ value }) => (value > 0 ? "Thumbs up" : "Thumbs down"), score: ({ value }) => `Scored ${percent(value)}`, correction: () => "Corrected to", comment: () => "Comment" };

/** What people said of an answer, and a place to say it. */
export function Feedback({ row, given, changed }) {
  const [writing, setWriting] = useState(null); // correction or comment
  const [text, setText] = useState("");
  const [problem, setProblem] = useState(null);
  const give = (kind, more) => post("feedback", { id: newId(), generation: row.id, kind, ...more })
    .then(() => { if (more.text) setWriting(null); setProblem(null); changed(); }, (error) => setProblem(`It was not kept. ${error.message}`));
  const mine = given.findLast(({ kind }) => kind === "thumbs")?.value;
  const score = given.findLast(({ kind }) => kind === "score")?.value;
  const write = (kind) => { setWriting(kind === writing ? null : kind); setText(kind === "correction" ? row.reply ?? "" : ""); };
  const send = (event) => { event.preventDefault(); if (text.trim()) give(writing, { text }); };
  return html`<section class="feedback" aria-label="Feedback"><div class="give">
      <button class="icon" aria-label="Thumbs up" aria-pressed=${String(mine > 0)} onClick=${() => give("thumbs", { value: 1 })}>${ICONS.good}</button>
      <button class="icon" aria-label="Thumbs down" aria-pressed=${String(mine < 0)} onClick=${() => give("thumbs", { value: -1 })}>${ICONS.poor}</button>
      <label class="soft">Score <select value=${score ?? ""} onChange=${(event) => event.target.value && give("score", { value: Number(event.target.value) })}><option value="">–</option>
        ${[0, 0.25, 0.5, 0.75, 1].map((value) => html`<option value=${value}>${percent(value)}</option>`)}</select></label>
      ${["correction", "comment"].map((kind) => html`<button class="quiet" aria-expanded=${String(writing === kind)} onClick=${() => write(kind)}>${kind === "comment" ? "Comment" : "Correct it"}</button>`)}</div>
    ${writing && html`<form onSubmit=${send}><textarea rows=${writing === "comment" ? 3 : 6} aria-label=${writing === "comment" ? "Your comment" : "What it should have said"} value=${text} onInput=${(event) => setText(event.target.value)} ref=${focused}></textarea>
      <button class="primary" disabled=${!text.trim()}>Keep</button><button type="button" class="quiet" onClick=${() => setWriting(null)}>Cancel</button></form>`}
    ${problem && html`<p class="bad-text" role="alert">${problem}</p>`}
    ${given.length > 0 && html`<ul class="said-of">${given.map((one) => html`<li key=${one.id}><span>${WORDS[one.kind]?.(one) ?? one.kind}</span> <span class="soft">${[one.key && named(one.key), moment(one.created)].filter(Boolean).join(", ")}</span>${one.text && html`<p>${one.text}</p>`}</li>`)}</ul>`}</section>`;
}
