import { html, useState } from "../lib/html.js";
import { ui } from "../lib/ui.js";

const FIELDS = [
  ["temperature", "Temperature", "0 always takes the likeliest token", 0, 2, 0.05],
  ["top_p", "Top-p", "the likeliest tokens that make up this share", 0.01, 1, 0.01],
  ["top_k", "Top-k", "only the k likeliest; 0 is off", 0, 1000, 1],
  ["min_p", "Min-p", "at least this share of the likeliest", 0, 1, 0.01],
  ["max_tokens", "Max tokens", "the answer's limit", 1, 131072, 1],
  ["seed", "Seed", "the same seed gives the same answer", 0, 2 ** 31 - 1, 1],
];

export function Settings({ session, state }) {
  const [wrong, setWrong] = useState({});
  const change = (name, min, max, step) => (event) => {
    const input = event.target;
    const value = input.value === "" ? null : Number(input.value);
    const bad = input.validity.badInput || (value !== null && (value < min || value > max || (step === 1 && !Number.isInteger(value))));
    setWrong({ ...wrong, [name]: bad ? `a ${step === 1 ? "whole number" : "number"} from ${min} to ${max}` : null });
    if (bad) return;
    const settings = { ...state.settings, [name]: value };
    if (value === null) delete settings[name];
    session.change({ settings });
  };
  return html`<aside class="settings" aria-label="Settings of this chat">
    <header><h2>This chat</h2><button class="quiet" onClick=${() => ui.set({ settings: false })}>Close</button></header>
    <label class="field"><span>System prompt</span>
      <textarea rows="5" placeholder="The target's own" value=${state.system} onChange=${(event) => session.change({ system: event.target.value })}></textarea></label>
    <h3>Sampling</h3><p class="soft">An empty field takes the target's default.</p>
    ${FIELDS.map(([name, title, hint, min, max, step]) => html`<label class="field line"><span>${title}</span>
      <input type="number" min=${min} max=${max} step=${step} placeholder="default" value=${state.settings[name] ?? ""} onChange=${change(name, min, max, step)} aria-invalid=${wrong[name] ? "true" : null} />
      <small class=${wrong[name] ? "bad-text" : "soft"}>${wrong[name] ? `Give ${wrong[name]}.` : hint}</small></label>`)}
  </aside>`;
}
