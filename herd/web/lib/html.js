// The one place that knows which view library draws the pages.
import { Component, h, render } from "../vendor/preact/preact.js";
import htm from "../vendor/htm/htm.js";

export { Component, render };
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact/hooks.js";
export const html = htm.bind(h);

const same = (a, b) => Object.keys({ ...a, ...b }).every((key) => a[key] === b[key]);

/** A component that draws again only when a prop changes: streaming redraws one message, not all. */
export function memo(view) {
  return class Memo extends Component {
    shouldComponentUpdate(next) { return !same(this.props, next); }
    render(props) { return h(view, props); }
  };
}
