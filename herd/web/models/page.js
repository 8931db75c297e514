import { get } from "../lib/api.js";
import { bytes, colour, count, figure, short } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { Markdown } from "../lib/markdown.js";
import { go } from "../lib/router.js";
import { copy } from "../lib/ui.js";
import { Bones, Failed, Top } from "../shell.js";
import { Lineage } from "./lineage.js";
import { Memory } from "./memory.js";

export function Models({ part }) {
  const [{ models, lineage, error }, set] = useState({});
  const load = () => Promise.all([get("models"), get("lineage")])
    .then(([found, graph]) => set({ models: found.data, lineage: graph }), (problem) => set((now) => ({ ...now, error: problem })));
  useEffect(() => { load(); }, []);
  return html`<main id="main" class="page"><${Top}><h1>Models</h1><//>
    <div class="sheet" tabindex="0" role="region" aria-label="Models and their lineage">
      ${error && html`<${Failed} error=${error} kept=${models ? "What is shown was read before." : "Every model is kept."} retry=${load} />`}
      ${!models && !error && html`<${Bones} what="the models" heights=${[150, 280]} />`}
      ${models?.length === 0 && html`<div class="empty"><h2>No models yet</h2><p>Fetch one with <code>herd pull</code>, or train one with <code>herd train</code>; it will be here with its card, its numbers and where it came from.</p></div>`}
      ${lineage?.nodes.length > 0 && html`<section><h2>Lineage</h2><p class="soft">From data to the model that answers. A click copies a digest.</p><${Lineage} ...${lineage} /></section>`}
      ${models?.length > 0 && html`<section class="cards">${models.map((model) => html`<${Model} key=${model.ref} model=${model} open=${model.ref === part} />`)}</section>`}
    </div></main>`;
}

function Model({ model, open }) {
  const ref = useRef();
  useEffect(() => { if (open) ref.current.firstElementChild.scrollIntoView({ block: "nearest" }); }, [open]);
  const { config = {}, metrics } = model;
  const facts = [
    ["Parameters", model.parameters && short(model.parameters)], ["On disk", model.bytes && bytes(model.bytes)],
    ["Context", config.max_position_embeddings && `${count(config.max_position_embeddings)} tokens`],
    ["Layers × width", config.num_hidden_layers && `${config.num_hidden_layers} × ${config.hidden_size}`],
    ["Heads, key–value", config.num_attention_heads && `${config.num_attention_heads}, ${config.num_key_value_heads ?? config.num_attention_heads}`],
    ["Vocabulary", config.vocab_size && count(config.vocab_size)], ["Licence", model.licence], ["Base", model.base],
    ...measures(metrics),
  ].filter(([, value]) => value);
  return html`<article class="card model" aria-label=${model.ref} ref=${ref}>
    <header><i class="swatch" style=${{ background: colour(model.name) }}></i><h2><a href=${`/models#${model.ref}`}>${model.ref}</a></h2><span class="soft">${model.kind}${model.bundled ? ", bundled" : ""}</span>
      ${model.current && html`<span class="served">served as ${model.name}</span>`}<i class="fill"></i>
      ${model.digest && html`<button class="digest" title="Copy the digest" onClick=${() => copy(model.digest, "Digest copied.")}>${model.digest.slice(0, 12)}<span class="hidden"> Copy the digest</span></button>`}</header>
    ${model.description && html`<p>${model.description}</p>`}
    <dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <${Memory} model=${model} />
    ${(model.card || model.plots?.length > 0) && html`<section class="about"><button class="quiet unfolds" aria-expanded=${String(open)} onClick=${() => go(open ? "/models" : `/models#${model.ref}`)}>Card</button>
      ${open && html`<div class="spread">${model.card && html`<${Markdown} text=${body(model.card)} wrapped />`}
        ${model.plots?.length > 0 && html`<div>${model.plots.map((src) => html`<img class="plot" src=${src} alt=${`${model.ref}: ${src.split("/").at(-1).replace(/\.\w+$/, "").replace(/[-_]/g, " ")}`} />`)}</div>`}</div>`}</section>`}
  </article>`;
}

/** A card's text without what is shown beside it: front matter, the title, pictures of its own. */
const body = (card) => card.replace(/^---\n[^]*?\n---\n/, "").replace(/^\s*# .*\n/, "").replace(/^!\[[^\]]*\]\((?!https?:)[^)]*\)\s*$/gm, "");

/** Measured numbers, one level deep: {"before": {"bits_per_byte": 0.9}} is "Bits per byte, before". */
function measures(metrics) {
  const name = (key) => key.replace(/_/g, " ").replace(/^./, (c) => c.toUpperCase());
  return Object.entries(metrics ?? {}).flatMap(([key, value]) => (value && typeof value === "object"
    ? Object.entries(value).filter(([, x]) => typeof x === "number").map(([k, x]) => [`${name(k)}, ${key.replace(/_/g, " ")}`, figure(x)])
    : value == null ? [] : [[name(key), figure(value)]]));
}
