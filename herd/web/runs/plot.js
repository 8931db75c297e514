import { figure } from "../lib/format.js";
import { html, useEffect, useRef } from "../lib/html.js";
import { axis, follow, resolved, useTheme } from "../lib/plot.js";
import uPlot from "../vendor/uplot/uplot.js";

const STEPS = ["step", "update", "tokens", "epoch", "time"];
const MOST = 4; // plots of one run

/** Small multiples: one plot a measured number that changes, over steps. */
export function Plots({ rows }) {
  const step = STEPS.find((key) => typeof rows[0][key] === "number");
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))]
    .filter((key) => !STEPS.includes(key) && new Set(rows.map((row) => row[key]).filter((x) => typeof x === "number")).size > 1).slice(0, MOST);
  return html`<div class="plots">${names.map((name, i) => html`<${Plot} key=${name} name=${name} number=${i + 1}
    x=${rows.map((row, at) => (step ? row[step] : at))} y=${rows.map((row) => row[name] ?? null)} xName=${step ?? "line"} />`)}</div>`;
}

function Plot({ name, number, x, y, xName }) {
  const ref = useRef();
  const plot = useRef(null);
  const theme = useTheme();
  useEffect(() => {
    const box = ref.current;
    plot.current = new uPlot({
      width: box.clientWidth, height: 150, legend: { show: false }, scales: { x: { time: false } }, cursor: { y: false },
      axes: [axis(box, { size: 28 }), axis(box)],
      series: [{}, { stroke: resolved(box, `var(--data-${number})`), width: 1.5, points: { show: false } }],
    }, [x, y], box);
    return follow(box, plot.current, 150);
  }, [theme]);
  useEffect(() => { plot.current?.setData([x, y]); }, [x.length, y.at(-1)]);
  const last = y.findLast((value) => value != null);
  return html`<figure><figcaption><b>${name.replace(/_/g, " ")}</b> <span class="soft">now ${figure(last)}, by ${xName}</span></figcaption>
    <div ref=${ref} role="img" aria-label=${`${name} over ${xName}, ${y.length} points, last ${figure(last)}`}></div></figure>`;
}
