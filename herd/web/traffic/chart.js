import { moment } from "../lib/format.js";
import { html, memo, useEffect, useRef } from "../lib/html.js";
import { axis, follow, resolved, times, useTheme } from "../lib/plot.js";
import { store } from "../lib/store.js";
import uPlot from "../vendor/uplot/uplot.js";

const HEIGHT = 150;
/** The step under the cursor, in every chart at once; null when there is none. */
const cursor = store({ at: null });
const pointed = (at) => { if (cursor.get().at !== at) cursor.set({ at }); };

/** A line as the charts draw it. */
export const Mark = ({ colour, dash }) => html`<svg class="mark" viewBox="0 0 18 8" aria-hidden="true"><path d="M1 4H17" style=${{ stroke: colour, strokeDasharray: dash.join(" "), strokeWidth: 2 }} /></svg>`;

/** One question: its numbers over the whole time, or at the cursor, and a line a series of {name, share, colour, dash, values}. */
export const Chart = memo(({ name, said, times, series, format, stepped, least, zoom, open }) => {
  const box = useRef();
  const plot = useRef(null);
  const now = useRef();
  now.current = { times, series, format, stepped, least, zoom, open };
  const theme = useTheme();
  const data = [times, ...series.map(({ values }) => values)];
  useEffect(() => {
    plot.current = new uPlot(options(box.current, now.current, now), data, box.current);
    return follow(box.current, plot.current, HEIGHT);
  }, [theme, series.map((s) => s.name + s.colour + s.dash).join("\n")]);
  useEffect(() => { plot.current.setData(data); }, [times, series]);
  const move = (step) => {
    const at = Math.max(0, Math.min(times.length - 1, (plot.current.cursor.idx ?? (step > 0 ? -1 : times.length)) + step));
    plot.current.setCursor({ left: plot.current.valToPos(times[at], "x"), top: 0 }, true, true);
  };
  const key = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
    if (event.key === "Enter" && plot.current.cursor.idx != null) open(plot.current.cursor.idx, null);
  };
  return html`<figure class="chart"><figcaption><b>${name}</b><${Said} times=${times} series=${series} format=${format} said=${said} /></figcaption>
    <div ref=${box} tabindex="0" role="application" aria-label=${`${name}: ${said}, over time. Left and right go through it, Enter opens the conversations behind a point.`} onKeyDown=${key} onBlur=${() => plot.current.setCursor({ left: -10, top: -10 }, true, true)}></div></figure>`;
}, (a, b) => a.times === b.times && a.series === b.series);

function Said({ times, series, format, said }) {
  const { at } = cursor.use();
  const values = at == null || at >= times.length ? null : series.filter(({ values }) => values[at] != null);
  return html`<span class="answer" aria-live=${values ? "polite" : null}>${values ? html`<b>${moment(times[at])}</b>${values.map((s) => html` <span><${Mark} ...${s} /> ${s.share ?? html`<span class="hidden">${s.name}</span>`} ${format(s.values[at])}</span>`)}${!values.length && " nothing"}` : said}</span>`;
}

function options(box, { series, format, stepped, least = 1 }, now) {
  const alone = (u, i) => { const y = u.data[i]; return y.flatMap((value, x) => (value != null && y[x - 1] == null && y[x + 1] == null ? x : [])); };
  return {
    width: box.clientWidth, height: HEIGHT, legend: { show: false },
    scales: { x: { range: (u, low, high) => [low, Math.max(high, low + 1)] }, y: { range: (u, low, high) => [0, high > 0 ? 1.1 * high : least] } },
    cursor: { y: false, drag: { x: true, y: false, setScale: false, dist: 5 }, points: { size: 7 },
      sync: { key: "traffic", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } } },
    axes: [axis(box, { size: 28, values: times, space: 64 }), axis(box, { size: (u, values) => Math.max(56, ...(values ?? []).map(({ length }) => 14 + 7 * length)), values: (u, splits) => splits.map((y) => format(y, true)) })],
    series: [{}, ...series.map(({ colour, dash, width = 1.5 }) => ({ // a step that stands alone is a point, hollow where the line is dashed
      stroke: resolved(box, colour), width, dash, paths: stepped && uPlot.paths.stepped({ align: 1 }),
      points: { show: true, size: 5, width: 1.5, stroke: resolved(box, colour), fill: resolved(box, dash.length ? "var(--paper)" : colour), filter: alone },
    }))],
    hooks: {
      setCursor: [(u) => pointed(u.cursor.left < 0 ? null : u.cursor.idx)],
      setSelect: [(u) => {
        const { left, width } = u.select;
        if (!width) return;
        u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        now.current.zoom(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
      }],
      ready: [(u) => u.over.addEventListener("click", () => {
        const at = u.cursor.idx;
        if (at == null) return;
        const y = u.posToVal(u.cursor.top, "y");
        const far = ({ values }) => (values[at] == null ? Infinity : Math.abs(values[at] - y));
        const [nearest] = [...now.current.series].sort((a, b) => far(a) - far(b));
        now.current.open(at, nearest?.group ?? null);
      })],
    },
  };
}
