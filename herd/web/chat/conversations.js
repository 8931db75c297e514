import { get, patch, post, remove } from "../lib/api.js";
import { count, plural } from "../lib/format.js";
import { store } from "../lib/store.js";
import { notify, unnotify } from "../lib/ui.js";

/** The kept conversations that match the search, newest first. */
export const list = store({ phase: "loading", data: [], more: false, query: "" });

const going = new Map(); // deleted here, not yet on the server: id → timer
const PAGE = 50;
let asked = 0;

export async function refreshList({ query = list.get().query, before = null } = {}) {
  const turn = ++asked;
  list.set({ query });
  try {
    const found = await get(`conversations?query=${encodeURIComponent(query)}&limit=${PAGE}${before ? `&before=${before}` : ""}`);
    if (turn !== asked) return; // a newer search has begun
    const data = [...(before ? list.get().data : []), ...found.data].filter(({ id }) => !going.has(id));
    list.set({ phase: "ready", data, more: found.more });
  } catch (error) {
    if (turn === asked) list.set({ phase: list.get().data.length ? "stale" : "error", error });
  }
}
export const olderThanShown = () => refreshList({ before: list.get().data.at(-1)?.updated });

export async function rename(id, title) {
  await patch(`conversations/${id}`, { title });
  refreshList();
}

/** Takes a conversation off the list now and off the server a little later, so that it can be undone. */
export function discard({ id, title }, gone) {
  const finish = () => {
    going.delete(id);
    remove(`conversations/${id}`, { keepalive: true }).then(gone, () => refreshList());
  };
  const timer = setTimeout(finish, 8000);
  going.set(id, { timer, finish });
  list.set({ data: list.get().data.filter((row) => row.id !== id) });
  const undo = () => { clearTimeout(timer); going.delete(id); unnotify(); refreshList(); };
  notify(`“${title || "Untitled"}” is deleted.`, { action: "Undo", run: undo });
}
addEventListener("pagehide", () => going.forEach(({ timer, finish }) => { clearTimeout(timer); finish(); }));

export async function exportAs(name, ids = []) {
  try {
    const data = await get(`conversations/export?ids=${ids.map(encodeURIComponent).join(",")}`);
    const url = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  } catch (error) { notify(`Nothing was exported. ${error.message}`); }
}

const PIECE = 2_000_000; // characters of one import request; the server reads a few megabytes at once

/** Sends exported conversations, as many at once as fit; how many were new. */
async function send(conversations) {
  let imported = 0;
  for (let rest = conversations; rest.length;) {
    let size = 0;
    const fitting = rest.findIndex((one) => (size += JSON.stringify(one).length) > PIECE);
    const piece = fitting < 0 ? rest : rest.slice(0, Math.max(1, fitting));
    imported += (await post("conversations/import", { conversations: piece })).imported;
    rest = rest.slice(piece.length);
  }
  return imported;
}

/** Lets the person choose a file that `exportAs` wrote. */
export function importFrom() {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: "application/json,.json" });
  input.onchange = async () => {
    try {
      const { conversations } = JSON.parse(await input.files[0].text()) ?? {};
      if (!Array.isArray(conversations)) throw new SyntaxError();
      const imported = await send(conversations);
      const here = conversations.length - imported;
      notify(`${plural(imported, "conversation")} imported${here ? `, ${count(here)} already here` : ""}.`);
    } catch (error) {
      notify(error instanceof SyntaxError
        ? "Choose a file that Herd exported: this one is not a list of conversations as JSON. Nothing was imported."
        : `Not everything was imported. ${error.message} Importing the file again adds only what is missing.`);
    }
    refreshList();
  };
  input.click();
}
