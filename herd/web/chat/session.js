import { ApiError, get, newId, patch, post } from "../lib/api.js";
import { go } from "../lib/router.js";
import { refreshStatus, status } from "../lib/status.js";
import { store } from "../lib/store.js";
import { newestLeaf, pathTo } from "../lib/tree.js";
import { refreshList } from "./conversations.js";
import { receive } from "./receive.js";

export const SAMPLING = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

/** One conversation: its tree of messages, the branch in front, and the reply that streams into it. */
class Session {
  constructor(id) {
    this.key = newId();
    this.state = store({
      phase: id ? "loading" : "ready", // loading | ready | missing
      id, title: null, route: null, system: "", settings: {},
      messages: [], votes: [], leaf: null,
      stream: null, // {id, phase: waiting | writing, abort}
      compare: null, // {a, b}: message ids that stand side by side; voted: outcome
      text: "", // in the box, not sent yet
      editing: null, // {id, text}: the message being written anew
      error: null, // {error, kept, retry}
    });
  }
  get() { return this.state.get(); }
  set(fields) { this.state.set(fields); }
  get route() { return this.get().route ?? status.get().data?.default_route ?? "cria"; }
  path() { return pathTo(this.get().messages, this.get().leaf); }
  message(id) { return this.get().messages.find((message) => message.id === id); }
  amend(id, fields) {
    this.set({ messages: this.get().messages.map((m) => (m.id === id ? { ...m, ...fields } : m)) });
  }
  drop(id) {
    const parent = this.message(id)?.parent ?? null;
    const messages = this.get().messages.filter((m) => m.id !== id);
    this.set({ messages, leaf: this.get().leaf === id ? parent : this.get().leaf });
  }

  async load() {
    const { id, stream } = this.get();
    if (!id || stream) return;
    try {
      const found = await get(`conversations/${id}`);
      if (this.get().stream) return;
      const messages = found.messages ?? [];
      const wanted = this.get().leaf ?? found.settings?.leaf;
      const leaf = newestLeaf(messages, messages.some((m) => m.id === wanted) ? wanted : null);
      this.set({
        phase: "ready", title: found.title, route: found.route, system: found.system ?? "",
        settings: found.settings ?? {}, messages, votes: found.votes ?? [], leaf, error: null,
      });
    } catch (error) {
      if (error.status === 404) this.set({ phase: "missing" });
      else this.set({ error: { error, kept: "The conversation is kept on the server.", retry: () => this.load() } });
    }
  }

  /** Makes the conversation on the server when its first message is sent. */
  async ensure(text) {
    if (this.get().id) return;
    const { system, settings } = this.get();
    const title = text.trim().split("\n")[0].slice(0, 60);
    const made = await post("conversations", { title, route: this.route, system: system || null, settings });
    this.set({ id: made.id, title: made.title ?? title, route: made.route ?? this.route });
    sessions.set(made.id, this);
    if (draft === this) draft = null;
    if (location.pathname === "/") go(`/c/${made.id}`, { replace: true });
  }

  /** Changes route, title, system prompt or settings; kept at once when the conversation exists. */
  async change(fields) {
    const before = this.get();
    this.set(fields);
    if (!before.id) return;
    try {
      await patch(`conversations/${before.id}`, fields);
      if ("title" in fields) refreshList();
    } catch (error) {
      this.set({ ...Object.fromEntries(Object.keys(fields).map((key) => [key, before[key]])), error: { error, kept: "Nothing was changed." } });
    }
  }
  /** Brings a branch to the front; the choice is kept with the conversation. */
  follow(id) {
    this.set({ leaf: newestLeaf(this.get().messages, id), compare: null });
    this.pin();
  }
  /** Keeps which branch is in front, where a reload would show another. */
  pin() {
    const { messages, leaf } = this.get();
    if (newestLeaf(messages, this.get().settings.leaf ?? null) === leaf) return;
    const settings = { ...this.get().settings, leaf };
    this.set({ settings });
    patch(`conversations/${this.get().id}`, { settings }).catch(() => {}); // a lost choice of branch costs a click
  }

  /** Sends `text` after `parent` (default: the end) and streams the reply. False: nothing was sent. */
  async send(text, parent = this.get().leaf) {
    if (this.get().stream) return false;
    const message = { id: newId(), parent, role: "user", content: text, created: Date.now() / 1000 };
    const before = this.get().leaf;
    this.set({ messages: [...this.get().messages, message], leaf: message.id, error: null, compare: null });
    try {
      await this.ensure(text);
      await post(`conversations/${this.get().id}/messages`, message);
    } catch (error) {
      this.drop(message.id);
      this.set({ leaf: before, text: this.get().text || text, error: { error, kept: "Nothing was sent; your text is in the box." } });
      return false;
    }
    refreshList();
    this.reply(message.id);
    return true;
  }

  /** A second answer beside `message`; the two are then compared. */
  regenerate(message) {
    if (!this.get().stream) this.reply(message.parent, message);
  }

  async reply(parent, beside = null) {
    const abort = new AbortController();
    const draft = { id: newId(), parent, role: "assistant", content: "", pending: true, created: Date.now() / 1000 };
    this.set({
      messages: [...this.get().messages, draft], leaf: draft.id, error: null,
      compare: beside && { a: beside.id, b: draft.id }, stream: { id: draft.id, phase: "waiting", abort },
    });
    refreshStatus();
    const result = { text: "", stats: {}, finish: null, generation: null, requestId: null };
    let error = null;
    try {
      await this.receive(draft, result, abort.signal);
    } catch (problem) {
      if (abort.signal.aborted) result.finish = "cancelled";
      else error = problem instanceof ApiError ? problem : new ApiError("The answer broke off.", { requestId: result.requestId });
    }
    this.set({ stream: null });
    refreshStatus();
    const { text, stats, finish, generation } = result;
    if (error || finish === "cancelled") this.set({ compare: null }); // half an answer is not compared
    if (!text && (error || finish === "cancelled")) {
      this.drop(draft.id);
      this.set({ leaf: beside ? newestLeaf(this.get().messages, beside.id) : this.get().leaf });
    } else {
      this.amend(draft.id, { content: text, generation, stats: { ...stats, finish: error ? "error" : finish, requestId: result.requestId }, pending: false });
      await this.keep(this.message(draft.id));
      this.pin();
    }
    if (error) {
      const kept = text ? "What had been written is kept above." : "Your message is kept.";
      this.set({ error: { error, kept, retry: () => this.reply(parent, beside) } });
    }
  }

  async receive(draft, result, signal) {
    const { id, system, settings, messages } = this.get();
    const prompt = pathTo(messages, draft.parent).map(({ role, content }) => ({ role, content }));
    let frame = 0;
    const draw = () => { frame = 0; this.amend(draft.id, { content: result.text }); };
    const grown = () => {
      if (this.get().stream.phase === "waiting") this.set({ stream: { ...this.get().stream, phase: "writing" } });
      frame ||= requestAnimationFrame(draw); // one layout a frame, however fast tokens come
    };
    try {
      await receive(result, {
        model: this.route, messages: system ? [{ role: "system", content: system }, ...prompt] : prompt,
        ...Object.fromEntries(SAMPLING.filter((key) => settings[key] != null).map((key) => [key, settings[key]])),
      }, { conversation: id, signal, grown });
    } finally {
      cancelAnimationFrame(frame);
    }
  }

  async keep({ id, parent, role, content, generation }) {
    try {
      await post(`conversations/${this.get().id}/messages`, { id, parent, role, content, generation });
    } catch (error) {
      const retry = () => { this.set({ error: null }); this.keep({ id, parent, role, content, generation }); };
      this.set({ error: { error, kept: "The answer is on this page, but not kept yet.", retry } });
    }
  }

  stop() { this.get().stream?.abort.abort(); }

  /** Keeps which of the two compared answers is better, and goes on with it. */
  async vote(outcome) {
    const { compare, votes } = this.get();
    const vote = {
      id: newId(), a: this.message(compare.a).generation, b: this.message(compare.b).generation, outcome, source: "regenerate",
    };
    try {
      const made = await post("votes", vote);
      this.set({ votes: [...votes, made ?? vote], error: null });
      if (outcome === "a" || outcome === "b") this.follow(compare[outcome]);
      else this.set({ compare: { ...compare, voted: outcome } });
    } catch (error) {
      this.set({ error: { error, kept: "Both answers are kept; the vote is not.", retry: () => this.vote(outcome) } });
    }
  }
}

const sessions = new Map();
let draft = null;

/** The session of a path: `/` is the conversation not begun yet, `/c/<id>` a kept one. */
export function sessionAt(path) {
  const id = path.startsWith("/c/") ? path.slice(3) : null;
  if (!id) return (draft ??= new Session(null));
  if (!sessions.has(id)) sessions.set(id, new Session(id));
  return sessions.get(id);
}
export function newChat() {
  draft = null;
  go("/");
}
/** Changes the route of `session`, or begins a chat with it where none is in front. */
export function talkTo(route, session) {
  if (!session) newChat();
  return (session ?? sessionAt("/")).change({ route });
}
export const forget = (id) => sessions.delete(id);
