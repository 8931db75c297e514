import { bytes, count, plural } from "../lib/format.js";
import { html, useState } from "../lib/html.js";

/** How much memory a number of conversations takes beside the weights, against what is free now. */
export function Memory({ model }) {
  const context = model.config?.max_position_embeddings ?? 2048;
  const [conversations, setConversations] = useState(8);
  const [tokens, setTokens] = useState(context);
  const { weights, kv_per_token: perToken, fits_tokens: fits } = model.memory ?? {};
  if (!perToken) return null;
  const cache = perToken * tokens * conversations;
  const free = fits == null ? null : weights + fits * perToken;
  const share = (part) => `${Math.min(100, (100 * part) / (free ?? weights + cache))}%`;
  const number = (set, max) => (event) => set(Math.max(1, Math.min(max, Math.round(Number(event.target.value)) || 1)));
  return html`<div class="memory"><p>
      <label><input type="number" min="1" max="4096" value=${conversations} onChange=${number(setConversations, 4096)} aria-label="Conversations at once" /> ${conversations === 1 ? "conversation" : "conversations"}</label> of${" "}
      <label><input type="number" min="1" max=${context} value=${tokens} onChange=${number(setTokens, context)} aria-label="Tokens in each" /> tokens</label>${" "}
      take ${bytes(weights + cache)}: ${bytes(weights)} of weights, ${bytes(cache)} of cache (${bytes(perToken)} a token).</p>
    <div class="bar" role="img" aria-label=${`Memory: ${bytes(weights + cache)}${free ? ` of ${bytes(free)} free` : ""}`}>
      <i class="weights" style=${{ width: share(weights) }}></i><i class="cache" style=${{ width: share(cache) }}></i></div>
    ${free != null && html`<p class=${weights + cache > free ? "bad-text" : "soft"}>${weights + cache > free ? "Does not fit: " : ""}${bytes(free)} free now, room for ${plural(Math.floor(fits / tokens), "such conversation")} (${count(fits)} tokens).</p>`}</div>`;
}
