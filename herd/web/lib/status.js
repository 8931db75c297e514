import { get } from "./api.js";
import { store } from "./store.js";

/** The server's last word about itself; `stale` when it stopped answering, `at` when it last did. */
export const status = store({ data: null, at: null, stale: false });

let timer = 0;
export async function refreshStatus() {
  clearTimeout(timer);
  try {
    status.set({ data: await get("status"), at: new Date(), stale: false });
  } catch (error) {
    if (error.status === 0) status.set({ stale: true });
  }
  timer = setTimeout(refreshStatus, document.hidden ? 15000 : 3000);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) refreshStatus(); });

/** What the engine is doing: [meaning, words]. */
export function engineWords({ data, stale }) {
  if (stale) return ["bad", "no server"];
  if (!data) return ["quiet", "connecting"];
  const { state, running = 0, waiting = 0 } = data.engine ?? {};
  if (state === "starting") return ["info", "loading the model"];
  if (state === "absent") return ["quiet", "gateway only"];
  if (state === "gone") return ["bad", "engine is restarting"];
  const run = (does) => (data.runs_active ? `, a run ${does}` : "");
  if (waiting) return ["caution", `${running} in flight, ${waiting} queued${run("waits")}`];
  if (running) return ["info", `${running} in flight${run("waits")}`];
  return ["good", `idle${run("works")}`];
}

export const routeNamed = (name) => status.get().data?.routes?.find((route) => route.name === name);
