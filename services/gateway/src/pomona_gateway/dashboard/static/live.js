/** The state of the cluster in this page, from one stream of events. */

import { useEffect, useState } from "./vendor/preact-hooks.js";
import { ApiError, send, serverEvents } from "./api.js";

/**
 * @typedef {import("./report.js").Report} Report
 * @typedef {object} Live
 * @property {"connecting" | "live" | "lost" | "login"} status
 * @property {string} problem why there is no connection
 * @property {import("./report.js").Hello | null} hello
 * @property {Report | null} report
 * @property {Record<string, import("./report.js").Work>} work by stage worker
 * @property {import("./report.js").ModelEntry[]} models
 * @property {import("./report.js").Change[]} changes oldest first
 * @property {string[]} fields names of a sample's columns
 * @property {(number | null)[][]} samples of the last hour, oldest first
 */

const PATH = "api/pomona/v1/events";
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;
const SILENCE_MS = 30_000;
const MAX_SAMPLES = 720;
const MAX_CHANGES = 200;

/** @type {Live} */
let state = {
  status: "connecting", problem: "", hello: null, report: null, work: {}, models: [], changes: [],
  fields: [], samples: [],
};
/** @type {Set<() => void>} */
const listeners = new Set();
let generation = 0;

/** Returns the current state. */
export const live = () => state;

/** @param {Partial<Live>} change */
function update(change) {
  state = { ...state, ...change };
  for (const listener of listeners) listener();
}

/** Returns the state, and renders the component again whenever it changes. */
export function useLive() {
  const [, render] = useState(0);
  useEffect(() => {
    const listener = () => render((count) => count + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return state;
}

/**
 * Calls a function at every change of the state, until the returned function is called.
 *
 * @param {() => void} listener
 */
export function onChange(listener) {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Connects, and connects again whenever the stream ends. A second call replaces the first. */
export async function connect() {
  const own = ++generation;
  let retryMs = FIRST_RETRY_MS;
  update({ status: "connecting", problem: "" });
  while (own === generation) {
    try {
      await read(own, () => (retryMs = FIRST_RETRY_MS));
      update({ status: "lost", problem: "The gateway ended the connection." });
    } catch (error) {
      if (own !== generation) return;
      if (error instanceof ApiError && error.status === 401) {
        update({ status: "login", problem: error.message, report: null });
        return;
      }
      const text = error instanceof ApiError ? error.message : "The connection broke.";
      update({ status: "lost", problem: text });
    }
    await new Promise((resolve) => setTimeout(resolve, retryMs));
    retryMs = Math.min(MAX_RETRY_MS, 2 * retryMs);
  }
}

/**
 * Reads one stream until it ends.
 *
 * @param {number} own
 * @param {() => void} onOpen
 */
async function read(own, onOpen) {
  const abort = new AbortController();
  let timer = setTimeout(() => abort.abort(), SILENCE_MS);
  try {
    const response = await send(PATH, { signal: abort.signal });
    for await (const { event, data } of serverEvents(response)) {
      if (own !== generation) return;
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENCE_MS);
      if (event) onOpen();
      if (event) receive(event, JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}

/**
 * @param {string} event
 * @param {any} content
 */
function receive(event, content) {
  switch (event) {
    case "hello":
      update({ status: "live", problem: "", hello: content, changes: [] });
      break;
    case "history":
      update({ fields: content.fields, samples: content.samples });
      break;
    case "samples":
      update({ samples: [...state.samples, ...content].slice(-MAX_SAMPLES) });
      break;
    case "changes":
      update({ changes: [...state.changes, ...content].slice(-MAX_CHANGES) });
      break;
    case "cluster":
      update({ report: content });
      break;
    case "work":
      update({ work: content });
      break;
    case "models":
      update({ models: content });
      break;
  }
}
