import { get } from "../lib/api.js";
import { clock, count, plural } from "../lib/format.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { address, asked as askedNow, go } from "../lib/router.js";
import { useReading } from "../parts.js";
import { Bones, Failed, Top } from "../shell.js";
import { Compare } from "./compare.js";
import { Dots, Track } from "./dots.js";
import { Heat } from "./heat.js";
import { History } from "./history.js";
import { between, scale, signed } from "./numbers.js";
import { Pareto } from "./pareto.js";
import { Table } from "./table.js";

const TRIES = 10; // a second each, for a board that is made anew only now and then

const called = (raters) => (raters === "people" ? "people" : raters.replace(/^judge:/, "judge "));

export function Leaderboard() {
  const asked = askedNow();
  const { raters = "people", category = "", style, open, a, b } = asked;
  const turn = (patch) => go(address("/leaderboard", { ...askedNow(), ...patch }), { replace: "a" in patch || "b" in patch });
  const query = new URLSearchParams({ raters, style: style === "1" ? 1 : 0, open: open === "1" ? 1 : 0, ...(category ? { category } : {}) });
  const read = async () => ({ ...(await get(`leaderboard?${query}`)), read: new Date(), of: { raters, open: open === "1" } });
  const { data, error, busy, load, again } = useReading(read, String(query));
  const live = useLive(data, busy, again);
  const rows = useMemo(() => data && data.rows.map((row) => (row.separated === "no votes" ? { ...row, component: null } : row)).sort((x, y) => (x.component ?? 1e9) - (y.component ?? 1e9)), [data]); // each group of targets that votes connect by itself
  const choose = (name) => turn(name === a ? { a: b ?? null, b: null } : name === b ? { b: null } : a ? { b: name } : { a: name });
  const beside = [category && "over all categories", style === "1" && "without style control"].filter(Boolean).join(", ");
  return html`<main id="main" class="page"><${Top} route=""><h1>Leaderboard</h1><//>
    <div class="sheet board" tabindex="0" role="region" aria-label="Leaderboard" aria-busy=${String(busy)}>
      <${Controls} ...${{ data, raters, category, style, open, turn, live }} />
      ${error && html`<${Failed} error=${error} kept=${data ? "What is shown was read before." : "Votes are kept all the same."} retry=${load} />`}
      ${!data ? !error && html`<${Bones} what="the leaderboard" heights=${[64, 110, 420, 300]} />`
        : !rows.some(({ votes }) => votes) ? html`<${Empty} ...${{ data, raters, category, open, turn }} />`
        : html`<${Standing} ...${{ data, rows, ...data.of }} />
          <div class="ranking"><${Compare} ...${{ a, b, raters, version: data.version, turn }} names=${rows.map(({ name }) => name)} beside=${beside && `This sentence is ${beside}.`} />
            <${Dots} ...${{ rows, a, b, choose }} gauge=${data.gauge} open=${open === "1"} /></div>
          ${data.style && html`<${Style} ...${data.style} />`}
          <${Table} ...${{ rows, a, b }} />
          <${Heat} pairs=${data.pairs} />
          <${History} ...${{ raters, category, a, b }} beside=${[category && `from the votes in ${category} alone`, style === "1" && "without style control"].filter(Boolean).join(", ")} />
          <${Pareto} ...${{ rows, a, b }} />`}
    </div></main>`;
}

/** Reads again, at most once a second and while somebody looks, until `data` is of the version that the server tells of; whether it listens. */
function useLive(data, busy, load) {
  const [{ told, listens }, set] = useState({ told: null, listens: false });
  const tries = useRef({});
  useEffect(() => {
    if (busy || told == null || !data || told === data.version) return;
    tries.current = { told, n: tries.current.told === told ? tries.current.n + 1 : 0 };
    if (tries.current.n > TRIES) return; // of two gateways each counts for itself
    const soon = setTimeout(load, Math.max(0, 1000 - (Date.now() - data.read)));
    return () => clearTimeout(soon);
  }, [told, data, busy]);
  useEffect(() => {
    let source = null, again = 0;
    const hear = (patch) => set((now) => ({ ...now, ...patch }));
    const listen = () => { // not from a tab in the background: a browser has six connections to a server
      source?.close();
      clearTimeout(again);
      hear({ listens: false });
      if (document.hidden) return;
      source = new EventSource("/api/leaderboard/live");
      source.onopen = () => hear({ listens: true });
      source.onmessage = ({ data: text }) => hear({ told: JSON.parse(text).version });
      source.onerror = () => { hear({ listens: false }); if (source.readyState === EventSource.CLOSED) again = setTimeout(listen, 10000); };
    };
    listen();
    document.addEventListener("visibilitychange", listen);
    return () => { document.removeEventListener("visibilitychange", listen); source?.close(); clearTimeout(again); };
  }, []);
  return listens;
}

function Controls({ data, raters, category, style, open, turn, live }) {
  const judges = [...new Set([...(data?.raters ?? ["people"]), raters])];
  const categories = data?.categories ?? [];
  const known = categories.some(({ name }) => name === category);
  const tick = (name, value, words) => html`<label class="tick-box"><input type="checkbox" checked=${value === "1"} onChange=${(event) => turn({ [name]: event.target.checked ? 1 : null })} /> ${words}</label>`;
  return html`<div class="controls"><label><span class="hidden">Category</span><select value=${category} onChange=${(event) => turn({ category: event.target.value })}>
      <option value="">All categories</option>${categories.map(({ name, votes }) => html`<option key=${name} value=${name}>${name} (${count(votes)})</option>`)}
      ${category && !known && html`<option value=${category}>${category} (no votes)</option>`}</select></label>
    ${judges.length > 1 && html`<label><span class="hidden">Whose votes</span><select value=${raters} onChange=${(event) => turn({ raters: event.target.value === "people" ? null : event.target.value })}>
      ${judges.map((name) => html`<option key=${name} value=${name}>By ${called(name)}</option>`)}</select></label>`}
    ${tick("style", style, "Style control")}${tick("open", open, "Open only")}<i class="fill"></i>
    <span class="soft live">${data && `${live ? "live, as of" : "as of"} ${clock(data.read)}`}</span></div>`;
}

/** What the votes are, what is still open, and what keeps the numbers from being trusted. */
function Standing({ data, raters, rows, open }) {
  const { totals, problems, progress } = data;
  const reasons = Object.entries(totals.void ?? {}).filter(([, n]) => n), voided = reasons.reduce((sum, [, n]) => sum + n, 0);
  const parts = raters !== "people" ? [`Only ${open ? "" : `${count(rows.reduce((sum, row) => sum + row.votes + row.both_bad, 0) / 2)} `}votes of ${called(raters)}; those of people stand by themselves`] : [
    `${plural(totals.people, "vote")} of people`, totals.voters && plural(totals.voters, "voter"), totals.both_bad && `${count(totals.both_bad)} both bad`,
    voided && `${count(voided)} void (${reasons.map(([why, n]) => (reasons.length > 1 ? `${why} ${count(n)}` : why)).join(", ")})`,
    totals.flagged_voters && `${plural(totals.flagged_voters, "voter")} flagged, whose ${plural(totals.flagged_votes, "vote")} ${totals.flagged_votes === 1 ? "does" : "do"} not count`,
    totals.judges && `${plural(totals.judges, "vote")} of judges, not in here`,
  ];
  return html`<section class="standing" aria-label="How it stands">
    ${problems.map((text) => html`<p key=${text} class="problem"><i class="dot caution"></i><span>${text}</span></p>`)}
    <p>${progress && html`<b>So far: ${progress}.</b> `}<a href="/arena">Vote in the arena</a></p><p class="soft small">${parts.filter(Boolean).join(" · ")}</p></section>`;
}

const FEATURES = { length: "longer", headers: "with more headers", lists: "with more list items", bold: "with more bold text", left: "at the left" };

/** What style is worth by itself: the ratings above are without it. */
function Style({ coefficients, left_out }) {
  const ends = coefficients.flatMap(({ low, high }) => [low, high]), axis = scale(Math.min(0, ...ends), Math.max(0, ...ends));
  const say = (x) => x.toFixed(2);
  return html`<section class="style"><h2>What style is worth</h2><p class="soft small">The change of the log-odds to be preferred, by a standard deviation more of it (at the left: by standing there), with 95 % intervals. The ratings are those at equal style.${left_out ? ` ${plural(left_out, "vote")} without text ${left_out === 1 ? "is" : "are"} left out.` : ""}</p>
    <dl>${coefficients.map(({ name, estimate, low, high }) => html`<div key=${name}><dt>${FEATURES[name] ?? name}</dt><dd><${Track} low=${low} value=${estimate} high=${high} at=${axis.at} paint="var(--data-2)"><i class="tick even" style=${{ left: `${axis.at(0)}%` }}></i><//>
      <span class="figure">${signed(estimate, say)} <span class="soft">(${between(low, high, (x) => signed(x, say))})</span></span></dd></div>`)}</dl></section>`;
}

function Empty({ data, raters, category, open, turn }) {
  if (open === "1" || category || raters !== "people") return html`<div class="empty"><h2>No votes here</h2>
    <p>There are none ${[category && `in ${category}`, open === "1" && "between open models", raters !== "people" && `of ${called(raters)}`].filter(Boolean).join(", ")}${data.totals.votes ? `, of ${plural(data.totals.votes, "vote")} in all` : ""}.</p>
    <p><button class="primary" onClick=${() => turn({ category: null, open: null, raters: null })}>Show all votes of people</button></p></div>`;
  return html`<div class="empty"><h2>No votes yet</h2><p>Each vote in the arena, which of two replies is better, moves the targets here: a dot with its interval, what is still undecided, and what the better one costs.</p>
    <p><a class="start" href="/arena">Cast the first vote</a></p></div>`;
}
