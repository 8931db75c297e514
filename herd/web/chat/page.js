import { html, useEffect } from "../lib/html.js";
import { ui } from "../lib/ui.js";
import { Failed, ICONS, Top } from "../shell.js";
import { Composer } from "./composer.js";
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
  const { settings, list } = ui.use();
  const path = session.path();
  useEffect(() => { document.title = `${state.title || "New chat"} · Herd`; }, [state.title]);
  if (state.phase === "missing") {
    return html`<main id="main" class="page chat"><${Top}><h1>Not found</h1><//>
      <div class="empty"><h2>This conversation is not here</h2><p>It may have been deleted. <a href="/">Begin a new one</a>.</p></div></main>`;
  }
  return html`<main id="main" class="page chat">
    <${Top} route=${session.route} onRoute=${(route) => session.change({ route })}>
      <button class="icon only-narrow" aria-label="Conversations" aria-expanded=${String(list)} onClick=${() => ui.set({ list: !list })}>${ICONS.list}</button>
      <h1 title=${state.title}>${state.title || "New chat"}</h1>
      <button class="icon" aria-label="Settings of this chat" title="Settings (Ctrl ,)" aria-expanded=${String(settings)} onClick=${() => ui.set({ settings: !settings })}>${ICONS.settings}</button>
    <//>
    <div class="chat-body">
      <div class="column">
        ${state.phase === "loading" && !state.error ? html`<${Skeleton} />`
          : path.length ? html`<${Thread} session=${session} state=${state} path=${path} />`
          : html`<${Empty} session=${session} />`}
        ${state.error && html`<${Failed} ...${state.error} dismiss=${() => session.set({ error: null })} />`}
        <${Composer} session=${session} state=${state} path=${path} />
      </div>
      ${settings && html`<${Settings} session=${session} state=${state} />`}
    </div></main>`;
}

const Skeleton = () => html`<div class="thread" aria-busy="true" aria-label="Loading the conversation"><div class="reading">
  ${[40, 88, 72, 30, 80].map((width) => html`<div class="bone" style=${{ width: `${width}%` }}></div>`)}</div></div>`;
