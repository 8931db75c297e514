import { ui } from "./ui.js";

/** What went wrong, in words for a person; `status` 0 means that no server answered. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, requestId = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, requestId, retryAfter });
  }
}

/** fetch() whose failures are ApiErrors that carry the request's id. */
export async function request(path, { method = "GET", body, headers = {}, ...rest } = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      ...rest,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.");
  }
  if (response.ok) return response;
  const detail = (await response.json().catch(() => ({}))).error ?? {};
  if (response.status === 401) ui.set({ locked: true });
  throw new ApiError(detail.message ?? `The server answered ${response.status}.`, {
    status: response.status,
    code: detail.code,
    param: detail.param,
    requestId: response.headers.get("X-Request-Id"),
    retryAfter: Number(response.headers.get("Retry-After")) || null,
  });
}

const json = async (path, options) => {
  const response = await request(`/api/${path}`, options);
  return response.status === 204 ? null : response.json();
};
export const get = (path, options) => json(path, options);
export const post = (path, body = {}) => json(path, { method: "POST", body });
export const put = (path, body) => json(path, { method: "PUT", body });
export const patch = (path, body) => json(path, { method: "PATCH", body });
export const remove = (path, options) => json(path, { method: "DELETE", ...options });

/** An id for what this page makes; randomUUID exists only on https and localhost. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
