import { Arena } from "./arena/page.js";
import { Chat } from "./chat/page.js";
import { Conversations } from "./conversations/page.js";
import { Keys } from "./keys/page.js";
import { Leaderboard } from "./leaderboard/page.js";
import { html, render, useEffect } from "./lib/html.js";
import { place } from "./lib/router.js";
import { refreshStatus } from "./lib/status.js";
import { Models } from "./models/page.js";
import { Help, Palette } from "./palette.js";
import { Routes } from "./routes/page.js";
import { Runs } from "./runs/page.js";
import { KeyPanel, Notice, Rail } from "./shell.js";
import { Traffic } from "./traffic/page.js";

const PAGES = {
  "/arena": [Arena, "Arena"], "/leaderboard": [Leaderboard, "Leaderboard"],
  "/traffic": [Traffic, "Traffic"], "/conversations": [Conversations, "Conversations"], "/routes": [Routes, "Routes"], "/keys": [Keys, "Keys"],
  "/models": [Models, "Models"], "/runs": [Runs, "Runs"],
};

function App() {
  const { path, part } = place.use();
  const [Page, name] = PAGES[path] ?? [Chat, "Chat"];
  useEffect(() => { document.title = `${name} · Herd`; }, [name]);
  return html`<a class="skip" href="#main">Skip to the content</a>
    <${Rail} path=${path} /><${Page} path=${path} part=${part} /><${Palette} /><${Help} /><${KeyPanel} /><${Notice} />`;
}

refreshStatus();
render(html`<${App} />`, document.querySelector("#app"));
