/** How a choice becomes the planner's: pin, exclude or cap a machine of this cluster. */

import { useState } from "./vendor/preact-hooks.js";
import { live } from "./live.js";
import { CommandLine, html, Section } from "./ui.js";

/** @typedef {"exclude" | "pin" | "cap"} Choice */

const RISKS = {
  exclude:
    "The pipeline forms again without it. Running replies pause and continue on the others; when "
    + "the model does not fit there any more, they fail after a minute.",
  pin:
    "The machine holds exactly these layers while it is present, even when that is slower or does "
    + "not fit: then no pipeline forms. Running replies pause while the layers move.",
  cap:
    "Its worker restarts: running replies pause and continue on another epoch. With less memory "
    + "the model may need more machines, or not fit.",
};

/**
 * Returns the lines for the settings file.
 *
 * @param {Choice} choice
 * @param {string} node
 * @param {{start: number, stop: number, gigabytes: number}} values
 */
export function settingLines(choice, node, { start, stop, gigabytes }) {
  if (choice === "exclude") return `[planner]\nexclude = ["${node}"]`;
  if (choice === "pin") return `[planner]\npins = ["${node}=${start}..${stop}"]`;
  return `[stage_worker]\nmemory_bytes = ${Math.round(gigabytes * 1e9)}`;
}

export function Apply() {
  const { report } = live();
  const nodes = report?.nodes.map((node) => node.name) ?? [];
  const [choice, choose] = useState(/** @type {Choice} */ ("exclude"));
  const [node, setNode] = useState(nodes[0] ?? "");
  const [values, setValues] = useState({ start: 0, stop: 1, gigabytes: 8 });
  const number = (/** @type {"start" | "stop" | "gigabytes"} */ name, /** @type {string} */ label) =>
    html`<label>${label}<input
      type="number"
      min="0"
      value=${values[name]}
      onChange=${(/** @type {any} */ event) =>
        setValues({ ...values, [name]: Number(event.target.value) || 0 })}
    /></label>`;
  return html`<${Section} title="Apply to this cluster" id="apply">
    <form class="fields" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
      <label>Machine<select
        value=${node}
        onChange=${(/** @type {any} */ event) => setNode(event.target.value)}
      >
        ${nodes.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
      </select></label>
      <label>Choice<select
        value=${choice}
        onChange=${(/** @type {any} */ event) => choose(event.target.value)}
      >
        <option value="exclude">exclude it</option>
        <option value="pin">pin layers to it</option>
        <option value="cap">cap its memory</option>
      </select></label>
      ${choice === "pin" && [number("start", "First layer"), number("stop", "Layer after the last")]}
      ${choice === "cap" && number("gigabytes", "Memory, GB")}
    </form>
    <p class="notice warning"><strong>Risk:</strong> ${RISKS[choice]}</p>
    <p>
      The ${choice === "cap" ? "stage worker" : "planner"} reads this when it starts, so this page
      cannot set it. Put these lines into <code>pomona.toml</code> on
      ${choice === "cap" ? ` ${node}` : " the planner's machine"}, then restart that service:
    </p>
    <${CommandLine} command=${settingLines(choice, node, values)} />
  <//>`;
}
