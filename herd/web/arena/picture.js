import { html, useEffect, useRef, useState } from "../lib/html.js";
import { resolved, useTheme } from "../lib/plot.js";
import { notify } from "../lib/ui.js";
import { SIDES } from "./battle.js";
import { change, facts, PLACES, points } from "./turns.js";
import { outcomeWords } from "./vote.js";

const WIDTH = 1200, EDGE = 48, GAP = 24, PAD = 24, LINE = 26, TURNS = 3, LINES = { prompt: 6, reply: 24 };
const COLOURS = ["ink", "soft", "line", "paper", "raised", "sunk", "accent", "good", "bad"];
// Letters that only turn or hide what stands beside them have no place in a picture.
const plain = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g, "").replace(/^#{1,6} /gm, "").replace(/\*\*([^*\n]+)\*\*/g, "$1");

/** `text` in lines no wider than `width`; what is left out of more than `most` lines is said in the last. */
function wrapped(ctx, text, width, most) {
  const lines = [];
  for (const part of plain(text).trim().split("\n")) {
    let line = "";
    for (const word of part.match(/\S+\s*|\s+/g) ?? [""]) {
      for (let rest = word; rest;) {
        let n = rest.length;
        while (n > 1 && ctx.measureText((line + rest.slice(0, n)).trimEnd()).width > width) n = n === rest.length && line ? 0 : Math.floor(n * 0.8);
        if (!n) { lines.push(line); line = ""; continue; }
        line += rest.slice(0, n);
        rest = rest.slice(n);
        if (rest) { lines.push(line); line = ""; }
      }
      if (lines.length > most * 20) break;
    }
    lines.push(line);
  }
  return lines.length <= most ? lines : [...lines.slice(0, most - 1), "… the rest is left out"];
}

/** Draws prompt, both answers, names and the vote; the picture's height follows its text. */
export function draw(canvas, { turns, reveal }) {
  const ctx = canvas.getContext("2d");
  const family = getComputedStyle(document.body).fontFamily;
  const font = (size, weight = 400) => { ctx.font = `${weight} ${size}px ${family}`; };
  const colours = Object.fromEntries(COLOURS.map((name) => [name, resolved(canvas, `var(--${name})`)]));
  const column = (WIDTH - 2 * EDGE - GAP) / 2;
  const shown = turns.slice(-TURNS);
  font(18);
  const parts = shown.map((turn) => ({ prompt: wrapped(ctx, turn.prompt, WIDTH - 2 * EDGE - 2 * PAD, LINES.prompt), ...Object.fromEntries(SIDES.map((side) => [side, wrapped(ctx, turn[side].text || turn[side].failed || "It said nothing.", column - 2 * PAD, LINES.reply)])) }));
  const tall = (lines) => lines.length * LINE + 2 * PAD;
  const pair = (part) => Math.max(tall(part.left), tall(part.right));
  const height = EDGE + 60 + parts.reduce((sum, part) => sum + tall(part.prompt) + pair(part) + 2 * GAP, 0) + 76 + LINE + 60 + EDGE;
  const scale = 2;
  Object.assign(canvas, { width: WIDTH * scale, height: height * scale });
  ctx.scale(scale, scale);
  ctx.textBaseline = "middle";
  const fill = (colour, ...box) => { ctx.fillStyle = colours[colour]; ctx.fillRect(...box); };
  const panel = (colour, edge, x, y, w, h) => { ctx.beginPath(); ctx.roundRect(x, y, w, h, 10); ctx.fillStyle = colours[colour]; ctx.fill(); ctx.strokeStyle = colours[edge]; ctx.lineWidth = edge === "accent" ? 2 : 1; ctx.stroke(); };
  const write = (text, x, y, colour = "ink", most = undefined) => { ctx.fillStyle = colours[colour]; ctx.fillText(plain(text), x, y, most); };
  fill("paper", 0, 0, WIDTH, height);
  let y = EDGE + 12;
  font(26, 600);
  write("Which is better?", EDGE, y);
  font(18);
  ctx.textAlign = "right";
  write(turns.length > TURNS ? `Herd arena · the last ${TURNS} of ${turns.length} turns` : "Herd arena", WIDTH - EDGE, y, "soft");
  ctx.textAlign = "left";
  y += 48;
  for (const part of parts) {
    panel("sunk", "line", EDGE, y, WIDTH - 2 * EDGE, tall(part.prompt));
    part.prompt.forEach((line, i) => write(line, EDGE + PAD, y + PAD + LINE * (i + 0.5)));
    y += tall(part.prompt) + GAP;
    SIDES.forEach((side, at) => {
      const x = EDGE + at * (column + GAP);
      panel("raised", reveal.outcome === side ? "accent" : "line", x, y, column, pair(part));
      part[side].forEach((line, i) => write(line, x + PAD, y + PAD + LINE * (i + 0.5)));
    });
    y += pair(part) + GAP;
  }
  SIDES.forEach((side, at) => {
    const x = EDGE + at * (column + GAP), told = reveal[side], moved = change(told.change);
    font(22, 600);
    write(`${PLACES[side]}: ${told.name}`, x, y + 16, "ink", column);
    font(18);
    const rating = told.rating == null ? "not rated yet" : points(told.rating);
    write(rating, x, y + 48);
    let after = x + ctx.measureText(rating).width + 12;
    if (moved) { write(moved[2], after, y + 48, { up: "good", down: "bad", level: "soft" }[moved[0]]); after += ctx.measureText(moved[2]).width + 12; }
    const [first = "", ...others] = facts(told);
    write(first, after, y + 48, "soft", x + column - after);
    write(others.join(" · "), x, y + 48 + LINE, "soft", column);
  });
  y += 76 + LINE + GAP;
  fill("line", EDGE, y, WIDTH - 2 * EDGE, 1);
  font(20, 600);
  write(`The vote: ${outcomeWords(reveal)}${reveal.void ? " (it does not count)" : ""}`, EDGE, y + 36, "ink", WIDTH - 2 * EDGE);
}

/** The picture as it will be saved. */
export function Picture({ state, close }) {
  const canvas = useRef();
  const theme = useTheme();
  const [copied, setCopied] = useState(true);
  useEffect(() => { draw(canvas.current, state); canvas.current.scrollIntoView({ block: "nearest" }); }, [theme, state.reveal]);
  const blob = () => new Promise((done) => canvas.current.toBlob(done, "image/png"));
  const save = async () => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await blob()), download: "herd-battle.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const copy = async () => {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob() })]);
      notify("The picture is copied.", { seconds: 2 });
    } catch { setCopied(false); }
  };
  return html`<section class="picture" aria-label="The battle as a picture"><canvas ref=${canvas} role="img" aria-label=${`Prompt, both answers and the vote: ${outcomeWords(state.reveal)}`}></canvas>
    <p class="line"><button class="primary" onClick=${save}>Save as PNG</button><button onClick=${copy}>Copy</button><button class="quiet" onClick=${close}>Close</button>
      ${!copied && html`<span class="soft" role="status">This browser does not let a page copy pictures; save it.</span>`}</p></section>`;
}
