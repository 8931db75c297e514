import { get } from "../lib/api.js";
import { colour, percent } from "../lib/format.js";
import { html } from "../lib/html.js";
import { address, go, place } from "../lib/router.js";
import { Named, useReading } from "../parts.js";
import { Bones, Failed, Top } from "../shell.js";
import { read, words } from "./definition.js";
import { drafts, whole } from "./drafts.js";
import { Editor } from "./editor.js";
import { History } from "./history.js";

const NEW = "+";
const DAY = 86400;
const HEALTH = { closed: ["good", "answering"], "half-open": ["caution", "being tried again"], open: ["bad", "left alone after failures"] };
const WHY = {
  file: "It is written in herd.toml, which is the place to change it; what is saved there counts at once.",
  own: "Every model and target answers under its own name. To change how, make a route that points at it.",
};

async function readAll() {
  const until = Date.now() / 1000;
  const [routes, targets, traffic] = await Promise.all([get("routes"), get("targets"), get(`traffic?by=route&since=${until - DAY}&until=${until}&step=${DAY}`)]);
  return { routes: routes.data, targets: targets.data, shares: new Map(traffic.data.map(({ group, requests }) => [group, requests / (traffic.totals?.requests || 1)])) };
}

export function Routes() {
  const part = decodeURIComponent(place.get().part);
  const { data, error, load } = useReading(readAll, "", 10);
  const unsaved = drafts.use();
  const { routes, targets = [], shares } = data ?? {};
  const made = routes?.filter(({ source }) => source !== "own"), own = routes?.filter(({ source }) => source === "own");
  const saved = (name) => { load(); go(address("/routes", {}, name ?? ""), { replace: true }); };
  const missing = routes && part && part !== NEW && !routes.some(({ name }) => name === part);
  const cards = (list) => html`<div class="cards">${list.map((route) => html`<${Card} key=${route.name} ...${{ route, targets, saved }} open=${route.name === part} share=${shares.get(route.name) ?? 0} unsaved=${Boolean(unsaved[route.name])} />`)}</div>`;
  return html`<main id="main" class="page"><${Top}><h1>Routes</h1><//>
    <div class="sheet routes" tabindex="0" role="region" aria-label="Routes">
      <div class="lead"><p class="soft">Applications call a route by its name, as a model. Behind it, targets answer by weight and fallbacks stand in.</p>
        <button class="primary" aria-expanded=${String(part === NEW)} onClick=${() => go(part === NEW ? "/routes" : address("/routes", {}, NEW))}>New route${unsaved[""] && part !== NEW ? " (unsaved)" : ""}</button></div>
      ${error && html`<${Failed} error=${error} kept=${data ? "What is shown was read before." : "Routes go on answering."} retry=${load} />`}
      ${part === NEW && html`<article class="card route" aria-label="New route"><${Editor} route=${null} targets=${targets} saved=${saved} /></article>`}
      ${!routes && !error && html`<${Bones} what="the routes" heights=${[62, 62, 62]} />`}
      ${missing && html`<${Gone} name=${part} key=${part} saved=${saved} />`}
      ${made?.length === 0 && part !== NEW && html`<p class="soft">No route is made yet. Each model answers under its own name; a route lets you change what answers without touching the application.</p>`}
      ${made?.length > 0 && cards(made)}
      ${own?.length > 0 && html`<section><h2>Models and targets under their own names</h2>${cards(own)}</section>`}
    </div></main>`;
}

function Card({ route, open, share, unsaved, targets, saved }) {
  const { name, source, version, health = [], editable } = route;
  const form = read(route.definition);
  const total = form.targets.reduce((sum, { weight }) => sum + Number(weight || 1), 0);
  return html`<article class="card run route" aria-label=${`Route ${name}`}><button class="run-head unfolds" aria-expanded=${String(open)} onClick=${() => go(open ? "/routes" : address("/routes", {}, name))}>
      <b>${name}</b>${unsaved && html`<span class="unsaved">unsaved changes</span>`}
      <span class="goes">${form.targets.map(({ target, weight }) => html`<span><${Named} name=${target} colour=${colour(target)} />${form.targets.length > 1 && html` <span class="soft">${percent(Number(weight || 1) / total)}</span>`}</span>`)}${form.fallbacks.length > 0 && html`<span class="soft">then ${form.fallbacks.join(", ")}</span>`}</span><i class="fill"></i>
      <span class="dots">${health.map((one) => html`<i class=${`dot ${HEALTH[one.state]?.[0] ?? "quiet"}`} title=${`${one.url || one.provider}: ${HEALTH[one.state]?.[1] ?? one.state}`}></i>`)}<span class="hidden">${health.map((one) => `${one.url || one.provider} ${HEALTH[one.state]?.[1] ?? one.state}`).join(", ")}</span></span>
      <span class="share">${percent(share)} of traffic</span><span class="from">${source === "file" ? "herd.toml" : source === "own" ? "own name" : `version ${version}`}</span></button>
    ${open && html`<${Detail} ...${{ route, editable, targets, saved, health, share }} />`}</article>`;
}

function Detail({ route, editable, targets, saved, health, share }) {
  const { data: full, load } = useReading(() => whole(route.name), `${route.name} ${route.version}`);
  return html`<div class="detail">
    <dl class="facts"><div><dt>Share of the last day's requests</dt><dd>${percent(share)}</dd></div>${health.map((one) => html`<div><dt>${one.provider}${one.url ? ` ${one.url.replace(/^https?:\/\//, "")}` : ""}</dt><dd><i class=${`dot ${HEALTH[one.state]?.[0] ?? "quiet"}`}></i> ${HEALTH[one.state]?.[1] ?? one.state}${one.in_flight ? `, ${one.in_flight} in flight` : ""}</dd></div>`)}</dl>
    ${editable ? html`<${Editor} key=${`${route.name} ${route.version}`} route=${route} targets=${targets} saved=${saved} />`
      : html`<p class="why"><b>Read-only.</b> ${WHY[route.source]}</p><dl class="facts">${words(route.definition).map(([name, said]) => html`<div><dt>${name}</dt><dd>${said}</dd></div>`)}</dl>`}
    ${full?.versions?.length > 0 && html`<${History} name=${route.name} versions=${full.versions} version=${full.version} changed=${() => { load(); saved(route.name); }} />`}</div>`;
}

/** A route that the address names and that does not answer: never there, or removed and in its history. */
function Gone({ name, saved }) {
  const { data, error } = useReading(() => whole(name), name);
  if (error) return html`<p class="soft">There is no route ${name}.</p>`;
  return data && html`<article class="card"><h2>${name} is removed</h2><${History} name=${name} versions=${data.versions} version=${null} changed=${() => saved(name)} /></article>`;
}
