import { ApiError, request } from "../lib/api.js";
import { events } from "../lib/sse.js";

/** Streams the answer to `body` into `result` {text, stats, finish, generation, requestId}; calls `grown` after each token.
    Throws an ApiError when the answer is refused or breaks off; what came until then is in `result`. */
export async function receive(result, body, { conversation, signal, grown }) {
  const sent = performance.now();
  const response = await request("/v1/chat/completions", {
    method: "POST", signal, headers: { "X-Herd-Conversation": conversation },
    body: { ...body, stream: true, stream_options: { include_usage: true } },
  });
  result.requestId = response.headers.get("X-Request-Id");
  let first = null, last = null, done = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { done = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { code: chunk.error.code, requestId: result.requestId });
      result.generation ??= chunk.id;
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        last = performance.now();
        first ??= last;
        result.text += choice.delta.content;
        grown();
      }
      result.finish = choice?.finish_reason ?? result.finish;
      if (chunk.usage) result.stats = { ...result.stats, ...chunk.usage };
    }
  } finally {
    if (first !== null) result.stats = measured(result.stats, sent, first, last);
  }
  if (!done || !result.finish) throw new ApiError("The answer broke off.", { requestId: result.requestId });
}

/** Times as this page saw them; a rate needs two tokens, and the count comes from the server. */
function measured(stats, sent, first, last) {
  const tokens = stats.completion_tokens;
  const rate = tokens > 1 && last > first ? ((tokens - 1) * 1000) / (last - first) : null;
  return { ...stats, first_token_ms: first - sent, tokens_per_second: rate };
}
