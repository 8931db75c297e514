import { colour, count, percent, plural } from "../lib/format.js";
import { html, memo, useEffect, useRef, useState } from "../lib/html.js";
import { resolved, useTheme } from "../lib/plot.js";
import { Named } from "../parts.js";
import { between } from "./numbers.js";

const SHADES = 20, MOST = 44, LISTED = 200;
const mixed = (token, i) => `color-mix(in oklab, var(${token}) ${(100 * i) / SHADES}%, var(--line))`; // also a tie is seen beside a pair without votes
const lightness = (colour) => parseFloat(colour.slice("oklab(".length));
const best = (counts) => Math.max(1, ...counts.map((row) => Math.max(...row, 0)));

/** What each map shows: [title, kind of scale, its ends, shade of cell i, j in −1 … 1, its number]. */
const MAPS = [
  ["Won, of the votes between the two", "both-ways", ["0 %", "100 %"], ({ fraction }, i, j) => (fraction[i][j] == null ? null : 2 * fraction[i][j] - 1), ({ fraction }, i, j) => String(Math.round(100 * fraction[i][j]))],
  ["Votes between the two", "one-way", ["none", "most"], ({ counts }, i, j, most) => (counts[i][j] ? Math.sqrt(counts[i][j] / most) : null), ({ counts }, i, j) => count(Math.round(counts[i][j]))],
];
function words({ names, fraction, low, high, counts }, i, j) {
  if (i === j) return names[i];
  if (!counts[i][j]) return `${names[i]} and ${names[j]}: no votes yet`;
  if (fraction[i][j] == null) return `${names[i]} and ${names[j]}: ${plural(counts[i][j], "vote")}, none for either`;
  return `${names[i]} won ${percent(fraction[i][j])} (${between(low[i][j], high[i][j], percent)}) of ${plural(Math.round(counts[i][j]), "vote")} against ${names[j]}`;
}

/** Each target against each other: what share it won, and of how many votes. */
export const Heat = memo(({ pairs }) => {
  const [cell, setCell] = useState(null);
  const [open, setOpen] = useState(false);
  const { names } = pairs, k = names.length;
  const at = cell && cell[0] < k && cell[1] < k ? cell : null;
  const key = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    setCell(at ? at.map((x, i) => (x + step[i] + k) % k) : [0, 1]);
  };
  const listed = open ? names.flatMap((_, i) => names.slice(i + 1).map((_, j) => [i, i + 1 + j])).filter(([i, j]) => pairs.counts[i][j]).sort((x, y) => pairs.counts[y[0]][y[1]] - pairs.counts[x[0]][x[1]]) : [];
  return html`<section><h2>Against each other</h2><p class="readout" aria-live="polite">${at ? words(pairs, ...at) : html`<span class="soft">The row's target against the column's. Point at a cell, or go through them with the arrow keys.</span>`}</p>
    <div class="maps" style=${{ "--least": `${Math.max(320, 15 * k)}px` }}>${MAPS.map((map) => html`<${Map} key=${map[0]} map=${map} pairs=${pairs} at=${at} setCell=${setCell} onKey=${key} />`)}</div>
    <button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>Pair by pair</button>
    ${open && html`<div class="wide-table steps" tabindex="0" role="region" aria-label="Pair by pair"><table class="numbers"><thead><tr><th scope="col">Target</th><th scope="col">against</th><th scope="col">won</th><th scope="col">95 % interval</th><th scope="col">votes</th></tr></thead>
      <tbody>${listed.slice(0, LISTED).map(([i, j]) => html`<tr key=${`${i} ${j}`}><th scope="row"><${Named} name=${names[i]} colour=${colour(names[i])} /></th><td>${names[j]}</td><td>${percent(pairs.fraction[i][j])}</td><td>${between(pairs.low[i][j], pairs.high[i][j], percent)}</td><td>${count(Math.round(pairs.counts[i][j]))}</td></tr>`)}</tbody></table></div>
      ${listed.length > LISTED && html`<p class="soft small">The ${LISTED} with the most votes of ${count(listed.length)}; <code>herd arena export --format counts</code> has all.</p>`}`}</section>`;
}, (x, y) => x.pairs === y.pairs);

function Map({ map: [title, kind, ends, shade, number], pairs, at, setCell, onKey }) {
  const box = useRef();
  const [{ side = 0, left = 0, top = 0 }, setPlace] = useState({});
  const theme = useTheme();
  const k = pairs.names.length;
  useEffect(() => {
    const observer = new ResizeObserver(() => setPlace(paint(box.current, pairs, shade, number)));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [pairs, theme]);
  const point = (event) => {
    const [j, i] = [Math.floor((event.offsetX - left) / side), Math.floor((event.offsetY - top) / side)];
    if (i >= 0 && j >= 0 && i < k && j < k && (i !== at?.[0] || j !== at?.[1])) setCell([i, j]);
  };
  return html`<figure class="map-of"><figcaption><b>${title}</b><span class=${`key ${kind}`} aria-hidden="true">${ends[0]}<i></i>${ends[1]}</span></figcaption>
    <div class="wide-table" ref=${box} tabindex="0" role="application" aria-label=${`${title}, ${k} by ${k} targets. The arrow keys go through the cells; Pair by pair has the numbers.`} onKeyDown=${onKey}>
      <canvas onPointerMove=${point} onPointerDown=${point}></canvas>${at && side > 0 && html`<i class="cell" style=${{ left: `${left + side * at[1]}px`, top: `${top + side * at[0]}px`, width: `${side - 1}px`, height: `${side - 1}px` }}></i>`}</div></figure>`;
}

/** At most `most` letters: without its provider, then without its middle, as versions differ at the end. */
function shortened(name, most) {
  const own = name.length > most ? name.slice(name.lastIndexOf("/") + 1) : name, half = Math.floor(most / 2);
  return own.length > most ? `${own.slice(0, most - half - 1)}…${own.slice(-half)}` : own;
}

/** Draws the map as wide as its box allows; returns where its cells are. */
function paint(box, pairs, shade, number) {
  const { names, counts } = pairs, k = names.length, canvas = box.firstChild, pen = canvas.getContext("2d");
  const most = best(counts), narrow = box.clientWidth < 480, tell = narrow ? 12 : 20;
  const short = names.map((name) => shortened(name, tell));
  pen.font = "12px system-ui";
  const left = k > 80 ? 1 : Math.ceil(Math.max(...short.map((name) => pen.measureText(name).width))) + 8, top = left;
  const side = Math.max(k > 80 ? 8 : 13, Math.min(MOST, Math.floor((box.clientWidth - left - 2) / k)));
  const ratio = devicePixelRatio || 1, width = left + side * k + 1, height = top + side * k + 1;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  pen.scale(ratio, ratio);
  const shades = Object.fromEntries([["--data-2", 1], ["--data-1", -1]].flatMap(([token, sign]) => Array.from({ length: SHADES + 1 }, (_, i) => [sign * i || 0, resolved(box, mixed(token, i))])));
  const [ink, paper, line, soft] = ["--ink", "--raised", "--edge", "--soft"].map((token) => resolved(box, `color-mix(in oklab, var(${token}), var(${token}))`));
  pen.font = `${Math.min(12, side - 1)}px system-ui`;
  pen.textBaseline = "middle";
  pen.fillStyle = soft;
  for (let i = 0; side >= 12 && i < k; i++) { // smaller, and names would run into each other: the line above the maps says them
    pen.textAlign = "right";
    pen.fillText(short[i], left - 6, top + side * (i + 0.5));
    pen.save();
    pen.translate(left + side * (i + 0.5), top - 6);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "left";
    pen.fillText(short[i], 0, 0);
    pen.restore();
  }
  pen.textAlign = "center";
  for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) {
    const value = i === j ? null : shade(pairs, i, j, most), x = left + side * j, y = top + side * i;
    if (i === j) { pen.fillStyle = line; pen.fillRect(x + side / 2 - 1, y + side / 2 - 1, 2, 2); }
    if (value == null) continue;
    const filled = shades[Math.round(SHADES * value)], far = (colour) => Math.abs(lightness(colour) - lightness(filled));
    pen.fillStyle = filled;
    pen.fillRect(x, y, side - 1, side - 1);
    if (side < 26) continue;
    pen.fillStyle = far(ink) > far(paper) ? ink : paper;
    pen.fillText(number(pairs, i, j), x + side / 2, y + side / 2, side - 3);
  }
  return { side, left, top };
}
