import { html } from "../lib/html.js";
import { Top } from "../shell.js";

export const Leaderboard = () => html`<main id="main" class="page"><${Top} route=""><h1>Leaderboard</h1><//></main>`;
