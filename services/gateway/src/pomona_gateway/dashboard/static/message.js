/** One question and its answer. */

import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { tokensPerSecond } from "./completion.js";
import { clock, counted, digits, duration, tokenRate } from "./format.js";
import { toHtml } from "./markdown.js";
import { copyText, CopyButton, html, Progress } from "./ui.js";

/** @typedef {import("./completion.js").Answer} Answer */

const MIN_RENDER_MS = 80;
const COST_FACTOR = 5;

/**
 * Text of a model. Long ones are rendered less often, so that they never hold up the page.
 *
 * @param {{text: string}} props
 */
export function Markdown({ text }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const state = useRef({ shown: "", timer: 0, pauseMs: MIN_RENDER_MS });
  const newest = useRef(text);
  newest.current = text;
  useEffect(() => {
    const { current } = state;
    if (current.timer || current.shown === text) return;
    const show = () => {
      current.timer = 0;
      if (!box.current || current.shown === newest.current) return;
      const began = performance.now();
      current.shown = newest.current;
      // eslint-disable-next-line no-unsanitized/property -- toHtml sanitises
      box.current.innerHTML = toHtml(current.shown);
      addCopyButtons(box.current);
      current.pauseMs = Math.max(MIN_RENDER_MS, COST_FACTOR * (performance.now() - began));
    };
    if (current.shown) current.timer = setTimeout(show, current.pauseMs);
    else show();
  }, [text]);
  useEffect(() => () => clearTimeout(state.current.timer), []);
  return html`<div class="markdown" ref=${box} />`;
}

/** @param {HTMLElement} box */
function addCopyButtons(box) {
  for (const block of box.querySelectorAll("pre")) {
    block.tabIndex = 0;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small copy";
    button.textContent = "Copy";
    button.addEventListener("click", () => {
      const copied = copyText(block.querySelector("code")?.textContent ?? "");
      button.textContent = copied ? "Copied" : "Select it";
    });
    block.append(button);
  }
  for (const table of box.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "scroll";
    frame.tabIndex = 0;
    table.replaceWith(frame);
    frame.append(table);
  }
}

/** @param {{question: string, answer: Answer, model: string, number: number}} props */
export function Message({ question, answer, model, number }) {
  const waits = ["sent", "loading", "queued", "prompt"].includes(answer.status);
  return html`<li>
    <div class="question">
      <h2 class="who">You</h2>
      <p>${question}</p>
    </div>
    <div class="answer" aria-busy=${waits || answer.status === "writing"}>
      <h2 class="who">${model || "Model"}<span class="off-screen"> answer ${number}</span></h2>
      ${answer.reasoning &&
      html`<details class="reasoning">
        <summary>
          Reasoning${answer.text || answer.status === "done" ? "" : ", being written"}
        </summary>
        <${Markdown} text=${answer.reasoning} />
      </details>`}
      ${answer.text && html`<${Markdown} text=${answer.text} />`}
      ${answer.calls.map(
        (call, index) => html`<div class="call" key=${index}>
          <p><strong>Calls ${call.name}</strong></p>
          <pre tabindex="0"><code>${call.input}</code></pre>
        </div>`,
      )}
      ${waits && html`<${Waiting} answer=${answer} />`}
      ${answer.status === "paused" &&
      html`<p class="notice warning">
        Paused for ${digits(Math.round((Date.now() - answer.lastAt) / 1000))} s: the pipeline
        recovers, and the answer goes on by itself.
      </p>`}
      ${answer.pauses.map(
        (pause) => html`<p class="notice info" key=${pause.at}>
          Continued after a failure, at ${clock(pause.at / 1000)}: it paused for
          ${` ${duration(pause.seconds)}`}${pause.epoch
            ? `, and goes on in epoch ${pause.epoch}`
            : ""}.
        </p>`,
      )}
      ${answer.status === "failed" &&
      html`<p class="notice critical">The answer failed: ${answer.problem}</p>`}
      ${answer.status === "stopped" && html`<p class="notice info">Stopped.</p>`}
      <${Figures} answer=${answer} />
    </div>
  </li>`;
}

/** @param {{answer: Answer}} props */
function Waiting({ answer }) {
  if (answer.status === "loading") return html`<p class="muted">The model is being loaded.</p>`;
  if (answer.status === "queued") {
    return html`<p class="muted">In the queue, at place ${answer.position}.</p>`;
  }
  if (answer.status === "prompt" && answer.promptTokens) {
    return html`<${Progress}
      label="Prompt"
      value=${answer.prefilled}
      max=${answer.promptTokens}
      text=${`${digits(answer.prefilled)} of ${counted(answer.promptTokens, "prompt token")} read`}
    />`;
  }
  return html`<p class="muted">Sent.</p>`;
}

/** @param {{answer: Answer}} props */
function Figures({ answer }) {
  const rate = tokensPerSecond(answer);
  const parts = [
    answer.firstAt ? `first token after ${duration((answer.firstAt - answer.sentAt) / 1000)}` : "",
    rate ? tokenRate(rate) : "",
    answer.tokens ? counted(answer.tokens, "token") : "",
    answer.promptTokens ? `prompt of ${counted(answer.promptTokens, "token")}` : "",
    answer.finish === "length" ? "cut at the limit of tokens" : "",
  ].filter(Boolean);
  if (!parts.length) return null;
  return html`<p class="figures">
    <small>${parts.join(" · ")}</small>
    ${answer.text && html`<${CopyButton} text=${answer.text} label="Copy answer" />`}
  </p>`;
}
