import { COMMANDS, keyNames, nextTheme, theme, THEMES, usable } from "./commands.js";
import { get, post } from "./lib/api.js";
import { clock, colour, when } from "./lib/format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib/html.js";
import { go } from "./lib/router.js";
import { engineWords, routeNamed, status } from "./lib/status.js";
import { ui } from "./lib/ui.js";

const drawn = (path) => html`<svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true"><path d=${path} /></svg>`;
export const ICONS = {
  chat: drawn("M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-4 3v-3a1.5 1.5 0 0 1-1.5-1.5z"),
  models: drawn("M10 2.8 16.5 6.4v7.2L10 17.2 3.5 13.6V6.4zM3.7 6.5 10 10l6.3-3.5M10 10v7"),
  runs: drawn("M3 16.5h14M3.5 12.5l4-4 3 2.5 6-7"),
  find: drawn("M8.8 3.5a5.3 5.3 0 1 1 0 10.6 5.3 5.3 0 0 1 0-10.6zM12.8 12.8 17 17"),
  theme: drawn("M10 3.2a6.8 6.8 0 1 0 0 13.6zM10 3.2a6.8 6.8 0 0 1 0 13.6"),
  list: drawn("M3.5 5h13M3.5 10h13M3.5 15h8"),
  settings: drawn("M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4"),
};
const PAGES = [["/", "Chat", ICONS.chat], ["/models", "Models", ICONS.models], ["/runs", "Runs", ICONS.runs]];
const isHere = (path, href) => (href === "/" ? path === "/" || path.startsWith("/c/") : path === href);

export const Rail = ({ path }) => {
  const [name, setName] = useState(theme());
  useEffect(() => {
    const changed = () => setName(theme());
    addEventListener("themechange", changed);
    return () => removeEventListener("themechange", changed);
  }, []);
  return html`<nav class="rail" aria-label="Pages">
    ${PAGES.map(([href, title, icon]) => html`<a href=${href} aria-current=${isHere(path, href) ? "page" : null}>${icon}<span>${title}</span></a>`)}
    <i class="fill"></i>
    <button onClick=${() => ui.set({ palette: true })} title="Find anything (Ctrl K)">${ICONS.find}<span>Find</span></button>
    <button onClick=${nextTheme} title=${`Theme: ${THEMES[name]}`} aria-label=${`Theme: ${THEMES[name]}. Change it`}>${ICONS.theme}<span>${name === "auto" ? "Theme" : name === "dark" ? "Dark" : "Light"}</span></button>
  </nav>`;
};

/** The line at the top of every page: its title at the left, route, target and engine at the right. */
export function Top({ children, route = null, onRoute = null }) {
  const now = status.use();
  const name = route ?? now.data?.default_route;
  const found = routeNamed(name);
  const [meaning, words] = engineWords(now);
  return html`<header class="top">${children}<i class="fill"></i>
    ${name && html`<span class="target" title="The route that answers, and the model behind it"><i class="swatch" style=${{ background: colour(found?.model ?? name) }}></i>
      ${onRoute
        ? html`<label class="pick"><span class="hidden">Route</span><select value=${name} onChange=${(event) => onRoute(event.target.value)}>
            ${(now.data?.routes ?? [{ name }]).map((r) => html`<option value=${r.name}>${r.name}</option>`)}
            ${now.data && !found && html`<option value=${name}>${name} (not here)</option>`}</select></label>`
        : html`<b>${name}</b>`}
      ${found && html`<span class="soft model">${found.model}</span>`}</span>`}
    <span class="engine" role="status"><i class=${`dot ${meaning}`}></i><span>${words}</span></span></header>
    ${now.data?.problem && !now.stale && html`<p class="banner" role="alert">${now.data.problem}</p>`}
    ${now.stale && html`<p class="banner" role="alert">The server does not answer. What is shown is from ${clock(now.at)}; asking again every few seconds. Start it with <code>herd up</code>.</p>`}`;
}

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
  const here = ui.get().session;
  useEffect(() => {
    const timer = setTimeout(() => get(`conversations?limit=8&query=${encodeURIComponent(query)}`).then((found) => setKept({ asked: query, rows: found.data }), () => {}), query ? 120 : 0);
    return () => clearTimeout(timer);
  }, [query]);
  const matches = ({ title }) => query.toLowerCase().split(/\s+/).every((word) => title.toLowerCase().includes(word));
  const groups = [
    ["Pages", PAGES.map(([href, title]) => ({ title, run: () => go(href) })).filter(matches)],
    ["Commands", COMMANDS.filter((c) => !c.hide && usable(c) && matches(c))],
    ["Routes", here ? (status.get().data?.routes ?? []).map((r) => ({ title: `Talk to ${r.name}`, side: r.model, run: () => here.change({ route: r.name }) })).filter(matches) : []],
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
    <input class="find" role="combobox" aria-label="Find a page, conversation, route or command" aria-expanded="true" aria-controls="found" aria-activedescendant=${rows.length ? `found-${chosen}` : null}
      placeholder="Find a page, conversation, route or command" value=${query} onInput=${(event) => { setQuery(event.target.value); setAt(0); }} onKeyDown=${onKeyDown} />
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

/** Shown when the server wants its key; it answers with a cookie that scripts cannot read. */
export function KeyPanel() {
  const [key, setKey] = useState("");
  const [wrong, setWrong] = useState(null);
  const { locked } = ui.use();
  const enter = async (event) => {
    event.preventDefault();
    try {
      await post("session", { key });
      location.reload();
    } catch (error) { setWrong(error.message); }
  };
  return locked && html`<form class="key-panel" onSubmit=${enter}><h2>This Herd asks for a key</h2>
    <p>It is what <code>HERD_API_KEY</code> was set to where the server was started.</p>
    <label>Key <input type="password" autocomplete="current-password" value=${key} onInput=${(e) => setKey(e.target.value)} /></label>
    ${wrong && html`<p class="bad-text" role="alert">${wrong}</p>`}<button class="primary">Open</button></form>`;
}

/** What happened, what was kept, what to do, and the id under which the server knows it. */
export function Failed({ error, kept, retry, dismiss }) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return html`<div class="failure" role="alert"><p><strong>${error.message}</strong>${wait} ${kept}
      ${error.requestId && html` <span class="soft">Request <code>${error.requestId}</code></span>`}</p>
    ${retry && html`<button onClick=${retry}>Try again</button>`}${dismiss && html`<button class="quiet" onClick=${dismiss}>Dismiss</button>`}</div>`;
}

export function Notice() {
  const { notice } = ui.use();
  return html`<div class="notice-place" role="status">${notice && html`<p class="notice">${notice.text}
    ${notice.action && html`<button class="quiet" onClick=${notice.run}>${notice.action}</button>`}</p>`}</div>`;
}
