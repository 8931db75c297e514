import { when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { ICONS } from "../lib/icons.js";
import { go } from "../lib/router.js";
import { notify, ui } from "../lib/ui.js";
import { discard, exportAs, importFrom, list, olderThanShown, refreshList, rename } from "./conversations.js";
import { forget, newChat } from "./session.js";

export function ConversationList({ id }) {
  const { phase, data, more, query, error } = list.use();
  const open = ui.use().list;
  const timer = useRef(0);
  useEffect(() => { refreshList(); }, []);
  const search = (event) => {
    const text = event.target.value;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => refreshList({ query: text }), 150);
  };
  return html`<aside class=${`list ${open ? "open" : ""}`} aria-label="Conversations">
    <div class="list-head"><button class="wide" onClick=${() => { newChat(); ui.set({ list: false }); }}>New chat</button>
      <button class="quiet only-narrow" onClick=${() => ui.set({ list: false })}>Close</button>
      <input type="search" placeholder="Search" aria-label="Search conversations" value=${query} onInput=${search} /></div>
    ${phase === "ready" && !data.length && html`<p class="soft none">${query ? "No conversation has these words." : "Your conversations will be here."}</p>`}
    ${(phase === "error" || phase === "stale") && html`<div class="none soft" role="alert"><p>The list could not be read. ${error.message}${error.requestId && html` Request <code>${error.requestId}</code>`}</p>
      <button onClick=${() => refreshList()}>Try again</button></div>`}
    <ul class="rows" aria-busy=${phase === "loading" ? "true" : null}>
      ${phase === "loading" && [70, 50, 62, 80, 46].map((w) => html`<li class="row"><i class="bone" style=${{ width: `${w}%` }}></i></li>`)}
      ${data.map((row) => html`<${Row} key=${row.id} row=${row} here=${row.id === id} />`)}
      ${more && html`<li><button class="quiet wide" onClick=${olderThanShown}>Older</button></li>`}</ul>
    <div class="list-foot"><button class="quiet" onClick=${importFrom}>Import</button>
      <button class="quiet" disabled=${!data.length} onClick=${() => exportAs("herd-conversations.json")}>Export all</button></div></aside>`;
}

function Row({ row, here }) {
  const [naming, setNaming] = useState(false);
  const title = row.title || "Untitled";
  if (naming) return html`<li class="row"><${Name} title=${title} done=${(text) => {
    setNaming(false);
    if (text && text !== title) rename(row.id, text).catch((error) => notify(`It keeps its name. ${error.message}`));
    if (text && here) ui.get().session?.set({ title: text });
  }} /></li>`;
  const drop = () => { if (here) go("/"); discard(row, () => forget(row.id)); };
  return html`<li class=${`row ${here ? "here" : ""}`}><a href=${`/c/${row.id}`} aria-current=${here ? "page" : null}><span class="name">${title}</span><span class="soft when">${when(row.updated)}</span></a>
    <span class="row-tools"><button class="icon" aria-label=${`Rename ${title}`} title="Rename" onClick=${() => setNaming(true)}>${ICONS.rename}</button>
      <button class="icon" aria-label=${`Export ${title}`} title="Export" onClick=${() => exportAs("herd-conversation.json", [row.id])}>${ICONS.export}</button>
      <button class="icon" aria-label=${`Delete ${title}`} title="Delete" onClick=${drop}>${ICONS.remove}</button></span></li>`;
}

function Name({ title, done }) {
  const ref = useRef();
  useEffect(() => ref.current.select(), []);
  const key = (event) => {
    if (event.key === "Enter") done(event.target.value.trim());
    if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); done(null); }
  };
  return html`<input ref=${ref} aria-label="New name" value=${title} maxlength="200" onKeyDown=${key} onBlur=${(event) => done(event.target.value.trim())} />`;
}
