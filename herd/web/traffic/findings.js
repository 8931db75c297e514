import { post } from "../lib/api.js";
import { moment } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { notify } from "../lib/ui.js";

const words = (value) => (value && typeof value === "object" ? Object.entries(value).map(([key, x]) => `${key.replace(/_/g, " ")} ${words(x)}`).join(", ") : String(value ?? "–"));

/** What the probes noticed about targets: one line that is always there (`data` is null until it is read), and the rest beneath it when asked for. */
export function Findings({ data, changed }) {
  const [open, setOpen] = useState(false);
  const fresh = data?.filter(({ seen }) => !seen) ?? [];
  const seen = ({ id }) => post(`findings/${encodeURIComponent(id)}/seen`).then(changed, (error) => notify(`It is still marked as new. ${error.message}`));
  const newest = fresh[0] ?? data?.[0];
  const calm = newest ? "Nothing new from the probes." : data ? "No target has been seen to change." : "Reading what the probes noticed.";
  return html`<section class=${`findings ${fresh.length ? "fresh" : ""}`} aria-label="What changed">
    <p><i class=${`dot ${fresh.length ? "caution" : "quiet"}`}></i>${open ? html`<b>What the probes noticed</b>` : fresh.length ? html`<b>${newest.target}: ${newest.said}</b>` : html`<span class="soft">${calm}</span>`}
      ${newest && html`<button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => setOpen(!open)}>${fresh.length > 1 && !open ? `and ${fresh.length - 1} more` : open ? "Close" : "What changed"}</button>`}
      <i class="fill"></i>${fresh.length > 0 && !open && html`<button onClick=${() => seen(newest)}>Seen</button>`}</p>
    ${open && html`<ul>${data.map((one) => html`<li key=${one.id}><b>${one.said}</b> <span class="soft">${one.target}, noticed ${moment(one.created)}${one.seen ? ", seen" : ""}</span>
      <dl><div><dt>Before</dt><dd>${words(one.before)}</dd></div><div><dt>After</dt><dd>${words(one.after)}</dd></div></dl>
      ${!one.seen && html`<button onClick=${() => seen(one)}>Seen<span class="hidden">: ${one.said}</span></button>`}</li>`)}</ul>`}</section>`;
}
