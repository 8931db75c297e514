import { html } from "../lib/html.js";
import { Top } from "../shell.js";
export const Models = () => html`<main id="main" class="page"><${Top}><h1>Models</h1><//></main>`;
