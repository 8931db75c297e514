import { keyNames } from "../commands.js";
import { html, useEffect, useLayoutEffect, useRef } from "../lib/html.js";
import { focusComposer } from "../lib/ui.js";

const LINES = 10; // it grows to so many, then scrolls

export function Composer({ session, state, path, focus = true }) {
  const { text } = state;
  const setText = (next) => session.set({ text: next });
  const box = useRef();
  const busy = Boolean(state.stream);
  useEffect(() => { if (focus) focusComposer(); }, []);
  useLayoutEffect(() => {
    const { style } = box.current;
    style.height = "auto";
    const line = parseFloat(getComputedStyle(box.current).lineHeight);
    style.height = `${Math.min(box.current.scrollHeight, line * LINES + 12)}px`;
  }, [text]);

  const send = () => {
    if (!text.trim() || busy || state.phase !== "ready") return;
    setText("");
    session.send(text);
  };
  const key = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); send(); }
    const before = event.key === "ArrowUp" && !text && path.findLast((message) => message.role === "user");
    if (before) { event.preventDefault(); setText(before.content); }
  };
  return html`<form class="composer" onSubmit=${(event) => { event.preventDefault(); send(); }}>
    <div class="box"><textarea id="composer" ref=${box} rows="1" aria-label="Your message" placeholder=${`Write to ${session.route}`} value=${text}
        onInput=${(event) => setText(event.target.value)} onKeyDown=${key}></textarea>
      ${busy ? html`<button type="button" class="stop" onClick=${() => session.stop()}>Stop<kbd>Esc</kbd></button>`
        : html`<button class="primary" disabled=${!text.trim() || state.phase !== "ready"}>Send</button>`}</div>
    <p class="soft foot">Enter sends, Shift Enter makes a new line, ${keyNames("mod+/").join(" ")} shows all keys</p></form>`;
}
