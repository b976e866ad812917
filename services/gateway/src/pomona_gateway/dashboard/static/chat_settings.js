/** Model, system prompt, sampling and tools of a chat. */

import { html } from "./ui.js";

/** @typedef {import("./completion.js").Settings} Settings */

/** @type {{name: "temperature" | "topP" | "maxTokens" | "seed", label: string, min: string,
 *   max: string, step: string}[]} */
const NUMBERS = [
  { name: "temperature", label: "Temperature, 0 to 2", min: "0", max: "2", step: "0.1" },
  { name: "topP", label: "Top-p, 0 to 1", min: "0", max: "1", step: "0.05" },
  { name: "maxTokens", label: "Most tokens of an answer", min: "1", max: "1000000", step: "1" },
  { name: "seed", label: "Seed", min: "0", max: "2147483647", step: "1" },
];

/**
 * @param {{settings: Settings, models: string[], onChange: (part: Partial<Settings>) => void}} props
 */
export function ChatSettings({ settings, models, onChange }) {
  return html`<div class="chat-settings">
    <label>Model<select
      value=${settings.model}
      onChange=${(/** @type {any} */ event) => onChange({ model: event.target.value })}
    >
      ${!models.length && html`<option value="">none yet</option>`}
      ${models.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select></label>
    <details>
      <summary>System prompt, sampling and tools</summary>
      <div class="fields">
        <label class="wide">System prompt<textarea
          rows="2"
          value=${settings.system}
          onChange=${(/** @type {any} */ event) => onChange({ system: event.target.value })}
        /></label>
        ${NUMBERS.map(
          ({ name, label, min, max, step }) => html`<label key=${name}>${label}<input
            type="number"
            min=${min}
            max=${max}
            step=${step}
            placeholder="the model's own"
            value=${settings[name]}
            onChange=${(/** @type {any} */ event) => onChange({ [name]: event.target.value })}
          /></label>`,
        )}
        <label class="wide">Tools, as JSON of OpenAI's form; calls are shown, not run<textarea
          rows="2"
          spellcheck="false"
          value=${settings.tools}
          onChange=${(/** @type {any} */ event) => onChange({ tools: event.target.value })}
        /></label>
      </div>
    </details>
  </div>`;
}
