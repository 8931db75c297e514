import { ApiError, get, post, request } from "../lib/api.js";
import { address, go } from "../lib/router.js";
import { events } from "../lib/sse.js";
import { store } from "../lib/store.js";
import { notify } from "../lib/ui.js";

export const SIDES = ["left", "right"];
const EMPTY = {
  phase: "ready", // loading | ready | missing | foreign (another browser's) | nothing (no stored pair waits)
  id: null, kind: "arena", state: "open", turns: [], reveal: null, vote: null,
  streaming: false, voting: false,
  text: "", // in the box, not sent yet
  why: false, reasons: [], comment: "", picture: false,
  error: null, // {error, kept, retry}
};

/** The battle in front: what the server says of it, and what the person has written about it. */
export const battle = store(EMPTY);
const set = (fields) => battle.set(fields);
const here = () => battle.get();
let turn = 0; // whatever was begun for an earlier battle changes nothing in this one
let abort = new AbortController();

/** Leaves the battle in front; answers that are still being written are stopped, as by a closed page. */
export function leave() {
  turn += 1;
  abort.abort();
  abort = new AbortController();
  set({ ...EMPTY, text: here().text });
}

/** Shows the battle `id`, also one whose answers are still being written. */
export async function open(id) {
  if (id === here().id && !here().error) return;
  leave();
  set({ id, phase: "loading" });
  await read(turn);
}

async function read(mine, last = "", times = 0) {
  try {
    const found = await get(`battles/${encodeURIComponent(here().id)}`);
    if (mine !== turn) return;
    const written = JSON.stringify(found.turns);
    const writing = found.state === "open" && SIDES.some((side) => pending(found.turns.at(-1)?.[side]));
    const still = written === last ? times + 1 : 0;
    set({ ...found, phase: "ready", error: null, streaming: writing && still < 20 });
    if (here().streaming) setTimeout(() => mine === turn && read(mine, written, still), 700); // a reload in the middle
  } catch (error) {
    if (mine !== turn) return;
    if (error.status === 404 || error.code === "not_your_battle") set({ phase: error.status === 404 ? "missing" : "foreign" });
    else set({ streaming: false, error: { error, kept: "The battle is kept on the server.", retry: again } });
  }
}
const again = () => { set({ error: null, phase: here().turns.length ? "ready" : "loading" }); return read(turn); };

/** Neither finished nor failed: still being written, or broken off. */
export const pending = (reply) => Boolean(reply) && !reply.finish && !reply.failed;
const idle = ({ phase, state, turns, streaming, voting }) => phase === "ready" && state === "open" && turns.length > 0 && !streaming && !voting;
const whole = ({ turns }) => SIDES.every((side) => !turns.at(-1)[side].failed && !pending(turns.at(-1)[side]));
/** Both answers are whole: they can be judged, or talked to. */
export const ready = (state) => idle(state) && whole(state);
/** There is something to be answered again. */
export const repeatable = (state) => idle(state) && ["arena", "pair"].includes(state.kind);

/** Sends the prompt in the box to both sides; makes the battle first where it is the first. */
export async function send(text, { kind, targets }) {
  if (here().streaming || !text.trim()) return;
  const mine = turn;
  set({ streaming: true, error: null, text: "", picture: false });
  try {
    if (!here().id) {
      const made = await post("battles", kind === "pair" ? { kind, targets } : { kind });
      if (mine !== turn) return;
      set({ id: made.id, kind: made.kind });
      go(address("/arena", kind === "pair" ? { mode: kind, left: targets[0], right: targets[1] } : {}, made.id), { replace: true });
    }
    const before = here().turns;
    await stream("turns", { prompt: text }, mine, () => set({ turns: [...before, { prompt: text, left: blank(), right: blank() }] }));
  } catch (error) {
    if (mine === turn) set({ streaming: false, text: here().text || text, error: { error, kept: "Nothing was sent; your text is in the box." } });
  }
}

/** Both sides answer the last prompt again. */
export async function regenerate() {
  const mine = turn;
  set({ streaming: true, error: null });
  const last = here().turns.at(-1);
  try {
    await stream("regenerate", {}, mine, () => set({ turns: [...here().turns.slice(0, -1), { ...last, left: blank(), right: blank() }] }));
  } catch (error) {
    if (mine === turn) set({ streaming: false, error: { error, kept: "The two answers are kept as they are.", retry: regenerate } });
  }
}

const blank = () => ({ text: "", finish: null, failed: null });

/** Throws when the answers are refused; once they began, what breaks is said on the page. */
async function stream(path, body, mine, begin) {
  const response = await request(`/api/battles/${encodeURIComponent(here().id)}/${path}`, { method: "POST", body, signal: abort.signal });
  begin();
  const sides = { left: blank(), right: blank() };
  const requestId = response.headers.get("X-Request-Id");
  let frame = 0, done = false;
  const draw = () => {
    frame = 0;
    const turns = here().turns;
    set({ turns: [...turns.slice(0, -1), { ...turns.at(-1), left: { ...sides.left }, right: { ...sides.right } }] });
  };
  let problem = null;
  try {
    for await (const data of events(response.body)) {
      const event = JSON.parse(data);
      if (event.type === "text") sides[event.side].text += event.text;
      if (event.type === "finish") sides[event.side].finish = event.finish;
      if (event.type === "failed") sides[event.side].failed = event.message;
      if (event.type === "done") done = true;
      if (event.error) throw new ApiError(event.error.message, { code: event.error.code, requestId });
      frame ||= requestAnimationFrame(draw); // one layout a frame, however fast words come
    }
  } catch (error) { problem = error; }
  cancelAnimationFrame(frame);
  if (mine !== turn) return;
  draw();
  if (!done && SIDES.some((side) => pending(sides[side]))) { // a limit of the key ends both sides with its words
    const error = problem instanceof ApiError ? problem : new ApiError("The answers broke off.", { requestId });
    const kept = await get(`battles/${encodeURIComponent(here().id)}`).catch(() => null);
    if (mine === turn) set({ ...kept, streaming: false, error: { error, kept: "What had been written is kept above.", retry: kept ? regenerate : again } });
    return;
  }
  await new Promise((drawn) => setTimeout(drawn, 30)); // the last sentence is read out before the stream is over
  if (mine === turn) set({ streaming: false });
}

/** One vote a battle; what it reveals comes with the answer. */
export async function vote(outcome) {
  if (!ready(here())) return;
  const mine = turn, { id, reasons, comment } = here();
  set({ voting: true, error: null });
  try {
    const given = await post(`battles/${encodeURIComponent(id)}/vote`, { outcome, ...(reasons.length && { reasons }), ...(comment.trim() && { comment: comment.trim() }) });
    if (mine === turn) set({ ...given.battle, vote: given, voting: false, why: false });
  } catch (error) {
    if (mine !== turn) return;
    set({ voting: false, error: { error, kept: "Both answers are kept; the vote is not.", retry: () => vote(outcome) } });
    if (error.code === "voted" || error.code === "expired") {
      set({ error: null });
      await read(turn);
      if (mine === turn && error.code === "voted") notify("This battle had its vote already, perhaps from another tab: that one is kept.");
    }
  }
}

/** A pair of kept answers that this person has not judged. */
export async function openStored() {
  leave();
  const mine = turn;
  set({ phase: "loading", kind: "stored" });
  try {
    const made = await post("battles/stored");
    if (mine !== turn) return;
    set({ ...made, phase: "ready" });
    go(address("/arena", { mode: "stored" }, made.id), { replace: true });
  } catch (error) {
    if (mine !== turn) return;
    if (error.code === "nothing_stored") set({ phase: "nothing" });
    else set({ error: { error, kept: "Nothing was changed.", retry: openStored } });
  }
}
