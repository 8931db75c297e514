import { post } from "../lib/api.js";
import { moment } from "../lib/format.js";
import { html } from "../lib/html.js";
import { notify } from "../lib/ui.js";
import { changes } from "./definition.js";

/** Every version that was, the newest first, with what it changed in words. */
export function History({ name, versions, version, changed }) {
  const restore = (number) => post(`routes/${encodeURIComponent(name)}/restore`, { version: number })
    .then((found) => { notify(`${name} is as in version ${number} again, as version ${found.version}.`); changed(); }, (error) => notify(`Nothing was changed. ${error.message}`));
  return html`<section class="history" aria-label=${`History of ${name}`}><h3>History</h3><ol>${versions.map((one, i) => html`<li key=${one.version} aria-current=${one.version === version ? "true" : null}>
      <b>${one.version}</b><div><p>${changes(versions[i + 1]?.definition, one.definition).join("; ") || "nothing different"}</p>
        <p class="soft">${[one.note, one.author, moment(one.created)].filter(Boolean).join(", ")}</p></div>
      ${one.version !== version && one.definition && html`<button onClick=${() => restore(one.version)}>Restore<span class="hidden"> version ${one.version}</span></button>`}</li>`)}</ol></section>`;
}
