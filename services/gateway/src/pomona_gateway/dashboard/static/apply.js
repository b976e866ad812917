/** How a choice becomes the planner's: pin, exclude or cap a machine of this cluster. */

import { useState } from "./vendor/preact-hooks.js";
import { sendForJson } from "./api.js";
import { bytes } from "./format.js";
import { live } from "./live.js";
import { whyNotAdministrator } from "./models.js";
import { Action, Confirm, html, Section } from "./ui.js";

/** @typedef {import("./report.js").MachineChoice} MachineChoice */

const RISKS = {
  exclude:
    "The pipeline forms again without it at once: running answers pause and go on. The choice is "
    + "refused when a model would not fit the others.",
  pin:
    "The machine holds exactly these layers, even when that is slower. Running answers pause while "
    + "layers move. The choice is refused when they do not fit it.",
  cap:
    "The pipeline forms again at once: running answers pause and go on, with less room for long "
    + "conversations. The choice is refused when a model would not fit.",
};

/** @param {MachineChoice} choice */
function textOf({ kind, start, stop, memory_bytes }) {
  if (kind === "exclude") return "is excluded";
  if (kind === "cap") return `uses at most ${bytes(memory_bytes)}`;
  return `holds layers ${start} to ${stop - 1}`;
}

export function Apply() {
  const { report } = live();
  const nodes = report?.nodes.map((node) => node.name) ?? [];
  const [choice, choose] = useState(/** @type {keyof typeof RISKS} */ ("exclude"));
  const [node, setNode] = useState(nodes[0] ?? "");
  const [values, setValues] = useState({ start: 0, stop: 1, gigabytes: 8 });
  const [asked, setAsked] = useState({ at: 0, problem: "" });
  const why = whyNotAdministrator();
  const placement = report?.placement ?? { choices: [], at: 0, refused: "" };
  const ask = async (/** @type {string} */ machine, /** @type {string} */ wanted) => {
    try {
      const { start, stop, gigabytes } = values;
      const body = { machine, choice: wanted, start, stop, memory_bytes: Math.round(gigabytes * 1e9) };
      const { at } = await sendForJson("api/pomona/v1/placement", { body });
      setAsked({ at, problem: "" });
    } catch (error) {
      setAsked({ at: 0, problem: error instanceof Error ? error.message : String(error) });
    }
  };
  const waits = asked.at > placement.at;
  const problem = asked.problem || (!waits && asked.at === placement.at && placement.refused);
  const number = (/** @type {keyof typeof values} */ name, /** @type {string} */ label, least = 0) =>
    html`<label>${label}<input
      type="number"
      min=${least}
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
      ${choice === "pin" && [number("start", "First layer"), number("stop", "Layer after the last", 1)]}
      ${choice === "cap" && number("gigabytes", "Memory, GB", 1)}
    </form>
    <${Confirm}
      verb="Apply"
      name=${`to ${node}`}
      why=${why}
      yes="Apply it"
      risk=${RISKS[choice]}
      onYes=${() => void ask(node, choice)}
    />
    <p role="status" class=${problem ? "notice critical" : waits ? "notice info" : ""}>
      ${problem || (waits ? "Asking the planner…" : "")}
    </p>
    ${placement.choices.length > 0 && html`<h3>In force</h3>
      <ul class="choices">
        ${placement.choices.map(
          (/** @type {MachineChoice} */ one) => html`<li key=${one.machine} class="actions">
            <span><strong>${one.machine}</strong> ${textOf(one)}</span>
            <${Action}
              kind="small" why=${why} label=${`Take back: ${one.machine} ${textOf(one)}`}
              onClick=${() => void ask(one.machine, "free")}
            >
              Take back
            <//>
          </li>`,
        )}
      </ul>`}
  <//>`;
}
