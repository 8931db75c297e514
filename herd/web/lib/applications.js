import { get } from "./api.js";
import { store } from "./store.js";

/** The application of each key, by the key's id; traffic is kept by id. */
export const applications = store({});
export const named = (id) => applications.get()[id] ?? id;

/** For whoever may see the keys; others read ids. */
export async function readApplications() {
  const { data } = await get("keys?limit=200").catch(() => ({ data: [] }));
  applications.set(Object.fromEntries(data.map(({ id, application }) => [id, application || id])));
}
