// The one place that knows which view library draws the pages.
import { Component, h, render } from "../vendor/preact/preact.js";
import htm from "../vendor/htm/htm.js";

export { Component, render };
export { useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "../vendor/preact/hooks.js";
export const html = htm.bind(h);

const same = (a, b) => Object.keys({ ...a, ...b }).every((key) => a[key] === b[key]);

/** A component that draws again only when a prop changes (as `equal` sees it): streaming redraws one message, not all. */
export function memo(view, equal = same) {
  return class Memo extends Component {
    shouldComponentUpdate(next) { return !equal(this.props, next); }
    render(props) { return h(view, props); }
  };
}
