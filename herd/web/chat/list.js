import { when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { go } from "../lib/router.js";
import { notify, ui } from "../lib/ui.js";
import { discard, exportAs, importFrom, list, olderThanShown, refreshList, rename } from "./conversations.js";
import { forget, newChat } from "./session.js";

export function ConversationList({ id }) {
  const { phase, data, more, query } = list.use();
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
    ${(phase === "error" || phase === "stale") && html`<p class="soft none">The list could not be read. <button class="quiet" onClick=${() => refreshList()}>Try again</button></p>`}
    <ul class="rows" aria-busy=${phase === "loading" ? "true" : null}>
      ${phase === "loading" && [70, 50, 62].map((w) => html`<li class="bone" style=${{ width: `${w}%` }}></li>`)}
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
    <span class="row-tools"><button class="quiet" aria-label=${`Rename ${title}`} onClick=${() => setNaming(true)}>Rename</button>
      <button class="quiet" aria-label=${`Export ${title}`} onClick=${() => exportAs("herd-conversation.json", [row.id])}>Export</button>
      <button class="quiet" aria-label=${`Delete ${title}`} onClick=${drop}>Delete</button></span></li>`;
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
