import { html } from "../lib/html.js";
import { Top } from "../shell.js";
export const Runs = () => html`<main id="main" class="page"><${Top}><h1>Runs</h1><//></main>`;
