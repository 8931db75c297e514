import { get, post } from "../lib/api.js";
import { colour, dollars, short, when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { address, go, place } from "../lib/router.js";
import { copy, notify } from "../lib/ui.js";
import { Named, Sure, useReading } from "../parts.js";
import { Bones, Failed, Top } from "../shell.js";
import { Create, SCOPES } from "./create.js";

const DAY = 86400, PERIODS = [["24 hours", 1], ["7 days", 7], ["30 days", 30]];

/** The keys, and what each cost in some periods. */
async function readAll() {
  const until = Math.ceil(Date.now() / 1000);
  const [keys, ...spans] = await Promise.all([get("keys?limit=200"), ...PERIODS.map(([, days]) => get(`traffic?by=key&since=${until - days * DAY}&until=${until}&step=${days * DAY}`))]);
  return { keys: keys.data, cost: spans.map(({ data }) => new Map(data.map((row) => [row.group, row.cost]))) };
}
const isOver = ({ revoked, expires }) => Boolean(revoked) || (expires && expires < Date.now() / 1000);

export function Keys() {
  const creating = place.get().part === "new";
  const { data, error, load } = useReading(readAll, "", 15);
  const [secret, setSecret] = useState(null); // of the key just made: never kept, never shown again
  const { keys, cost } = data ?? {};
  const made = (row) => { setSecret(row); go("/keys", { replace: true }); load(); };
  const list = (rows) => html`<div class="cards">${rows.map((row) => html`<${Key} key=${row.id} row=${row} cost=${cost} changed=${load} />`)}</div>`;
  const good = keys?.filter((row) => !isOver(row)), over = keys?.filter(isOver);
  return html`<main id="main" class="page"><${Top}><h1>Keys</h1><//>
    <div class="sheet keyring" tabindex="0" role="region" aria-label="Keys">
      <div class="lead"><p class="soft">Each application has a key of its own: what it may use, how much, and until when. Only a hash of it is kept.</p>
        <button class="primary" aria-expanded=${String(creating)} onClick=${() => go(creating ? "/keys" : address("/keys", {}, "new"))}>New key</button></div>
      ${error && html`<${Failed} error=${error} kept=${data ? "What is shown was read before." : "Keys go on opening what they open."} retry=${load} />`}
      ${creating && html`<${Create} made=${made} close=${() => go("/keys")} />`}
      ${secret && html`<${Secret} row=${secret} close=${() => setSecret(null)} />`}
      ${!keys && !error && html`<${Bones} what="the keys" heights=${[118, 118]} />`}
      ${keys?.length === 0 && !creating && !secret && html`<div class="empty"><h2>No keys yet</h2><p>Make one for each application. It will be here with what it spent of its limits, and can be revoked at once.</p></div>`}
      ${good?.length > 0 && list(good)}
      ${over?.length > 0 && html`<section><h2>Over</h2>${list(over)}</section>`}
    </div></main>`;
}

function Secret({ row, close }) {
  const button = useRef();
  useEffect(() => button.current.focus(), []);
  return html`<section class="card secret" aria-label="The new key"><h2>The key of ${row.application}</h2><p>Copy it now: it is shown this once. Herd keeps only a hash of it.</p>
    <p class="line"><code>${row.secret}</code><button ref=${button} class="primary" onClick=${() => copy(row.secret, "The key is copied.")}>Copy</button><button class="quiet" onClick=${close}>I have it</button></p></section>`;
}

const amount = (unit, value) => (unit === "dollars" ? dollars(value) : short(value));
const scopeWords = (scope) => SCOPES.find(([key]) => key === scope)?.[1] ?? (scope.startsWith("use:") ? `use ${scope.slice(4)}` : scope);

function Key({ row, cost, changed }) {
  const { id, shown, application, scopes, spend = [], expires, revoked, keep, use } = row;
  const over = isOver(row);
  const revoke = () => post(`keys/${encodeURIComponent(id)}/revoke`).then(() => { notify(`The key of ${application} is revoked; what it was streaming has ended.`); changed(); }, (error) => notify(`The key still opens. ${error.message}`));
  const spent = (costs) => costs.get(id) ?? 0;
  const rules = [keep && `keeps ${keep === "text" ? "text" : keep === "none" ? "nothing" : "numbers only"}`, use && `may be used to ${use.join(" and ") || "nothing"}`].filter(Boolean);
  return html`<article class=${`card key ${over ? "over" : ""}`} aria-label=${`Key of ${application}`}>
    <header><h2><${Named} name=${application} colour=${colour(id)} /></h2><code class="soft">${shown}…</code><i class="fill"></i>
      <span class="soft">${revoked ? `revoked ${when(revoked)}` : expires ? `${over ? "ended" : "until"} ${new Date(1000 * expires).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" })}` : "no end"}</span>
      ${!over && html`<${Sure} label="Revoke" ask="Its running replies end, too. It cannot be undone." yes="Revoke" run=${revoke} />`}</header>
    <p class="may">May ${scopes.map(scopeWords).join(", ")}${rules.length > 0 && html`<span class="soft">; ${rules.join("; ")}</span>`}</p>
    ${spend.map((one) => html`<${Budget} ...${one} />`)}
    <p class="spent soft"><a href=${address("/conversations", { key: id })}>Conversations</a>${PERIODS.map(([words], i) => html`<span>${dollars(spent(cost[i]))} in ${words}</span>`)}</p></article>`;
}

/** Spent and reserved of a limit, as a bar and in words. */
function Budget({ unit, period, spent, reserved, amount: most }) {
  const share = (part) => `${Math.min(100, (100 * part) / (most || 1))}%`;
  const left = Math.max(0, most - spent - reserved);
  const words = `${amount(unit, spent)} of ${amount(unit, most)}${unit === "dollars" ? "" : ` ${unit}`} ${period === "total" ? "in all" : `this ${period}`}`;
  return html`<div class="budget"><span>${words}</span><div class="bar" role="img" aria-label=${`${words}${reserved ? `, ${amount(unit, reserved)} reserved` : ""}`}>${spent > 0 && html`<i class=${left ? "" : "full"} style=${{ width: share(spent) }}></i>`}${reserved > 0 && html`<i class="held" style=${{ width: share(reserved) }}></i>`}</div>
    <span class="soft">${left ? `${amount(unit, left)} left` : "used up"}${reserved > 0 ? `, ${amount(unit, reserved)} reserved` : ""}</span></div>`;
}
