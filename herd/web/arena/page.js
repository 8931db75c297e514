import { html } from "../lib/html.js";
import { Top } from "../shell.js";

export const Arena = () => html`<main id="main" class="page"><${Top} route=""><h1>Arena</h1><//></main>`;
