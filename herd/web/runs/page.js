import { get, post } from "../lib/api.js";
import { plural, when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { go } from "../lib/router.js";
import { refreshStatus, status } from "../lib/status.js";
import { notify } from "../lib/ui.js";
import { Bones, Failed, Top } from "../shell.js";
import { Plots } from "./plot.js";
import { Verdict } from "./verdict.js";

const OPEN = ["queued", "running", "waiting"];
const MEANING = { queued: "quiet", running: "info", waiting: "caution", done: "good", failed: "bad", cancelled: "quiet" };
const DECISION = { SWITCH: "switched", STAY: "stayed", "NOT ENOUGH DATA": "not enough data" };

export function Runs({ part }) {
  const [{ runs, full, error }, set] = useState({});
  const [closed, setClosed] = useState(false);
  const timer = useRef(0);
  const load = async () => {
    clearTimeout(timer.current);
    const turn = (timer.current = setTimeout(load, 10000)); // also the mark of the newest call
    try {
      const { data } = await get("runs");
      const id = part || (!closed && data[0]?.id);
      const found = id && (await get(`runs/${id}`).catch(() => null)); // both at once, so that nothing jumps
      if (timer.current !== turn) return;
      set({ runs: data, full: found });
      if (!data.some((run) => OPEN.includes(run.state))) return;
      clearTimeout(turn);
      timer.current = setTimeout(load, 1500);
    } catch (problem) { if (timer.current === turn) set((now) => ({ ...now, error: problem })); }
  };
  useEffect(() => { load(); return () => { clearTimeout(timer.current); timer.current = null; }; }, [part, closed]);
  const shown = part || (!closed && runs?.[0]?.id);
  const turn = (id) => { setClosed(id === shown); go(id === shown ? "/runs" : `/runs#${id}`); };
  return html`<main id="main" class="page"><${Top}><h1>Runs</h1><//>
    <div class="sheet" tabindex="0" role="region" aria-label="Runs">
      ${error && html`<${Failed} error=${error} kept="Runs go on without this page." retry=${load} />`}
      <${Improve} began=${(run) => { go(`/runs#${run.id}`); load(); }} latest=${runs?.find((r) => r.state === "done")?.id} />
      ${!runs && !error && html`<${Bones} what="the runs" heights=${[46, 46, 46]} />`}
      ${runs?.length === 0 && html`<p class="soft">No run yet. One that learns from your votes, or a training, will be here with its stages, its plots and its log.
        For votes, regenerate an answer in <a href="/">Chat</a> and say which is better.</p>`}
      <div class="runs">${runs?.map((run) => html`<article class="card run" key=${run.id} aria-label=${`Run ${run.id}`}>
        <button class="run-head unfolds" aria-expanded=${String(run.id === shown)} onClick=${() => turn(run.id)}>
          <i class=${`dot ${MEANING[run.state]}`}></i><b>${run.kind} ${run.args?.name ?? ""}</b><span>${run.state === "waiting" ? "waits: answering comes first" : run.state}</span>
          <i class="fill"></i><span class="soft">${DECISION[run.result?.decision] ?? ""}</span><span class="soft when">${run.created ? when(run.created) : ""}</span></button>
        ${run.id === shown && html`<${Detail} run=${run} full=${full?.id === run.id ? full : null} changed=${load} />`}</article>`)}</div>
    </div></main>`;
}

/** The one action that starts the loop: votes become a candidate, and a verdict decides. */
function Improve({ began, latest }) {
  const { data } = status.use();
  const [chosen, setChosen] = useState(null);
  const [votes, setVotes] = useState(null);
  const name = chosen ?? data?.default_route;
  useEffect(() => {
    if (name) get(`votes?route=${encodeURIComponent(name)}`).then((found) => setVotes(found.data.length), () => setVotes(null));
  }, [name, latest]);
  const start = () => post("runs", { kind: "improve", args: { name } }).then(began, (error) => notify(`The run did not start. ${error.message}`));
  const called = name ?? "cria"; // until the server has said which
  return html`<section class="improve"><div><h2>Improve ${called} from my votes</h2>
      <p class="soft">${votes == null ? "– votes" : plural(votes, "vote")} so far. A candidate learns from them; it is served only if it is better on votes that it has not seen, and no worse at ordinary text. It can be undone.</p></div>
    ${data?.routes?.length > 1 && html`<label><span class="hidden">Route to improve</span><select value=${name} onChange=${(event) => setChosen(event.target.value)}>${data.routes.map((r) => html`<option>${r.name}</option>`)}</select></label>`}
    <button class="primary" disabled=${!name} onClick=${start}>Improve ${called}</button></section>`;
}

function Detail({ run, full, changed }) {
  const cancel = () => post(`runs/${run.id}/cancel`).then(changed, (error) => notify(`The run goes on. ${error.message}`));
  const log = [].concat(full?.log ?? []).join("\n");
  return html`<div class="detail">
    ${run.stages?.length > 0 && html`<${Stages} run=${run} />`}
    ${run.error && html`<p class="bad-text">${run.error}</p>`}
    ${run.result?.decision && html`<${Verdict} result=${run.result} changed=${() => { refreshStatus(); changed(); }} />`}
    ${!full && html`<${Bones} what="the run" heights=${[178, 120]} />`}
    ${full?.metrics?.length > 1 && html`<${Plots} rows=${full.metrics} />`}
    ${log && html`<pre class="log" tabindex="0" role="region" aria-label="Log, its end">${log}</pre>`}
    <p class="run-foot"><code class="soft">${run.id}</code>${OPEN.includes(run.state) && html`<button onClick=${cancel}>Cancel</button>`}</p></div>`;
}

function Stages({ run }) {
  const at = run.stages.indexOf(run.stage) + (run.state === "done"); // one that is done may have needed no more stages
  return html`<ol class="stages">${run.stages.map((name, i) => html`<li class=${i < at ? "past" : i === at ? "now" : ""} aria-current=${i === at ? "step" : null}>${name}${i < at ? html`<span class="hidden"> (done)</span>` : ""}</li>`)}</ol>`;
}
