import { html } from "../lib/html.js";
import { status } from "../lib/status.js";

export const PROMPTS = [
  "Hello, how are you?",
  "Tell me a story about a dog who finds a red ball.",
  "Tell me a short story about a girl and her grandmother.",
  "What do you like to do on a rainy day?",
];

export function Empty({ session }) {
  const { data } = status.use();
  const model = data?.routes?.find(({ name }) => name === session.route)?.model ?? session.route;
  const small = model.startsWith("cria");
  return html`<div class="thread"><div class="empty">
    <h2>Talk to ${session.route}</h2>
    <p>${small
      ? "cria is a very small model: it tells little stories and chats simply; it does not know facts. It was trained by Herd from open text, and your votes can make it better."
      : "What you write goes to this route; the conversation is kept by this server."}</p>
    <ul class="prompts">${PROMPTS.map((text) => html`<li><button onClick=${() => session.send(text)}>${text}</button></li>`)}</ul>
    <p class="soft">Regenerate an answer to see a second beside it, and say which is better.</p>
  </div></div>`;
}
