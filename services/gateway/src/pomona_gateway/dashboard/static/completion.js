/** Runs one chat completion, and keeps count of what a person sees of it. */

import { ApiError, send, serverEvents } from "./api.js";
import { live } from "./live.js";

const PAUSE_MS = 1500;
const CHECK_MS = 250;
const LOADING_MS = 3000;
const LOADING_DEADLINE_MS = 900_000;

/**
 * @typedef {object} ToolCall
 * @property {string} name
 * @property {string} input
 *
 * @typedef {object} Answer
 * @property {string} text
 * @property {string} reasoning
 * @property {ToolCall[]} calls
 * @property {"sent" | "loading" | "queued" | "prompt" | "writing" | "paused" | "done" | "stopped" | "failed"
 *   } status
 * @property {string} problem why it failed
 * @property {string} finish reason of the end
 * @property {number} position in the queue; 0 when not queued
 * @property {number} prefilled tokens of the prompt that have been read
 * @property {number} promptTokens
 * @property {number} tokens of the answer
 * @property {number} sentAt milliseconds
 * @property {number} firstAt of the first token; 0 before it
 * @property {number} lastAt of the newest token
 * @property {{at: number, seconds: number, epoch: number}[]} pauses after which it continued on
 *   another epoch
 *
 * @typedef {object} Settings
 * @property {string} model
 * @property {string} system
 * @property {string} temperature
 * @property {string} topP
 * @property {string} maxTokens
 * @property {string} seed
 * @property {string} tools JSON of the tools that are offered
 */

/** @returns {Answer} */
export const newAnswer = () => ({
  text: "", reasoning: "", calls: [], status: "sent", problem: "", finish: "", position: 0,
  prefilled: 0, promptTokens: 0, tokens: 0, sentAt: Date.now(), firstAt: 0, lastAt: 0, pauses: [],
});

/** @param {Answer} answer */
export function tokensPerSecond(answer) {
  const seconds = (answer.lastAt - answer.firstAt) / 1000;
  return answer.tokens > 1 && seconds > 0 ? (answer.tokens - 1) / seconds : 0;
}

/**
 * Returns the body of the request.
 *
 * @param {Settings} settings
 * @param {{role: string, content: string}[]} messages
 */
export function requestBody(settings, messages) {
  const system = settings.system.trim();
  /** @type {Record<string, unknown>} */
  const body = {
    model: settings.model,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  const numbers = /** @type {const} */ ([
    ["temperature", settings.temperature], ["top_p", settings.topP],
    ["max_tokens", settings.maxTokens], ["seed", settings.seed],
  ]);
  for (const [name, value] of numbers) if (value.trim()) body[name] = Number(value);
  if (settings.tools.trim()) body["tools"] = JSON.parse(settings.tools);
  return body;
}

/** @param {string} model */
const epochOf = (model) =>
  live().report?.pipelines.find((pipeline) => pipeline.model === model)?.epoch ?? 0;

/**
 * Runs a completion until it ends, however it ends. Calls `changed` at every change of `answer`.
 *
 * @param {Settings} settings
 * @param {{role: string, content: string}[]} messages
 * @param {Answer} answer
 * @param {() => void} changed
 * @param {AbortSignal} signal stops it
 */
export async function complete(settings, messages, answer, changed, signal) {
  let epoch = epochOf(settings.model);
  let resubmitted = false;
  const timer = setInterval(() => {
    const waits = answer.status === "writing" && Date.now() - answer.lastAt > PAUSE_MS;
    if (waits) answer.status = "paused";
    if (waits || answer.status === "paused") changed();
  }, CHECK_MS);
  try {
    const body = requestBody(settings, messages);
    const response = await sendWhenLoaded(body, answer, changed, signal);
    for await (const { data, comment } of serverEvents(response)) {
      if (comment) {
        onComment(answer, comment);
        resubmitted ||= answer.firstAt > 0 && /^(queued|prompt)/.test(comment);
      } else if (data !== "[DONE]") {
        const written = onChunk(answer, JSON.parse(data));
        const now = epochOf(settings.model);
        if (written && answer.lastAt && (resubmitted || (answer.status === "paused" && now > epoch))) {
          const seconds = (Date.now() - answer.lastAt) / 1000;
          answer.pauses.push({ at: Date.now(), seconds, epoch: now });
          resubmitted = false;
        }
        if (written) {
          epoch = Math.max(epoch, now);
          answer.firstAt ||= Date.now();
          answer.lastAt = Date.now();
          answer.status = "writing";
        }
      }
      changed();
    }
    if (answer.status !== "failed") answer.status = "done";
  } catch (error) {
    answer.status = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) {
      answer.problem = error instanceof Error ? error.message : String(error);
    }
  } finally {
    clearInterval(timer);
    changed();
  }
}

/**
 * Sends the request, and again while its model is loaded for it.
 *
 * @param {unknown} body
 * @param {Answer} answer
 * @param {() => void} changed
 * @param {AbortSignal} signal
 */
async function sendWhenLoaded(body, answer, changed, signal) {
  const deadline = Date.now() + LOADING_DEADLINE_MS;
  for (;;) {
    try {
      return await send("v1/chat/completions", { body, signal });
    } catch (error) {
      const code = error instanceof ApiError ? error.code : "";
      const loads = answer.status === "loading" && code === "model_not_ready";
      if (!(loads || code === "model_loading") || Date.now() > deadline) throw error;
    }
    answer.status = "loading";
    changed();
    await new Promise((resolve) => {
      setTimeout(resolve, LOADING_MS);
      signal.addEventListener("abort", resolve, { once: true });
    });
    signal.throwIfAborted();
  }
}

/**
 * @param {Answer} answer
 * @param {string} comment
 */
function onComment(answer, comment) {
  const queued = /^queued at (\d+)/.exec(comment);
  const prompt = /^prompt (\d+)\/(\d+)/.exec(comment);
  if (queued) {
    answer.position = Number(queued[1]);
    answer.status = answer.firstAt ? "paused" : "queued";
  } else if (prompt) {
    answer.position = 0;
    answer.prefilled = Number(prompt[1]);
    answer.promptTokens = Number(prompt[2]);
    answer.status = answer.firstAt ? "paused" : "prompt";
  }
}

/**
 * Adds a chunk. Returns whether it has a part of the answer.
 *
 * @param {Answer} answer
 * @param {any} chunk
 */
function onChunk(answer, chunk) {
  if (chunk.error) {
    answer.status = "failed";
    answer.problem = chunk.error.message;
    return false;
  }
  if (chunk.usage) {
    answer.tokens = chunk.usage.completion_tokens;
    answer.promptTokens = chunk.usage.prompt_tokens;
  }
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  answer.text += content ?? "";
  answer.reasoning += reasoning ?? "";
  for (const call of calls ?? []) {
    const known = (answer.calls[call.index] ??= { name: "", input: "" });
    known.name += call.function?.name ?? call.custom?.name ?? "";
    known.input += call.function?.arguments ?? call.custom?.input ?? "";
  }
  return Boolean(content || reasoning || calls?.length);
}
