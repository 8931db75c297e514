import { get } from "../lib/api.js";
import { colour, moment, when } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { axis, follow, resolved, useTheme } from "../lib/plot.js";
import { useReading } from "../parts.js";
import { Bones, Failed } from "../shell.js";
import { Mark } from "../traffic/chart.js";
import uPlot from "../vendor/uplot/uplot.js";
import { between, rated } from "./numbers.js";

const HEIGHT = 260;
const BESTS = [["best_open", "Best open", "var(--data-3)", []], ["best_closed", "Best closed", "var(--data-5)", [8, 4]]];

/** Ratings over time: the best open model against the best closed one, and the two that were chosen. */
export function History({ raters, category, a, b }) {
  const query = new URLSearchParams({ raters, ...(category ? { category } : {}) });
  const { data, error, load } = useReading(() => get(`leaderboard/history?${query}`), String(query), 30);
  const [open, setOpen] = useState(false);
  const bests = BESTS.filter(([key]) => data?.[key]?.rating.some((x) => x != null));
  const chosen = data?.series.filter(({ name }) => name === a || name === b) ?? [];
  const rows = open ? data.times.map((time, i) => [time, i]).reverse() : [];
  const cells = (key, i) => { const { name, rating, low, high } = data[key]; return rating[i] == null ? "–" : html`${rated({ rating: rating[i] })} <span class="soft">(${between(low[i], high[i])})</span> ${name[i]}`; };
  return html`<section><h2>Over time: best open against best closed</h2>
    ${error && !data ? html`<${Failed} error=${error} kept="The leaderboard stays as it is." retry=${load} />`
      : !data ? html`<${Bones} what="the history" heights=${[HEIGHT + 28]} />`
      : data.times.length < 2 || !bests.length && !chosen.length ? html`<p class="soft">Two days with votes make a line; until then the ratings above are all there is.</p>`
      : html`<${Plot} data=${data} bests=${bests} chosen=${chosen} />
        <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Time by time</button>
        ${open && html`<div class="wide-table steps" tabindex="0" role="region" aria-label="Time by time"><table class="numbers"><thead><tr><th scope="col">Time</th>${bests.map(([, title]) => html`<th scope="col">${title}</th>`)}</tr></thead>
          <tbody>${rows.map(([time, i]) => html`<tr key=${time}><th scope="row">${moment(time)}</th>${bests.map(([key]) => html`<td key=${key}>${cells(key, i)}</td>`)}</tr>`)}</tbody></table></div>`}`}</section>`;
}

function Plot({ data, bests, chosen }) {
  const box = useRef(), plot = useRef(null);
  const [at, setAt] = useState(null);
  const theme = useTheme();
  const lines = [...bests.map(([key, title, paint, dash]) => ({ ...data[key], title, colour: paint, dash })), ...chosen.map((one) => ({ ...one, title: one.name, colour: colour(one.name), dash: [2, 3] }))];
  const columns = [data.times, ...lines.flatMap(({ rating, low, high }) => [rating, low, high])];
  useEffect(() => {
    plot.current = new uPlot({
      width: box.current.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } },
      axes: [axis(box.current, { size: 28, values: (u, ticks) => ticks.map(when), space: 64 }), axis(box.current, { label: "rating", labelSize: 18, labelFont: "12px system-ui", size: 48 })],
      series: [{}, ...lines.flatMap(({ colour: paint, dash }) => [{ stroke: resolved(box.current, paint), width: 2, dash, points: { show: data.times.length < 3 } }, ...[0, 0].map(() => ({ stroke: null, width: 0, points: { show: false } }))])],
      bands: lines.slice(0, bests.length).map(({ colour: paint }, i) => ({ series: [3 * i + 3, 3 * i + 2], fill: resolved(box.current, `color-mix(in srgb, ${paint} 16%, transparent)`) })),
      hooks: { setCursor: [(u) => setAt(u.cursor.left < 0 ? null : u.cursor.idx)] },
    }, columns, box.current);
    return follow(box.current, plot.current, HEIGHT);
  }, [theme, lines.map(({ title }) => title).join("\n")]);
  useEffect(() => { plot.current.setData(columns); }, [data]);
  const key = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(data.times.length - 1, (at ?? (step > 0 ? -1 : data.times.length)) + step));
    plot.current.setCursor({ left: plot.current.valToPos(data.times[next], "x"), top: 0 });
  };
  const i = at ?? data.times.length - 1;
  const value = ({ title, name, rating, low, high }) => `${title}${Array.isArray(name) && name[i] ? `, ${name[i]}` : ""} ${rating[i] == null ? "–" : `${rated({ rating: rating[i] })} (${between(low[i], high[i])})`}`;
  const words = lines.map(value);
  return html`<figure class="chart over-time"><figcaption aria-live=${at == null ? null : "polite"}><b>${at == null ? "Now" : moment(data.times[i])}</b>${lines.map((line, n) => html`<span key=${line.title}><${Mark} ...${line} /> ${words[n]}</span>`)}</figcaption>
    <div ref=${box} tabindex="0" role="application" aria-label=${`Rating over time with 95 % intervals: ${words.join("; ")}. Left and right go through it.`} onKeyDown=${key} onBlur=${() => setAt(null)}></div></figure>`;
}
