import { seconds } from "../lib/format.js";
import { html } from "../lib/html.js";
import { status } from "../lib/status.js";

/** What is happening before the first word. */
export function Waiting() {
  const { data, stale } = status.use();
  const { state, waiting = 0 } = data?.engine ?? {};
  const words = stale ? "The server does not answer. Waiting" : state === "starting" ? "Loading the model"
    : waiting ? `In the queue, ${waiting} waiting` : "Reading";
  return html`<p class="waiting"><span>${words}</span><i></i><i></i><i></i></p>`;
}

const END = { length: "cut at the token limit", cancelled: "stopped", error: "broke off" };

export function Pace({ stats }) {
  if (!stats) return null;
  const parts = [
    stats.tokens_per_second && `${stats.tokens_per_second.toFixed(stats.tokens_per_second < 10 ? 1 : 0)} tokens/s`,
    stats.first_token_ms != null && `first after ${seconds(stats.first_token_ms)}`, END[stats.finish],
  ].filter(Boolean);
  return parts.length ? html`<span class="soft pace">${parts.join(" · ")}</span>` : null;
}
