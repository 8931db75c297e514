import { keyNames } from "../commands.js";
import { html, useEffect } from "../lib/html.js";
import { ICONS } from "../lib/icons.js";
import { ui } from "../lib/ui.js";
import { Failed, Top } from "../shell.js";
import { Composer } from "./composer.js";
import { list } from "./conversations.js";
import { Empty } from "./empty.js";
import { ConversationList } from "./list.js";
import { sessionAt } from "./session.js";
import { Settings } from "./settings.js";
import { Thread } from "./thread.js";

export function Chat({ path }) {
  const session = sessionAt(path);
  useEffect(() => {
    ui.set({ session, list: false });
    session.load();
    return () => { if (ui.get().session === session) ui.set({ session: null }); };
  }, [session]);
  return html`<${ConversationList} id=${session.get().id} /><${Conversation} key=${session.key} session=${session} />`;
}

function Conversation({ session }) {
  const state = session.state.use();
  const { settings, list: listed } = ui.use();
  const path = session.path();
  const title = state.phase === "missing" ? "Not found" : titleOf(state);
  useEffect(() => { document.title = `${title} · Herd`; }, [title]);
  const head = html`<button class="icon only-narrow" aria-label="Conversations" aria-expanded=${String(listed)} onClick=${() => ui.set({ list: !listed })}>${ICONS.list}</button>
    <h1 title=${title}>${title}</h1>`;
  if (state.phase === "missing") {
    return html`<main id="main" class="page chat"><${Top}>${head}<//><div class="thread"><div class="empty">
      <h2>This conversation is not here</h2><p>It may have been deleted. <a href="/">Begin a new one</a>.</p></div></div></main>`;
  }
  const tools = html`<button class="icon" aria-label="Settings of this chat" title=${`Settings (${keyNames("mod+,").join(" ")})`} aria-expanded=${String(settings)} onClick=${() => ui.set({ settings: !settings })}>${ICONS.settings}</button>`;
  return html`<main id="main" class="page chat">
    <${Top} route=${session.route} onRoute=${(route) => session.change({ route })} tools=${tools}>${head}<//>
    <div class="chat-body">
      <div class="column">
        ${state.phase === "loading" && !state.error ? html`<${Skeleton} />`
          : path.length ? html`<${Thread} session=${session} state=${state} path=${path} />`
          : state.phase === "loading" ? html`<div class="thread"></div>` : html`<${Empty} session=${session} />`}
        ${state.error && html`<${Failed} ...${state.error} dismiss=${() => session.set({ error: null })} />`}
        <${Composer} session=${session} state=${state} path=${path} />
      </div>
      ${settings && html`<${Settings} session=${session} state=${state} />`}
    </div></main>`;
}

/** Its own title; while it is being read, the one that the list knows. */
function titleOf({ id, title, phase }) {
  if (phase !== "loading") return title || (id ? "Untitled" : "New chat");
  return list.get().data.find((row) => row.id === id)?.title || "Conversation";
}

const Skeleton = () => html`<div class="thread" aria-busy="true" role="status" aria-label="Loading the conversation"><div class="reading">
  ${[["mine", 38], ["", 96], ["", 88], ["", 42], ["mine", 52], ["", 92], ["", 64]].map(([side, width]) => html`<div class=${`bone ${side}`} style=${{ width: `${width}%` }}></div>`)}</div></div>`;
