import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib/html.js";
import { childrenOf } from "../lib/tree.js";
import { Compare } from "./compare.js";
import { Message } from "./message.js";
import { Windowed } from "./windowed.js";

const NEAR = 80; // pixels from the end that still count as being there

export function Thread({ session, state, path }) {
  const box = useRef();
  const following = useRef(true);
  const [away, setAway] = useState(false);
  const children = useMemo(() => childrenOf(state.messages), [state.messages.length]);
  const ids = (message) => (children.get(message.parent ?? null) ?? [message]).map(({ id }) => id);
  const verdicts = useMemo(() => votesByGeneration(state.votes), [state.votes]);

  const toEnd = () => { box.current.scrollTop = box.current.scrollHeight; };
  const scrolled = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    following.current = scrollHeight - scrollTop - clientHeight < NEAR;
    setAway(!following.current);
  };
  useLayoutEffect(() => {
    if (!state.stream) return;
    following.current = true;
    toEnd();
  }, [state.stream?.id]);

  const { compare, editing } = state;
  const draw = (message) => (compare && (message.id === compare.a || message.id === compare.b)
    ? html`<${Compare} key=${compare.b} session=${session} compare=${compare} a=${session.message(compare.a)} b=${session.message(compare.b)} writing=${Boolean(state.stream)} />`
    : html`<${Message} key=${message.id} session=${session} message=${message} branches=${ids(message).join(" ")} edited=${editing?.id === message.id ? editing.text : null}
        phase=${state.stream?.id === message.id ? state.stream.phase : null} busy=${Boolean(state.stream)} verdict=${verdicts.get(message.generation)} last=${message.id === state.leaf} />`);
  return html`<div class="thread" ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-label="Messages" aria-live="off">
    <${Windowed} box=${box} following=${following} items=${path} draw=${draw} /></div>
    ${away && html`<button class="to-end" onClick=${toEnd}>Jump to the end</button>`}
    <${Announcer} message=${state.stream && session.message(state.stream.id)} />`;
}

/** What a vote said of each of its two generations. */
function votesByGeneration(votes) {
  const said = new Map();
  for (const { a, b, outcome } of votes) {
    said.set(a, { a: "the better of two", b: "the lesser of two", tie: "equal to the other", both_bad: "neither was good" }[outcome]);
    said.set(b, { b: "the better of two", a: "the lesser of two", tie: "equal to the other", both_bad: "neither was good" }[outcome]);
  }
  return said;
}

/** Reads a streaming answer to a screen reader a sentence at a time, not a token at a time. */
export function Announcer({ message }) {
  const ref = useRef();
  const said = useRef({ id: null, upTo: 0, text: "" });
  useEffect(() => {
    const box = ref.current;
    if (!message) {
      if (said.current.id) box.textContent = said.current.text.slice(said.current.upTo) || "The answer is complete.";
      said.current = { id: null, upTo: 0, text: "" };
      return;
    }
    if (said.current.id !== message.id) said.current = { id: message.id, upTo: 0, text: "" };
    said.current.text = message.content;
    const fresh = message.content.slice(said.current.upTo);
    const end = fresh.search(/[.!?…]["”’)]*\s(?![^]*[.!?…]["”’)]*\s)/);
    if (end < 0) return;
    box.textContent = fresh.slice(0, end + 1);
    said.current.upTo += end + 1;
  });
  return html`<div class="hidden" aria-live="polite" ref=${ref}></div>`;
}
