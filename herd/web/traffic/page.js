import { get } from "../lib/api.js";
import { applications, readApplications } from "../lib/applications.js";
import { clock, moment } from "../lib/format.js";
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { address, asked as askedNow, go } from "../lib/router.js";
import { copy } from "../lib/ui.js";
import { Choice, useReading } from "../parts.js";
import { Bones, Failed, Top } from "../shell.js";
import { Chart, Mark } from "./chart.js";
import { Findings } from "./findings.js";
import { drawn, QUESTIONS, SHARES } from "./questions.js";
import { Table } from "./table.js";
import { fromLocal, RANGES, span, toLocal } from "./window.js";

const BY = [["route", "Route"], ["target", "Target"], ["key", "Key"], ["provider", "Provider"]];

export function Traffic() {
  const asked = askedNow();
  const { by = "target", only, range = "24h" } = asked;
  const [share, setShare] = useState("p95");
  const turn = (patch) => go(address("/traffic", { ...asked, ...patch }));
  const names = applications.use();
  useEffect(() => { readApplications(); }, []);
  const read = async () => {
    const time = span(asked);
    const query = `since=${time.since}&until=${time.until}&by=${by}`;
    const [series, whole, findings] = await Promise.all([
      get(`traffic?${query}&step=${time.step}`), get(`traffic?${query}&step=${time.until - time.since}`), get("findings")]);
    return { time, by, rows: series.data, totals: series.totals ?? { requests: 0 }, whole: whole.data, findings: findings.data, at: new Date() };
  };
  const { data, error, busy, load, asked: answered } = useReading(read, JSON.stringify([by, range, asked.since, asked.until]), asked.until ? 0 : 5);
  const places = useMemo(() => new Map(), [answered]);
  const shown = useMemo(() => data && drawn(data, only, share, places), [data, only, share, names]);
  const empty = data && !data.totals.requests;
  const link = (group, start, finish) => address("/conversations", { [data.by]: data.by === "provider" ? null : group, since: start ?? data.time.since, until: start == null ? data.time.until : start + data.time.step, finish });
  const zoom = (from, to) => { const { since, until } = span({ since: from, until: Math.max(to, from + 60) }); turn({ range: null, since, until }); };
  const charts = shown?.charts ?? QUESTIONS.map(([name]) => ({ name }));
  return html`<main id="main" class="page"><${Top}><h1>Traffic</h1><//>
    <div class="sheet traffic" tabindex="0" role="region" aria-label="Traffic" aria-busy=${String(busy)}>
      <${Controls} ...${{ asked, by, range, turn, share, setShare, data }} />
      ${error && html`<${Failed} error=${error} kept=${data ? "What is shown was read before." : "Requests go on, and are counted."} retry=${load} />`}
      ${(data || !error) && html`<${Findings} data=${data?.findings} changed=${load} />`}
      ${empty ? html`<${Empty} all=${range === "30d" && !asked.until} turn=${turn} />` : (data || !error) && html`
        <${Legend} ...${{ data, only, turn }} lines=${shown?.lines} />
        <div class="charts">${charts.map((chart) => html`<div key=${chart.name}>${data
          ? html`<${Chart} ...${chart} times=${shown.times} zoom=${zoom} open=${(i, group) => go(link(only ?? group, shown.times[i], chart.finish))} />`
          : html`<figure class="chart"><figcaption><b>${chart.name}</b></figcaption><div class="bone"></div></figure>`}</div>`)}</div>
        ${data ? html`<${Table} by=${data.by} groups=${shown.groups} rows=${data.rows} totals=${data.totals} names=${names} link=${link} />` : html`<${Bones} what="the numbers" heights=${[180]} />`}`}
    </div></main>`;
}

function Controls({ asked, by, range, turn, share, setShare, data }) {
  const [open, setOpen] = useState(false);
  const time = data?.time ?? span(asked);
  const show = (event) => {
    event.preventDefault();
    const [since, until] = ["since", "until"].map((name) => fromLocal(event.target.elements[name].value));
    if (until > since) { setOpen(false); turn({ range: null, since, until }); } else event.target.elements.until.setCustomValidity("Choose a later time than the first."), event.target.reportValidity();
  };
  return html`<div class="controls"><${Choice} label="Time" value=${asked.until ? "" : range} options=${Object.entries(RANGES).map(([key, [words]]) => [key, words])} onChange=${(key) => turn({ range: key, since: null, until: null })} />
    <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>${asked.until ? `${moment(time.since)} to ${moment(time.until)}` : "Other times"}</button>
    ${asked.until && html`<button onClick=${() => turn({ range: null, since: null, until: null })}>Reset the zoom</button>`}<i class="fill"></i>
    <span class="soft live">${!data ? "" : asked.until ? "" : `live, as of ${clock(data.at)}`}</span>
    ${open && html`<form class="times" onSubmit=${show}><label>From <input type="datetime-local" name="since" required defaultValue=${toLocal(time.since)} /></label>
      <label>to <input type="datetime-local" name="until" required defaultValue=${toLocal(time.until)} onInput=${(event) => event.target.setCustomValidity("")} /></label><button class="primary">Show</button></form>`}
    <div class="second"><span class="soft">By</span><${Choice} label="By" value=${by} options=${BY} onChange=${(key) => turn({ by: key, only: null })} />
      <span class="soft">Speed</span><${Choice} label="Speed" value=${share} options=${SHARES.map((p) => [p, p])} onChange=${setShare} /></div></div>`;
}

/** The groups that have lines; choosing one shows it alone, with all of its percentiles. */
function Legend({ data, only, turn, lines }) {
  return html`<div class="legend" role="group" aria-label="Lines">${lines?.map(({ name, group, colour: paint, dash }) => html`<button class="quiet" aria-pressed=${String(group === only)} onClick=${() => turn({ only: group === only ? null : group })}>
      <${Mark} colour=${paint} dash=${dash} />${name}</button>`)}
    ${only && html`<button class="quiet" onClick=${() => turn({ only: null })}>Show all</button>`}
    ${data && data.whole.length > lines.length && html`<span class="soft">the ${lines.length} busiest; the table has all</span>`}</div>`;
}

function Empty({ all, turn }) {
  const base = `${location.origin}/v1`;
  return html`<div class="empty"><h2>${all ? "No traffic yet" : "No traffic in this time"}</h2>
    <p>Point an application here and each request will be in these charts: how many, how fast, how much, how often wrong. One line changes:</p>
    <p class="line"><code>base_url = "${base}"</code><button class="primary" onClick=${() => copy(`base_url = "${base}"`)}>Copy</button></p>
    ${!all && html`<p class="soft">Or look further back: <button class="quiet" onClick=${() => turn({ range: "30d", since: null, until: null })}>30 days</button></p>`}</div>`;
}
