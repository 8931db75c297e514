import { html } from "./html.js";

const drawn = (path) => html`<svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true"><path d=${path} /></svg>`;

/** Line drawings of our own, in the colour of the text around them. */
export const ICONS = {
  chat: drawn("M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-4 3v-3a1.5 1.5 0 0 1-1.5-1.5z"),
  arena: drawn("M3 4.5h5.5v11H3zM11.5 4.5H17v11h-5.5zM5 8h1.5M13.5 8H15"),
  leaderboard: drawn("M3 5h7M13.2 5H16M4.5 10H6M9.2 10h6M3 15h2.5M8.7 15H12M11.6 3.4v3.2M7.6 8.4v3.2M7.1 13.4v3.2"),
  models: drawn("M10 2.8 16.5 6.4v7.2L10 17.2 3.5 13.6V6.4zM3.7 6.5 10 10l6.3-3.5M10 10v7"),
  runs: drawn("M3 16.5h14M3.5 12.5l4-4 3 2.5 6-7"),
  traffic: drawn("M3.5 16.5v-5M8 16.5v-9M12.5 16.5V10M17 16.5v-13"),
  conversations: drawn("M6.5 3.5h8a2 2 0 0 1 2 2v5M11 6.5H5a2 2 0 0 0-2 2v4a2 2 0 0 0 2 2h.5V17l3-2.5H11a2 2 0 0 0 2-2v-4a2 2 0 0 0-2-2z"),
  routes: drawn("M3 10h4.5l4-5H16M7.5 10l4 5H16M14 3l2.2 2L14 7M14 13l2.2 2L14 17"),
  keys: drawn("M7 8.5a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6zM9.7 9.6 16.5 3M13.5 6l2 2M15.5 4l1.5 1.5"),
  up: drawn("M10 16V4.5M5.5 9 10 4.5 14.5 9"),
  down: drawn("M10 4v11.5M5.5 11l4.5 4.5 4.5-4.5"),
  good: drawn("M3.5 9.5h2.5v7H3.5zM8 16.5h6.2a1.6 1.6 0 0 0 1.5-1.2l1.100-4.300A1.2 1.2 0 0 0 15.6 9.5H11.5l.6-3.7a1.5 1.5 0 0 0-2.8-.9L7.5 9.5"),
  poor: drawn("M3.5 3.5h2.5v7H3.5zM8 3.5h6.2a1.6 1.6 0 0 1 1.5 1.2l1.100 4.300a1.2 1.2 0 0 1-1.2 1.5H11.5l.6 3.7a1.5 1.5 0 0 1-2.8.9L7.5 10.5"),
  find: drawn("M8.8 3.5a5.3 5.3 0 1 1 0 10.6 5.3 5.3 0 0 1 0-10.6zM12.8 12.8 17 17"),
  theme: drawn("M10 3.2a6.8 6.8 0 1 0 0 13.6zM10 3.2a6.8 6.8 0 0 1 0 13.6"),
  list: drawn("M3.5 5h13M3.5 10h13M3.5 15h8"),
  settings: drawn("M3 6h8M15 6h2M3 14h2M9 14h8M13 4v4M7 12v4"),
  rename: drawn("M4 16l.8-3.4L13.5 4l2.6 2.6-8.7 8.6zM11.5 6l2.6 2.6"),
  export: drawn("M10 3.5v9M6.5 9 10 12.5 13.5 9M4 16.5h12"),
  remove: drawn("M4 6h12M8 6V4h4v2M5.5 6l.7 10.5h7.6L14.5 6M8.5 9v4.5M11.5 9v4.5"),
};
