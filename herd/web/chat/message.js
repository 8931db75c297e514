import { get } from "../lib/api.js";
import { count, seconds } from "../lib/format.js";
import { html, memo, useEffect, useRef, useState } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { copy, focusComposer } from "../lib/ui.js";
import { Pace, Waiting } from "./parts.js";

/** One message with its tools; `branches` are the ids of its siblings, itself among them, in order. */
export const Message = memo(({ session, message, branches, edited, phase, busy, verdict, last }) => {
  const [details, setDetails] = useState(false);
  const { role, content, stats, pending, generation } = message;
  const mine = role === "user";
  if (edited != null) return html`<${Edit} session=${session} message=${message} text=${edited} />`;
  return html`<article class=${`message ${role} ${last ? "last" : ""}`} aria-label=${mine ? "You" : "Answer"} aria-busy=${pending ? "true" : null}>
    ${mine ? html`<div class="said">${content}</div>` : phase === "waiting" ? html`<${Waiting} />` : html`<${Markdown} text=${content} />`}
    ${!pending && html`<div class="tools">
      <${Branches} session=${session} id=${message.id} ids=${branches.split(" ")} disabled=${busy} />
      <button class="quiet" onClick=${() => copy(content)}>Copy</button>
      ${mine ? html`<button class="quiet" disabled=${busy} onClick=${() => session.set({ editing: { id: message.id, text: content } })}>Edit</button>`
        : html`<button class="quiet" disabled=${busy} onClick=${() => session.regenerate(message)}>Regenerate</button>
          <${BetterThan} session=${session} message=${message} ids=${branches.split(" ")} busy=${busy} />
          <button class="quiet" aria-expanded=${String(details)} onClick=${() => setDetails(!details)}>Details</button>`}
      ${verdict && html`<span class="soft kept">Kept as a vote: ${verdict}</span>`}
      ${!mine && !verdict && html`<${Pace} stats=${stats} />`}</div>`}
    ${details && html`<${Details} generation=${generation} stats=${stats} />`}</article>`;
});

/** Puts an answer beside its neighbour again, where both are kept generations. */
function BetterThan({ session, message, ids, busy }) {
  const other = ids.length > 1 && session.message(ids[ids.indexOf(message.id) - 1] ?? ids[1]);
  if (!other?.generation || !message.generation) return null;
  return html`<button class="quiet" disabled=${busy} onClick=${() => session.set({ compare: { a: other.id, b: message.id } })}>Better than?</button>`;
}

function Branches({ session, id, ids, disabled }) {
  if (ids.length < 2) return null;
  const at = ids.indexOf(id);
  return html`<span class="branches" role="group" aria-label="Branches">
    <button class="quiet" aria-label="Previous branch" disabled=${disabled || at === 0} onClick=${() => session.follow(ids[at - 1])}>‹</button>
    <span aria-label=${`Branch ${at + 1} of ${ids.length}`} role="img">${at + 1}/${ids.length}</span>
    <button class="quiet" aria-label="Next branch" disabled=${disabled || at === ids.length - 1} onClick=${() => session.follow(ids[at + 1])}>›</button></span>`;
}

/** The canonical record of a generation, as the server kept it. */
function Details({ generation, stats = {} }) {
  const [record, setRecord] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    if (generation) get(`generations/${generation}`).then(setRecord, setError);
  }, [generation]);
  if (error) return html`<p class="details soft">The record could not be read. ${error.message}</p>`;
  if (generation && !record) return html`<p class="details soft" aria-busy="true">Reading the record</p>`;
  const sampling = record?.request?.sampling ?? record?.request ?? {};
  const tokens = record?.tokens ?? {};
  const latency = record?.latency ?? {};
  const rows = [
    ["Target", record && [record.target, record.model_ref].filter(Boolean).join(", ")],
    ["Target digest", record?.target_digest, true],
    ["Tokens", `${count(tokens.prompt ?? stats.prompt_tokens)} read (${count(tokens.cached ?? 0)} from cache), ${count(tokens.completion ?? stats.completion_tokens)} written`],
    ["Speed here", stats.tokens_per_second && `${stats.tokens_per_second.toFixed(1)} tokens/s`],
    ["First token", (latency.first_token ?? stats.first_token_ms) != null && seconds(latency.first_token ?? stats.first_token_ms)],
    ["Whole answer", latency.total != null && seconds(latency.total)],
    ["Seed", sampling.seed ?? (record && "a new one each time")], ["Temperature", sampling.temperature], ["Finish", record?.finish ?? stats.finish],
    ["Generation", generation, true], ["Request id", stats.requestId, true],
  ].filter(([, value]) => value != null && value !== false && value !== "");
  return html`<dl class="details">${rows.map(([name, value, digest]) => html`<div><dt>${name}</dt>
    <dd>${digest ? html`<button class="digest" title="Copy" onClick=${() => copy(value)}>${value}</button>` : String(value)}</dd></div>`)}</dl>`;
}

/** What is written here lives in the session, so that scrolling away does not lose it. */
function Edit({ session, message, text }) {
  const ref = useRef();
  useEffect(() => { if (text === message.content) { ref.current.focus(); ref.current.setSelectionRange(text.length, text.length); } }, []);
  const cancel = () => session.set({ editing: null });
  const send = () => { if (text.trim()) { cancel(); session.send(text, message.parent); } };
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    if (event.key === "Escape") { event.preventDefault(); cancel(); focusComposer(); }
  };
  return html`<div class="message user"><textarea ref=${ref} class="edit" aria-label="Edit your message" rows="3" value=${text}
      onInput=${(event) => session.set({ editing: { id: message.id, text: event.target.value } })} onKeyDown=${key}></textarea>
    <div class="tools shown"><button class="primary" disabled=${!text.trim()} onClick=${send}>Send as a new branch</button><button class="quiet" onClick=${cancel}>Cancel</button></div></div>`;
}
