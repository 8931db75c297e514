import { get } from "../lib/api.js";
import { applications, readApplications } from "../lib/applications.js";
import { colour, moment, when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { address, asked, place } from "../lib/router.js";
import { status } from "../lib/status.js";
import { Named, useReading } from "../parts.js";
import { Failed, Top } from "../shell.js";
import { RANGES } from "../traffic/window.js";
import { Opened } from "./opened.js";
import { FEEDBACKS, filters, FINISHES, grouped, NAMES, read, search, title } from "./search.js";

export function Conversations() {
  const { query, part: hash } = place.use();
  const part = decodeURIComponent(hash);
  const [older, setOlder] = useState({ rows: [], more: null });
  const { data, error, busy, load } = useReading(async () => ({ ...await read(), at: Date.now() }), query);
  useEffect(() => setOlder({ rows: [], more: null }), [data]);
  const rows = [...(data?.data ?? []), ...older.rows];
  const more = older.more ?? data?.more;
  const next = () => read({ before: rows.at(-1).id }).then((found) => setOlder({ rows: [...older.rows, ...found.data], more: found.more }), () => load());
  const groups = grouped(rows);
  const searched = NAMES.some((name) => asked()[name]);
  return html`<main id="main" class="page"><${Top}>${part && html`<a class="only-narrow back" href=${address("/conversations", asked())}>‹ All</a>`}<h1>Conversations</h1><//>
    <div class=${`browse ${part ? "one" : ""}`}>
      <section class="results" aria-label="Search"><${Filters} />
        ${error && html`<${Failed} error=${error} kept=${data ? "What is shown was read before." : "Every conversation is kept."} retry=${load} />`}
        <ul class="rows" aria-busy=${String(busy)} aria-label="Conversations found">
          ${!data && !error && Array.from({ length: 8 }, () => html`<li class="hit"><i class="bone"></i><i class="bone short"></i></li>`)}
          ${groups.map((group) => html`<${Hit} key=${group.part} group=${group} here=${group.part === part} />`)}
          ${more && html`<li><button class="quiet wide" onClick=${next}>Older</button></li>`}</ul>
        ${data && !rows.length && html`<div class="none"><p>${searched ? "No conversation fits this search." : "No conversation is kept yet. What applications and Chat ask through a route that keeps text will be here."}</p>
          ${searched ? html`<button onClick=${() => search(Object.fromEntries(NAMES.map((name) => [name, null])))}>Search all</button>` : html`<a href="/">Begin one in Chat</a>`}</div>`}
        <${Export} disabled=${!rows.length} /></section>
      <section class="opened" tabindex="0" aria-label="The conversation">${part
        ? html`<${Opened} key=${part} part=${part} changed=${load} />`
        : html`<p class="soft choose">Choose a conversation to read it, with what each answer took, and to say how good it was.</p>`}</section>
    </div></main>`;
}

function Filters() {
  const given = asked();
  const [open, setOpen] = useState(false);
  const [targets, setTargets] = useState([]);
  const timer = useRef(0);
  const routes = status.use().data?.routes ?? [];
  useEffect(() => {
    get("targets").then(({ data }) => setTargets(data.map(({ name }) => name)), () => {});
    readApplications();
  }, []);
  const text = (event) => { const { value } = event.target; clearTimeout(timer.current); timer.current = setTimeout(() => search({ query: value }), 200); };
  const zoomed = given.until && [["zoomed", `${moment(Number(given.since))} to ${moment(Number(given.until))}`]];
  const rows = [["route", "route", routes.map(({ name }) => name)], ["target", "target", targets], ["key", "key", Object.entries(applications.use())], ["finish", "end", FINISHES], ["feedback", "feedback", FEEDBACKS]];
  const count = rows.filter(([name]) => given[name]).length + Boolean(given.range || given.since);
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    <input type="search" placeholder="Search in what was asked and answered" aria-label="Search the text" value=${given.query ?? ""} onInput=${text} />
    <button type="button" class="only-narrow" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Filters${count ? ` (${count})` : ""}</button>
    <div class=${`selects ${open ? "open" : ""}`}>
      ${rows.map(([name, word, options]) => html`<${Pick} key=${name} word=${word} value=${given[name] ?? ""} options=${options} change=${(value) => search({ [name]: value })} />`)}
      <${Pick} word="time" value=${zoomed ? "zoomed" : given.range ?? ""} options=${[...Object.entries(RANGES).map(([key, [words]]) => [key, `last ${words}`]), ...(zoomed || [])]}
        change=${(range) => range !== "zoomed" && search({ range, since: null, until: null })} /></div></form>`;
}

/** A choice of a value or any; one that came with the address is there, too. */
function Pick({ word, value, options, change }) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const all = !value || pairs.some(([key]) => key === value) ? pairs : [...pairs, [value, value]];
  return html`<select aria-label=${word.replace(/^./, (c) => c.toUpperCase())} class=${value ? "set" : ""} value=${value} onChange=${(event) => change(event.target.value)}>
    <option value="">any ${word}</option>${all.map(([key, words]) => html`<option value=${key}>${words}</option>`)}</select>`;
}

function Hit({ group, here }) {
  const [row] = group.rows;
  const wrong = row.finish === "error" || row.error;
  return html`<li class=${`hit ${here ? "here" : ""}`}><a href=${address("/conversations", asked(), group.part)} aria-current=${here ? "true" : null}>
    <span class="name">${title(row)}</span><span class="soft when">${when(row.created)}</span>
    <span class="soft of"><${Named} name=${row.target ?? row.route} colour=${colour(row.target ?? row.route)} />${group.rows.length > 1 && html`<span>${group.rows.length} answers</span>`}
      ${wrong ? html`<span class="bad-text">went wrong</span>` : row.finish === "length" && html`<span>cut</span>`}</span></a></li>`;
}

const Export = ({ disabled }) => html`<p class="list-foot exports">${disabled ? html`<span class="soft">Nothing to export</span>` : html`<span class="soft">Export what is found</span>
  ${[["jsonl", "JSON Lines"], ["parquet", "Parquet"]].map(([format, words]) => html`<a download href=${`/api/generations/export${address("", { ...filters(), format })}`}>${words}</a>`)}`}</p>`;
