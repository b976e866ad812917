/** Requests to the gateway that serves this page. The key stays in this tab. */

const KEY = "pomona-key";

/** An answer that is not a success, in the gateway's own words. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 when the gateway did not answer
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Returns the key of this tab; empty without one. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/**
 * Sends a request and returns its response. Paths are relative to the page.
 *
 * @param {string} path
 * @param {{body?: unknown, signal?: AbortSignal}} [options] a body makes it a POST
 * @returns {Promise<Response>}
 */
export async function send(path, { body, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = { accept: "application/json, text/event-stream" };
  if (apiKey()) headers["authorization"] = `Bearer ${apiKey()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  /** @type {RequestInit} */
  const request = { headers, method: body === undefined ? "GET" : "POST", cache: "no-store" };
  if (signal) request.signal = signal;
  if (body !== undefined) request.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "The gateway does not answer.");
  }
  if (!response.ok) throw await readError(response);
  return response;
}

/**
 * Sends a request and returns its JSON.
 *
 * @param {string} path
 * @param {{body?: unknown, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function sendForJson(path, options) {
  return (await send(path, options)).json();
}

/** @param {Response} response */
async function readError(response) {
  let message = `The gateway answered ${response.status}.`;
  let code = "";
  try {
    const { error } = await response.json();
    message = typeof error === "string" ? error : error.message;
    code = error.code ?? "";
  } catch {
    // not JSON: a proxy answered
  }
  return new ApiError(response.status, code, message);
}

/**
 * Yields the server-sent events of a response: comments too, with `comment` set.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<{event: string, data: string, comment: string}>}
 */
export async function* serverEvents(response) {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let event = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { event, data: data.join("\n"), comment: "" };
          event = "";
          data = [];
        } else if (line.startsWith(":")) {
          yield { event: "", data: "", comment: line.slice(1).trim() };
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trim();
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
