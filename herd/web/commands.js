import { exportAs, importFrom } from "./chat/conversations.js";
import { newChat } from "./chat/session.js";
import { remembered } from "./lib/store.js";
import { copy, focusComposer, ui } from "./lib/ui.js";

const session = () => ui.get().session;
const lastReply = () => session()?.path().findLast((message) => message.role === "assistant" && message.content);

export const THEMES = { auto: "as the system", light: "light", dark: "dark" };
export const theme = () => document.documentElement.dataset.theme ?? "auto";
export function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  remembered.set("theme", name);
  dispatchEvent(new Event("themechange"));
}
export const nextTheme = () => setTheme({ auto: "light", light: "dark", dark: "auto" }[theme()]);

/** Everything that can be asked for by name or key. `chat`: only where a conversation is in front. */
export const COMMANDS = [
  { title: "Find anything", keys: "mod+k", run: () => ui.set({ palette: true, help: false }), hide: true },
  { title: "New chat", keys: "mod+shift+o", run: () => { newChat(); requestAnimationFrame(focusComposer); } },
  { title: "Stop the answer", keys: "escape", run: () => session()?.stop(), when: () => Boolean(session()?.get().stream) },
  { title: "Write a message", keys: "shift+escape", run: focusComposer, chat: true },
  { title: "Copy the last answer", keys: "mod+shift+c", run: () => copy(lastReply().content), chat: true, when: () => Boolean(lastReply()) },
  { title: "Regenerate the last answer", run: () => session().regenerate(lastReply()), chat: true, when: () => Boolean(lastReply()) },
  { title: "Settings of this chat", keys: "mod+,", run: () => ui.set({ settings: !ui.get().settings }), chat: true },
  { title: "Keyboard map", keys: "mod+/", run: () => ui.set({ help: !ui.get().help, palette: false }) },
  { title: "Vote in the arena: left, right, tie, both bad", keys: "←+→+↑+↓", hide: true },
  { title: "New round, after a vote in the arena", keys: "n", hide: true },
  { title: "Previous prompt, in an empty box", keys: "↑", hide: true },
  { title: "Change the theme", run: nextTheme },
  { title: "Export all conversations", run: () => exportAs("herd-conversations.json") },
  { title: "Import conversations", run: importFrom },
];

export const usable = (command) => Boolean(command.run) && (!command.chat || session()) && (command.when?.() ?? true);

const mac = /Mac|iP/.test(navigator.platform);
const NAMES = { mod: mac ? "⌘" : "Ctrl", shift: mac ? "⇧" : "Shift", escape: "Esc", enter: "Enter" };
export const keyNames = (keys) => keys.split("+").map((key) => NAMES[key] ?? key.toUpperCase());

const pressed = (event) => [
  (event.ctrlKey || event.metaKey) && "mod", event.shiftKey && "shift", event.altKey && "alt", event.key.toLowerCase(),
].filter(Boolean).join("+");

addEventListener("keydown", (event) => {
  if (event.isComposing || event.defaultPrevented) return;
  const open = ui.get().palette || ui.get().help;
  const command = COMMANDS.find((c) => c.keys === pressed(event) && usable(c));
  if (!command || (open && command.keys === "escape")) return; // an open panel takes Esc for itself
  event.preventDefault();
  command.run();
});
