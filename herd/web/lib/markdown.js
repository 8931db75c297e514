import DOMPurify from "../vendor/dompurify/purify.js";
import { Marked } from "../vendor/marked/marked.js";
import { html, memo } from "./html.js";
import { copy } from "./ui.js";

const escape = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);

// Raw HTML in a text is shown, not obeyed, and an image is a link: nothing is fetched because a model said so.
const reader = (breaks) => new Marked({
  gfm: true,
  breaks,
  renderer: {
    html: ({ text }) => escape(text),
    text: ({ escaped, text }) => (escaped ? escape(text) : false), // between <pre> and </pre> it would pass as it is; false: as ever
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  },
});
const talk = reader(true), file = reader(false);
const purify = DOMPurify(window);
purify.setConfig({
  ALLOWED_TAGS: ["a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
    "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ALLOWED_ATTR: ["href", "title", "align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("rel", "noopener noreferrer nofollow");
  node.setAttribute("target", "_blank");
});

const Code = ({ text, lang }) => html`<div class="code">
  <div class="code-head"><span>${lang || "text"}</span>
    <button class="quiet" onClick=${() => copy(text)}>Copy<span class="hidden"> code</span></button></div>
  <pre tabindex="0" role="region" aria-label=${`Code${lang ? `, ${lang}` : ""}`}><code>${text}</code></pre></div>`;

/** One block of Markdown; sanitised last, after everything that makes HTML. */
const Block = memo(({ token, marked }) => {
  if (token.type === "code") return html`<${Code} text=${token.text} lang=${token.lang} />`;
  return html`<div dangerouslySetInnerHTML=${{ __html: purify.sanitize(marked.parser([token])) }} />`;
}, (a, b) => a.token.raw === b.token.raw);

/** Markdown as blocks, so that while text streams in only the last one is drawn again.
    In a message a line break is meant; in a `wrapped` file it is only where the line was full. */
export function Markdown({ text, wrapped = false }) {
  const marked = wrapped ? file : talk;
  const blocks = marked.lexer(text).filter((token) => token.type !== "space");
  return html`<div class="prose">${blocks.map((token, i) => html`<${Block} key=${i} token=${token} marked=${marked} />`)}</div>`;
}
