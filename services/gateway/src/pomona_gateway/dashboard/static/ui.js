/** Parts that several panels use. */

import { h } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/preact-hooks.js";
import htm from "./vendor/htm.js";
import { sendForJson } from "./api.js";

/** @typedef {import("./vendor/preact.js").ComponentChildren} Children */

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(/** @type {any} */ (h));

const COPIED_MS = 2000;

/**
 * Copies a text. Works on pages without a secure context, too.
 *
 * @param {string} text
 * @returns {boolean} whether the browser copied it
 */
export function copyText(text) {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "off-screen";
  area.setAttribute("readonly", "");
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
}

/** @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = "Copy" }) {
  const [said, say] = useState("");
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = () => {
    say(copyText(text) ? "Copied" : "Select the text and copy it");
    clearTimeout(timer.current);
    timer.current = setTimeout(() => say(""), COPIED_MS);
  };
  return html`<button type="button" class="small" onClick=${copy} aria-live="polite">
    ${said || label}
  </button>`;
}

/**
 * A command line with a button that copies it.
 *
 * @param {{command: string}} props
 */
export function CommandLine({ command }) {
  return html`<div class="command">
    <code tabindex="0">${command}</code><${CopyButton} text=${command} />
  </div>`;
}

/**
 * A button that says why it cannot be used, and what to do instead.
 *
 * @param {{onClick?: () => void, why?: string, whyId?: string, kind?: string, label?: string,
 *   children: Children}} props `whyId` is the id of an element that says why already
 */
export function Action({ onClick, why = "", whyId = "", kind = "", label, children }) {
  const own = useRef(`why-${Math.random().toString(36).slice(2)}`);
  return html`<span class="action">
    <button
      type="button"
      class=${kind}
      aria-label=${label}
      aria-disabled=${why ? "true" : undefined}
      aria-describedby=${why ? whyId || own.current : undefined}
      onClick=${() => !why && onClick?.()}
    >
      ${children}
    </button>
    ${why && !whyId && html`<small id=${own.current} class="why">${why}</small>`}
  </span>`;
}

/**
 * A button for something with a risk, which it says before it is done.
 *
 * @param {{verb: string, name: string, risk: string, why?: string, yes?: string, onYes: () => void}}
 *   props without a risk nothing is asked
 */
export function Confirm({ verb, name, risk, why = "", yes = `${verb} it`, onYes }) {
  const [asking, ask] = useState(false);
  if (!asking) {
    return html`<${Action}
      why=${why} label=${`${verb} ${name}`} onClick=${() => (risk ? ask(true) : onYes())}
    >
      ${verb}${/^a | all /.test(name) && ` ${name}`}
    <//>`;
  }
  return html`<span class="confirm" role="group" aria-label=${`${verb} ${name}?`}>
    <span>${risk}</span>
    <${Action} kind="danger" onClick=${() => (ask(false), onYes())}>${yes}<//>
    <${Action} onClick=${() => ask(false)}>Keep it<//>
  </span>`;
}

/** @param {{label: string, value: string, note?: string, tone?: string}} props */
export function Tile({ label, value, note = "", tone = "" }) {
  return html`<div class=${`tile ${tone}`}>
    <dt>${label}</dt>
    <dd><strong>${value}</strong>${note && html`<small>${note}</small>`}</dd>
  </div>`;
}

/**
 * A bar of labelled parts, with their legend.
 *
 * @param {{label: string, total: number, parts: {name: string, value: number, tone: string}[],
 *   format: (value: number) => string}} props
 */
export function Bar({ label, total, parts, format }) {
  const shown = parts.filter((part) => part.value > 0);
  const text = shown.map((part) => `${part.name} ${format(part.value)}`).join(", ");
  return html`<div class="memory">
    <div class="bar" role="img" aria-label=${`${label}: ${text}`}>
      ${shown.map(
        (part) =>
          html`<span
            key=${part.name}
            class=${part.tone}
            style=${{ width: `${total ? (100 * part.value) / total : 0}%` }}
          />`,
      )}
    </div>
    <ul class="legend" aria-hidden="true">
      ${shown.map(
        (part) =>
          html`<li key=${part.name}><i class=${part.tone} />${part.name} ${format(part.value)}</li>`,
      )}
    </ul>
  </div>`;
}

/** @param {{label: string, value: number, max: number, text: string}} props */
export function Progress({ label, value, max, text }) {
  return html`<div class="progress">
    <progress aria-label=${label} value=${value} max=${max || 1} /><span>${text}</span>
  </div>`;
}

/** @param {{tone: string, children: Children}} props */
export function Badge({ tone, children }) {
  return html`<span class=${`badge ${tone}`}>${children}</span>`;
}

/** @param {{title: string, id: string, children: Children, aside?: Children}} props */
export function Section({ title, id, children, aside }) {
  const name = id.replace(/\s+/g, "-");
  return html`<section class="card" aria-labelledby=${name}>
    <header><h2 id=${name}>${title}</h2>${aside}</header>
    ${children}
  </section>`;
}

/**
 * Asks for JSON again and again while the page is visible.
 *
 * @param {string} path empty asks for nothing
 * @param {number} everyMs
 * @returns {[any, string, () => void]} the newest answer, why there is none, and what asks at once
 */
export function useAnswers(path, everyMs) {
  const [answer, set] = useState(/** @type {any} */ (null));
  const [problem, say] = useState("");
  const [asked, ask] = useState(0);
  useEffect(() => {
    if (!path) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const look = async () => {
      try {
        if (!document.hidden) {
          set(await sendForJson(path, { signal: abort.signal }));
          say("");
        }
      } catch (error) {
        if (!abort.signal.aborted) say(error instanceof Error ? error.message : String(error));
      }
      if (!abort.signal.aborted) timer = setTimeout(look, everyMs);
    };
    void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [path, everyMs, asked]);
  return [answer, problem, () => ask((count) => count + 1)];
}
