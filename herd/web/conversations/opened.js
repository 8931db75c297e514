import { get, remove } from "../lib/api.js";
import { applications, named } from "../lib/applications.js";
import { colour, count, dollars, moment, seconds } from "../lib/format.js";
import { html, useEffect, useState } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { copy, notify } from "../lib/ui.js";
import { Named, Sure, useReading } from "../parts.js";
import { Failed } from "../shell.js";
import { Feedback } from "./feedback.js";
import { search } from "./search.js";

const MOST = 200; // answers of one conversation

/** A conversation (or one answer that belongs to none): what was asked and answered, the oldest first. */
export function Opened({ part, changed }) {
  const [kind, id] = [part.slice(0, 1), encodeURIComponent(part.slice(2))];
  const { data, error, load } = useReading(async () => {
    if (kind === "g") return { rows: [await get(`generations/${id}`)] };
    const { data: rows, more } = await get(`generations?conversation=${id}&limit=${MOST}`);
    return { rows: rows.reverse(), more };
  }, part);
  if (error && error.status !== 404) return html`<${Failed} error=${error} kept="It is kept." retry=${load} />`;
  if (error || data?.rows.length === 0) return html`<div class="choose"><h2>This conversation is not here</h2><p>It may have been deleted, or its time to be kept is over.</p></div>`;
  if (!data) return html`<div class="turns" aria-busy="true" role="status" aria-label="Reading the conversation">${[44, 130, 44, 130].map((height) => html`<div class="bone" style=${{ height: `${height}px` }}></div>`)}</div>`;
  const drop = () => remove(`conversations/${id}`).then(() => { notify("The text of this conversation is deleted; its numbers stay in Traffic."); search({}); changed(); }, (problem) => notify(`Nothing was deleted. ${problem.message}`));
  const cost = data.rows.reduce((sum, { cost: one }) => sum + (one ?? 0), 0);
  return html`<div class="turns"><header><span class="soft">${data.rows[0].route}, ${data.rows.length === 1 ? "1 answer" : `${data.more ? "the last " : ""}${data.rows.length} answers`}, ${dollars(cost)}</span><i class="fill"></i>
      ${kind === "c" && html`<${Sure} label="Delete" ask="Delete its text for good?" yes="Delete" run=${drop} />`}</header>
    ${data.rows.map((row, i) => html`<${Turn} key=${row.id} row=${row} first=${i === 0} open=${i === data.rows.length - 1} />`)}</div>`;
}

/** One request and its reply. Of the messages, those that the turns before have not shown. */
function Turn({ row, first, open: begun }) {
  const [open, setOpen] = useState(begun);
  const [full, setFull] = useState(row.attempts instanceof Array ? row : null);
  const [problem, setProblem] = useState(null);
  const load = () => get(`generations/${encodeURIComponent(row.id)}`).then((found) => { setFull(found); setProblem(null); }, setProblem);
  useEffect(() => { if (open && !full) load(); }, [open]);
  const messages = row.request?.messages ?? [];
  const known = first ? 0 : messages.findLastIndex(({ role }) => role === "assistant") + 1;
  return html`<article class="turn" aria-label=${`Answer of ${moment(row.created)}`}>
    ${row.request?.prompt && html`<div class="said">${row.request.prompt}</div>`}
    ${messages.slice(known).map((message) => html`<${Said} message=${message} />`)}
    <div class="reply">${row.reasoning && html`<details><summary>Thought first</summary><div class="soft prose">${row.reasoning}</div></details>`}
      ${row.reply ? html`<${Markdown} text=${row.reply} />` : !row.calls?.length && html`<p class="soft">${row.error ? "No answer." : "The text of this answer is not kept."}</p>`}
      ${row.calls?.map((call) => html`<pre class="call" tabindex="0" role="region" aria-label=${`Call of ${call.name}`}>${call.name}(${call.arguments})</pre>`)}
      ${row.error && html`<p class="bad-text">${row.error}</p>`}</div>
    <p class="pace soft"><${Named} name=${row.target ?? row.route} colour=${colour(row.target ?? row.route)} /><span>${seconds(row.latency?.total)}</span><span>${count(row.tokens?.completion)} tokens</span><span>${dollars(row.cost)}</span>
      <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Details</button></p>
    ${open && html`<${Facts} row=${full ?? row} />`}
    ${open && problem && html`<${Failed} error=${problem} kept="The answer is kept." retry=${load} />`}
    ${open && html`<${Feedback} row=${full ?? row} given=${full?.feedback ?? []} changed=${load} />`}</article>`;
}

const ROLE = { system: "System", developer: "System", tool: "Tool", assistant: "Answered before" };

/** A message that was sent: a person's at the right, others named. */
const Said = ({ message: { role, content, images, tool_calls: calls } }) => (role === "user"
  ? html`<div class="said">${images?.length > 0 && html`<span class="soft">${images.length === 1 ? "An image" : `${images.length} images`}. </span>`}${content || html`<span class="soft">Text not kept</span>`}</div>`
  : html`<details class="other" open=${role === "tool"}><summary>${ROLE[role] ?? role}</summary><div>${content || calls?.map((call) => `${call.name}(${call.arguments})`).join("\n") || "Text not kept"}</div></details>`);

function Facts({ row }) {
  applications.use();
  const { tokens = {}, latency = {}, request = {} } = row;
  const rows = [
    ["Target", [row.target, row.model_ref !== row.target && row.model_ref].filter(Boolean).join(", ")], ["Provider", row.provider], ["Key", row.key && named(row.key)], ["End", row.finish],
    ["Tokens", `${count(tokens.prompt)} read${tokens.cached ? ` (${count(tokens.cached)} from cache)` : ""}, ${count(tokens.completion)} written`],
    ["First token", latency.first_token != null && seconds(latency.first_token)], ["Whole answer", latency.total != null && seconds(latency.total)], ["Cost", dollars(row.cost)],
    ["Temperature", request.sampling?.temperature], ["May be used to", row.use?.join(", ")], ["Left out", row.dropped?.join(", ")], ["Target digest", row.target_digest, true], ["Generation", row.id, true],
  ].filter(([, value]) => value != null && value !== false && value !== "");
  const tries = row.attempts instanceof Array ? row.attempts : [];
  return html`<dl class="details">${rows.map(([name, value, digest]) => html`<div><dt>${name}</dt><dd>${digest ? html`<button class="digest" title="Copy" onClick=${() => copy(value)}>${value}</button>` : String(value)}</dd></div>`)}</dl>
    ${tries.length > 1 && html`<ol class="tries" aria-label="Attempts">${tries.map((one) => html`<li key=${one.id}><i class=${`dot ${one.state === "done" ? "good" : "bad"}`}></i><${Named} name=${one.target} colour=${colour(one.target)} />
      <span>${one.state === "done" ? "answered" : [one.status || "", one.code ?? "", one.error ?? ""].filter(Boolean).join(" ") || one.state}</span><span class="soft">${seconds(one.total_ms)}, ${dollars(one.cost)}${one.shadow ? ", a shadow copy" : ""}</span></li>`)}</ol>`}`;
}
