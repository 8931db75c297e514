import { get } from "../lib/api.js";
import { colour, moment } from "../lib/format.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { axis, follow, resolved, times, useTheme } from "../lib/plot.js";
import { useReading } from "../parts.js";
import { Bones, Failed } from "../shell.js";
import { Mark } from "../traffic/chart.js";
import uPlot from "../vendor/uplot/uplot.js";
import { between, rated, ratingScale } from "./numbers.js";

const HEIGHT = 260, MOST = 4; // lines where it is not known who is open
const DASHES = [[2, 3], [5, 3], [10, 3], []];
const BESTS = [["best_open", "Best open", "var(--data-3)", []], ["best_closed", "Best closed", "var(--data-5)", [8, 4]]];

/** Ratings over time: the best open model against the best closed one, and the two that were chosen. */
export function History({ raters, category, a, b, beside }) {
  const query = new URLSearchParams({ raters, ...(category ? { category } : {}) });
  const { data, error, load } = useReading(() => get(`leaderboard/history?${query}`), String(query), 30);
  const [open, setOpen] = useState(false);
  const drawn = ({ rating }) => rating.filter((x) => x != null).length > 1;
  const bests = data ? BESTS.filter(([key]) => drawn(data[key])) : [], last = ({ rating }) => rating.at(-1) ?? -Infinity;
  const able = data?.series.filter(drawn) ?? [], some = able.filter(({ name }) => name === a || name === b);
  const chosen = some.length || bests.length ? some : able.sort((x, y) => last(y) - last(x)).slice(0, MOST);
  const lines = useMemo(() => [...bests.map(([key, title, paint, dash]) => ({ ...data[key], title, colour: paint, dash, band: true })),
    ...chosen.map((one, i) => ({ ...one, title: one.name, colour: colour(one.name), dash: DASHES[i], band: !bests.length && chosen.length < 3 }))], [data, a, b]);
  return html`<section><h2>${data && !bests.length ? "Over time" : "Over time: best open against best closed"}</h2>${beside && html`<p class="soft small">Drawn ${beside}.</p>`}
    ${error && !data ? html`<${Failed} error=${error} kept="The leaderboard stays as it is." retry=${load} />`
      : !data ? html`<${Bones} what="the history" heights=${[HEIGHT + 28]} />`
      : !lines.length ? html`<p class="soft">Some more votes make a line; until then the ratings above are all there is.</p>`
      : html`<${Plot} times=${data.times} lines=${lines} />
        <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Time by time</button>
        ${open && html`<div class="wide-table steps" tabindex="0" role="region" aria-label="Time by time"><table class="numbers"><thead><tr><th scope="col">Time</th>${lines.map(({ title }) => html`<th scope="col" key=${title}>${title}</th>`)}</tr></thead>
          <tbody>${data.times.map((time, i) => html`<tr key=${time}><th scope="row">${moment(time)}</th>${lines.map((line) => html`<td key=${line.title}>${value(line, i)}</td>`)}</tr>`).reverse()}</tbody></table></div>`}`}</section>`;
}

/** Who it is at time `i`, where that changes, and how it is rated then. */
const value = ({ title, name, rating, low, high }, i) => `${title !== name && name[i] ? `${name[i]} ` : ""}${rating[i] == null ? "–" : `${rated({ rating: rating[i] })} (${between(low[i], high[i])})`}`;

function Plot({ times: x, lines }) {
  const box = useRef(), plot = useRef(null);
  const [at, setAt] = useState(null);
  const theme = useTheme();
  const seen = useRef(); // what the ratings reach: an interval of the first votes would press all else into a line
  seen.current = lines.flatMap(({ rating, low, high }) => rating.map((value, i) => ({ rating: value, low: low[i], high: high[i] })));
  const columns = [x, ...lines.flatMap(({ rating, low, high }) => [rating, low, high])];
  useEffect(() => {
    plot.current = new uPlot({
      width: box.current.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: () => { const { from, to } = ratingScale(seen.current, 6); return [from, to]; } } },
      axes: [axis(box.current, { size: 28, values: times, space: 64 }), axis(box.current, { label: "rating", labelSize: 18, labelFont: "12px system-ui", size: 48 })],
      series: [{}, ...lines.flatMap(({ colour: paint, dash }) => [{ stroke: resolved(box.current, paint), width: 2, dash, points: { show: false } }, ...[0, 0].map(() => ({ stroke: null, width: 0, points: { show: false } }))])],
      bands: lines.filter(({ band }) => band).map(({ colour: paint }, i) => ({ series: [3 * i + 3, 3 * i + 2], fill: resolved(box.current, `color-mix(in srgb, ${paint} 16%, transparent)`) })),
      hooks: { setCursor: [(u) => setAt(u.cursor.left < 0 ? null : u.cursor.idx)] },
    }, columns, box.current);
    return follow(box.current, plot.current, HEIGHT);
  }, [theme, lines.map(({ title }) => title).join("\n")]);
  useEffect(() => { plot.current.setData(columns); }, [lines]);
  const key = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(x.length - 1, (at ?? (step > 0 ? -1 : x.length)) + step));
    plot.current.setCursor({ left: plot.current.valToPos(x[next], "x"), top: 0 });
  };
  const i = at != null && at < x.length ? at : x.length - 1;
  const words = lines.map((line) => `${line.title} ${value(line, i)}`);
  return html`<figure class="chart over-time"><figcaption aria-live=${at == null ? null : "polite"}><b>${at == null ? "Now" : moment(x[i])}</b>${lines.map((line, n) => html`<span key=${line.title}><${Mark} ...${line} /> ${words[n]}</span>`)}</figcaption>
    <div ref=${box} tabindex="0" role="application" aria-label=${`Rating over time with 95 % intervals: ${words.join("; ")}. Left and right go through it.`} onKeyDown=${key} onBlur=${() => setAt(null)}></div></figure>`;
}
