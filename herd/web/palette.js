import { COMMANDS, keyNames, usable } from "./commands.js";
import { talkTo } from "./chat/session.js";
import { get } from "./lib/api.js";
import { when } from "./lib/format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib/html.js";
import { go } from "./lib/router.js";
import { status } from "./lib/status.js";
import { ui } from "./lib/ui.js";
import { PAGES } from "./shell.js";

/** A floating panel that Esc or a click beside it closes, with the keyboard kept inside. */
function Floating({ label, close, children }) {
  const ref = useRef();
  useLayoutEffect(() => { // before the next key is typed
    const dialog = ref.current;
    dialog.showModal();
    return () => dialog.close(); // gives the focus back
  }, []);
  return html`<dialog ref=${ref} class="floating" aria-label=${label} onClose=${close} onClick=${(event) => event.target === ref.current && close()}><div class="inside">${children}</div></dialog>`;
}

export function Palette() {
  const { palette } = ui.use();
  return palette && html`<${Find} close=${() => ui.set({ palette: false })} />`;
}

function Find({ close }) {
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);
  const [{ asked, rows: kept }, setKept] = useState({ asked: "", rows: [] });
  useEffect(() => {
    const timer = setTimeout(() => get(`conversations?limit=8&query=${encodeURIComponent(query)}`).then((found) => setKept({ asked: query, rows: found.data }), () => {}), query ? 120 : 0);
    return () => clearTimeout(timer);
  }, [query]);
  const matches = ({ title }) => query.toLowerCase().split(/\s+/).every((word) => title.toLowerCase().includes(word));
  const routes = status.get().data?.routes ?? [];
  const groups = [
    ["Pages", PAGES.map(([href, title]) => ({ title, run: () => go(href) })).filter(matches)],
    ["Commands", COMMANDS.filter((c) => !c.hide && usable(c) && matches(c))],
    ["Routes", routes.map((r) => ({ title: `Talk to ${r.name}`, side: r.model, run: () => talkTo(r.name, ui.get().session) })).filter(matches)],
    ["Models", [...new Set(routes.map((r) => r.model))].map((ref) => ({ title: ref, side: "card", run: () => go(`/models#${ref}`) })).filter(matches)],
    ["Conversations", kept.filter((c) => asked === query || matches({ title: c.title ?? "" })).map((c) => ({ title: c.title || "Untitled", side: when(c.updated), run: () => go(`/c/${c.id}`) }))],
  ].filter(([, rows]) => rows.length);
  const rows = groups.flatMap(([, group]) => group);
  const chosen = Math.min(at, rows.length - 1);
  const choose = (row) => { close(); row.run(); };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); setAt((chosen + step + rows.length) % rows.length); }
    if (event.key === "Enter" && rows[chosen]) { event.preventDefault(); choose(rows[chosen]); }
  };
  useEffect(() => { document.querySelector(".found[aria-selected=true]")?.scrollIntoView({ block: "nearest" }); }, [chosen]);
  let i = -1;
  return html`<${Floating} label="Find" close=${close}>
    <input class="find" role="combobox" aria-label="Find a page, conversation, route, model or command" aria-expanded="true" aria-controls="found" aria-activedescendant=${rows.length ? `found-${chosen}` : null}
      placeholder="Find anything" value=${query} onInput=${(event) => { setQuery(event.target.value); setAt(0); }} onKeyDown=${onKeyDown} />
    <div id="found" role="listbox" aria-label="Found">
      ${groups.map(([name, group]) => html`<div role="group" aria-label=${name}><p class="group" aria-hidden="true">${name}</p>
        ${group.map((row) => { i += 1; return html`<div id=${`found-${i}`} class="found" role="option" aria-selected=${i === chosen ? "true" : "false"} onClick=${() => choose(row)}>
          <span>${row.title}</span>${row.keys && html`<${Keys} keys=${row.keys} />`}${row.side && html`<span class="soft">${row.side}</span>`}</div>`; })}</div>`)}
    </div>
    ${!rows.length && html`<p class="soft none">Nothing has that name.</p>`}<//>`;
}

const Keys = ({ keys }) => html`<span class="keys">${keyNames(keys).map((key) => html`<kbd>${key}</kbd>`)}</span>`;

export function Help() {
  const { help } = ui.use();
  return help && html`<${Floating} label="Keyboard map" close=${() => ui.set({ help: false })}>
    <h2>Keyboard map</h2><dl class="map">${[...COMMANDS.filter((c) => c.keys),
      { title: "Send", keys: "enter" }, { title: "New line", keys: "shift+enter" }].map((c) => html`<div><dt>${c.title}</dt><dd><${Keys} keys=${c.keys} /></dd></div>`)}</dl>
    <button onClick=${() => ui.set({ help: false })}>Close</button><//>`;
}
