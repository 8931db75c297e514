import { keyNames, nextTheme, theme, THEMES } from "./commands.js";
import { post } from "./lib/api.js";
import { clock, colour } from "./lib/format.js";
import { html, useEffect, useRef, useState } from "./lib/html.js";
import { ICONS } from "./lib/icons.js";
import { engineWords, routeNamed, status } from "./lib/status.js";
import { ui } from "./lib/ui.js";

export const PAGES = [["/", "Chat", ICONS.chat], ["/arena", "Arena", ICONS.arena], ["/leaderboard", "Leaderboard", ICONS.leaderboard],
  ["/traffic", "Traffic", ICONS.traffic], ["/conversations", "Conversations", ICONS.conversations], ["/routes", "Routes", ICONS.routes], ["/keys", "Keys", ICONS.keys],
  ["/models", "Models", ICONS.models], ["/runs", "Runs", ICONS.runs]];
const isHere = (path, href) => (href === "/" ? path === "/" || path.startsWith("/c/") : path === href);

/** Icons at the left edge whose names show on hover and focus; a bar with names at the foot of a phone. */
export const Rail = ({ path }) => {
  const [name, setName] = useState(theme());
  useEffect(() => {
    const changed = () => setName(theme());
    addEventListener("themechange", changed);
    return () => removeEventListener("themechange", changed);
  }, []);
  const pages = useRef();
  useEffect(() => { pages.current.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); }, [path]); // a phone's bar is wider than the phone
  return html`<nav class="rail" aria-label="Pages">
    <div class="pages" ref=${pages}>${PAGES.map(([href, title, icon]) => html`<a href=${href} aria-current=${isHere(path, href) ? "page" : null}>${icon}<span>${title}</span></a>`)}</div>
    <i class="fill"></i>
    <button onClick=${() => ui.set({ palette: true })}>${ICONS.find}<span>Find<kbd>${keyNames("mod+k").join(" ")}</kbd></span></button>
    <button onClick=${nextTheme} aria-label=${`Theme: ${THEMES[name]}. Change it`}>${ICONS.theme}<span>Theme<small>${THEMES[name]}</small></span></button>
  </nav>`;
};

/** The line at the top of every page: its title at the left; route, target, engine and the page's `tools` at the right. */
export function Top({ children, route = null, onRoute = null, tools = null }) {
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
    <span class="engine" role="status"><i class=${`dot ${meaning}`}></i><span>${words}</span></span>${tools}</header>
    ${now.data?.problem && !now.stale && html`<p class="banner" role="alert">${now.data.problem}</p>`}
    ${now.stale && html`<p class="banner" role="alert">The server does not answer. What is shown is from ${clock(now.at)}; asking again every few seconds. Start it with <code>herd up</code>.</p>`}`;
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

/** The shape of what is being read, at the height it will have. */
export const Bones = ({ heights, what }) => html`<div class="bones" aria-busy="true" role="status" aria-label=${`Reading ${what}`}>
  ${heights.map((height) => html`<div class="bone" style=${{ height: `${height}px` }}></div>`)}</div>`;

/** What happened, what was kept, what to do, and the id under which the server knows it. */
export function Failed({ error, kept, retry, dismiss }) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return html`<div class="failure" role="alert"><p><strong>${/[.!?…]$/.test(error.message) ? error.message : `${error.message}.`}</strong>${wait} ${kept}
      ${error.requestId && html` <span class="soft">Request <code>${error.requestId}</code></span>`}</p>
    ${retry && html`<button onClick=${retry}>Try again</button>`}${dismiss && html`<button class="quiet" onClick=${dismiss}>Dismiss</button>`}</div>`;
}

export function Notice() {
  const { notice } = ui.use();
  return html`<div class="notice-place" role="status">${notice && html`<p class="notice">${notice.text}
    ${notice.action && html`<button class="quiet" onClick=${notice.run}>${notice.action}</button>`}</p>`}</div>`;
}
