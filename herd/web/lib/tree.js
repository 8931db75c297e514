// A conversation is a tree: siblings under one parent are branches. Every function is pure.

/** Children by parent id (null for the first messages), each list in order of making. */
export function childrenOf(messages) {
  const children = new Map();
  for (const message of messages) {
    const key = message.parent ?? null;
    children.has(key) ? children.get(key).push(message) : children.set(key, [message]);
  }
  return children;
}

/** The newest leaf at or under `id` (null: of the whole tree). */
export function newestLeaf(messages, id = null) {
  const children = childrenOf(messages);
  let at = id;
  for (let below = children.get(at); below; below = children.get(at)) {
    children.delete(at); // a circle in imported data ends here
    at = below[below.length - 1].id;
  }
  return at;
}

/** The messages from the first to `leaf`. */
export function pathTo(messages, leaf) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  for (let message = byId.get(leaf); message; message = byId.get(message.parent)) {
    path.push(message);
    byId.delete(message.id);
  }
  return path.reverse();
}
