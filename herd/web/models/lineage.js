import { html } from "../lib/html.js";
import { copy } from "../lib/ui.js";

const WIDTH = 176, HEIGHT = 52, ACROSS = 56, DOWN = 14, EDGE = 2;

/** Places every node in the column after its last parent, ordered in it by where its parents stand. */
export function layout(nodes, edges) {
  const known = new Set(nodes.map(({ id }) => id));
  const parents = new Map(nodes.map(({ id }) => [id, []]));
  for (const [from, to] of edges) if (known.has(from) && known.has(to) && from !== to) parents.get(to).push(from);
  const depths = new Map();
  const depth = (id, seen = new Set()) => {
    if (seen.has(id)) return 0; // a circle, which only damaged records have
    if (!depths.has(id)) depths.set(id, Math.max(-1, ...parents.get(id).map((p) => depth(p, new Set(seen).add(id)))) + 1);
    return depths.get(id);
  };
  const children = (id) => nodes.filter((node) => parents.get(node.id).includes(id));
  // What has no parents stands just before its first child, so that votes are beside the model they were cast on.
  const place = ({ id }) => (parents.get(id).length ? depth(id) : children(id).length ? Math.min(...children(id).map((node) => depth(node.id))) - 1 : 0);
  const columns = [];
  for (const node of nodes) (columns[place(node)] ??= []).push(node);
  const at = new Map();
  columns.forEach((column = [], x) => {
    const rank = (node) => { const ys = parents.get(node.id).map((p) => at.get(p)?.y ?? 0); return ys.length ? ys.reduce((a, b) => a + b) / ys.length : 0; };
    column.map((node) => [rank(node), node]).sort(([a], [b]) => a - b)
      .forEach(([, node], y) => at.set(node.id, { x: EDGE + x * (WIDTH + ACROSS), y: EDGE + y * (HEIGHT + DOWN) }));
  });
  return { at, parents, width: columns.length * (WIDTH + ACROSS) - ACROSS + 2 * EDGE, height: Math.max(...columns.map((c) => c?.length ?? 0)) * (HEIGHT + DOWN) - DOWN + 2 * EDGE };
}

export function Lineage({ nodes, edges }) {
  const { at, parents, width, height } = layout(nodes, edges);
  const curve = (a, b) => `M${a.x + WIDTH} ${a.y + HEIGHT / 2}C${a.x + WIDTH + ACROSS / 2} ${a.y + HEIGHT / 2} ${b.x - ACROSS / 2} ${b.y + HEIGHT / 2} ${b.x} ${b.y + HEIGHT / 2}`;
  const from = (id) => parents.get(id).map((p) => nodes.find((node) => node.id === p).label).join(", ");
  return html`<div class="lineage" tabindex="0" role="region" aria-label="Lineage"><div style=${{ width: `${width}px`, height: `${height}px` }}>
    <svg width=${width} height=${height} aria-hidden="true">${nodes.flatMap(({ id }) => parents.get(id).map((p) => html`<path d=${curve(at.get(p), at.get(id))} />`))}</svg>
    ${nodes.map((node) => html`<button class=${`node ${node.kind}`} style=${{ left: `${at.get(node.id).x}px`, top: `${at.get(node.id).y}px`, width: `${WIDTH}px`, height: `${HEIGHT}px` }}
      title=${`${node.kind} ${node.digest}`} onClick=${() => copy(node.digest, `Digest of ${node.label} copied.`)}>
      <b>${node.label}</b>${" "}<span class="soft">${node.kind}</span>${" "}<code>${node.digest?.slice(0, 8)}</code>
      <span class="hidden">${parents.get(node.id).length ? `, from ${from(node.id)}` : ""}. Copy its digest</span></button>`)}</div></div>`;
}
