// "Which reply is better?" for the page of an application. Its server makes a battle of two replies with
// POST /api/battles/embed; its page loads this file with a publishable key and says where the question stands:
//   <script src="…/embed.js" data-key="hk-…"></script>   <div data-herd-battle="battle_…" data-user="42"></div>
// or asks itself: Herd.ask(element, {battle, user}), a promise of left, right, tie, both_bad, or null where it takes no vote.
(() => {
  const { src, dataset: { key } } = document.currentScript;
  const VOTES = [["left", "←", "Left"], ["tie", "↑", "Tie"], ["both_bad", "↓", "Both bad"], ["right", "→", "Right"]];
  const KEYS = { ArrowLeft: "left", ArrowUp: "tie", ArrowDown: "both_bad", ArrowRight: "right" };
  // Type and colours are those of the page around it, so that it fits its light and its dark.
  const STYLE = `
    :host { display: block; container-type: inline-size; }
    section { display: flex; flex-direction: column; gap: 12px; --line: color-mix(in srgb, currentColor 24%, transparent); line-height: 1.5; }
    p { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
    .asked { border-left: 3px solid var(--line); padding-left: 12px; }
    .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
    .side { border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; min-width: 0; max-height: 420px; overflow-y: auto; }
    .place { font-size: 0.85em; opacity: 0.75; }
    .votes { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
    button { font: inherit; font-weight: 600; color: inherit; background: none; border: 1px solid var(--line); border-radius: 6px; padding: 8px 4px; min-height: 44px; cursor: pointer; }
    button:hover:not(:disabled) { border-color: currentColor; }
    button:disabled { opacity: 0.5; cursor: default; }
    :focus-visible { outline: 2px solid currentColor; outline-offset: 1px; }
    kbd { font: inherit; font-weight: 400; opacity: 0.75; margin-right: 6px; }
    @container (max-width: 520px) { .pair { grid-template-columns: 1fr; } kbd { display: none; } }`;

  /** An element with its attributes; what it says is text, never markup. */
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child ?? "")))));
    return element;
  };

  async function call(path, body) {
    let response;
    try {
      response = await fetch(new URL(`/api/battles/${path}`, src), {
        method: body ? "POST" : "GET", credentials: "omit",
        headers: { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) },
        body: body && JSON.stringify(body),
      });
    } catch { throw new Error("The server that asks this does not answer."); }
    const found = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(found.error?.message ?? `The server answered ${response.status}.`);
    return found;
  }

  /** Two replies, equal in everything but their text. */
  const pair = (turn) => make("div", { class: "pair" }, ...[["left", "Left"], ["right", "Right"]].map(([side, place]) => make(
    "div", { class: "side", role: "article", "aria-label": `${place} reply`, tabindex: 0 }, make("p", { class: "place" }, place), make("p", {}, turn[side].text))));

  function ask(element, { battle, user }) {
    const root = element.shadowRoot ?? element.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    root.adoptedStyleSheets = [sheet]; // not an inline style, which the page's policy may forbid
    const says = make("p", { role: "status" }, "Reading two replies");
    const section = make("section", { "aria-label": "Which reply is better?", "aria-busy": "true" }, says);
    root.replaceChildren(section);
    return new Promise((answered) => {
      const again = (error, what) => {
        const button = make("button", {}, "Try again");
        button.onclick = () => { button.remove(); what(); };
        says.textContent = error.message;
        says.after(button);
      };
      const buttons = VOTES.map(([outcome, arrow, name]) => {
        const button = make("button", { "aria-keyshortcuts": Object.keys(KEYS).find((one) => KEYS[one] === outcome) }, make("kbd", { "aria-hidden": "true" }, arrow), name);
        button.onclick = () => vote(outcome);
        return button;
      });
      const votes = make("div", { class: "votes", role: "group", "aria-label": "Which reply is better?" }, ...buttons);
      votes.onkeydown = (event) => {
        const outcome = KEYS[event.key];
        if (!outcome || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
        event.preventDefault();
        vote(outcome);
      };
      async function vote(outcome) {
        if (buttons[0].disabled) return;
        for (const button of buttons) button.disabled = true;
        says.textContent = "Keeping your vote";
        try {
          await call(`${encodeURIComponent(battle)}/vote`, { outcome, ...(user && { user: String(user) }) });
        } catch (error) {
          for (const button of buttons) button.disabled = false;
          says.textContent = `${error.message} Your vote is not kept.`;
          return;
        }
        votes.remove();
        says.textContent = "Thank you. Your vote is kept.";
        element.dispatchEvent(new CustomEvent("herd-vote", { detail: { battle, outcome }, bubbles: true }));
        answered(outcome);
      }
      async function show() {
        try {
          const { state, turns } = await call(encodeURIComponent(battle));
          section.setAttribute("aria-busy", "false");
          if (state !== "open") { says.textContent = state === "voted" ? "This question has its vote." : "This question has closed."; answered(null); return; }
          section.replaceChildren(...turns.flatMap((turn) => [make("p", { class: "asked" }, turn.prompt), pair(turn)]), says, votes);
          says.textContent = "Which reply is better?";
        } catch (error) { again(error, show); }
      }
      show();
    });
  }

  window.Herd = { ...window.Herd, ask };
  const all = () => document.querySelectorAll("[data-herd-battle]").forEach((element) => ask(element, { battle: element.dataset.herdBattle, user: element.dataset.user }));
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", all) : all();
})();
