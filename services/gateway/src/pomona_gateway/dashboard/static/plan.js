/** What-if: machines, link and model; what would run where, and how fast. */

import { useEffect, useState } from "./vendor/preact-hooks.js";
import { sendForJson } from "./api.js";
import { Apply } from "./apply.js";
import { live } from "./live.js";
import { PlanResults } from "./plan_results.js";
import { Action, html, Section } from "./ui.js";

/**
 * @typedef {import("./report.js").Catalog} Catalog
 * @typedef {import("./report.js").Plan} PlanResult
 * @typedef {{kind: string, memory: number, count: number}} Group
 */

const MAX_SETUPS = 3;
const MAX_GROUPS = 4;

/**
 * Writes groups of machines as `pomona plan --cluster` reads them.
 *
 * @param {Group[]} groups
 */
export const spec = (groups) =>
  groups.map(({ kind, memory, count }) => `${count}x:${kind}-${memory}gb`).join(",");

/**
 * Returns the machines of this cluster, as far as they are in the catalogue.
 *
 * @param {import("./report.js").Node[]} nodes
 * @param {Catalog} catalog
 * @returns {Group[]}
 */
export function groupsOf(nodes, catalog) {
  /** @type {Map<string, Group>} */
  const groups = new Map();
  for (const { hardware } of nodes) {
    const kinds = catalog.machines.filter((kind) => kind.chip === hardware?.chip);
    const memory = Math.round((hardware?.memory_bytes ?? 0) / 2 ** 30);
    const kind = kinds.find((one) => one.memory_gb.includes(memory));
    if (!kind) continue;
    const key = `${kind.name} ${memory}`;
    const group = groups.get(key) ?? { kind: kind.name, memory, count: 0 };
    groups.set(key, { ...group, count: group.count + 1 });
  }
  return [...groups.values()];
}

export function Plan() {
  const [catalog, setCatalog] = useState(/** @type {Catalog | null} */ (null));
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    sendForJson("api/pomona/v1/plan", { signal: abort.signal }).then(
      (found) => setCatalog(found),
      (error) => !abort.signal.aborted && setProblem(error.message),
    );
    return () => abort.abort();
  }, []);
  if (problem) return html`<p class="notice critical" role="alert">${problem}</p>`;
  if (!catalog) return html`<p class="empty">Reading the catalogue of machines…</p>`;
  return html`<${Planner} catalog=${catalog} /><${Apply} />`;
}

/** @param {{catalog: Catalog}} props */
function Planner({ catalog }) {
  const { report, models } = live();
  const own = groupsOf(report?.nodes ?? [], catalog);
  const first = own.length ? own : [{ kind: "m4-pro", memory: 64, count: 2 }];
  const ownModels = models.map((model) => model.name).sort();
  const names = [...new Set([...ownModels, ...catalog.models])];
  const [setups, setSetups] = useState([first]);
  const served = report?.pipelines.find((pipeline) => pipeline.proven)?.model;
  const [model, setModel] = useState(served ?? catalog.models[0] ?? "");
  const [link, setLink] = useState(catalog.links[0]?.name ?? "tb5");
  const [users, setUsers] = useState(1);
  const [context, setContext] = useState(8192);
  const [objective, setObjective] = useState("latency");
  const [plans, setPlans] = useState(/** @type {PlanResult[]} */ ([]));
  const [state, setState] = useState({ busy: false, problem: "" });
  const compute = async () => {
    setState({ busy: true, problem: "" });
    const clusters = setups.map(spec);
    try {
      const body = { model, clusters, link, users, context, objective };
      const answer = await sendForJson("api/pomona/v1/plan", { body });
      setPlans(answer.plans);
      setState({ busy: false, problem: "" });
    } catch (error) {
      setState({ busy: false, problem: error instanceof Error ? error.message : String(error) });
    }
  };
  const change = (/** @type {number} */ index, /** @type {Group[]} */ groups) =>
    setSetups(setups.map((old, i) => (i === index ? groups : old)));
  const choose = (/** @type {(value: any) => void} */ set, isNumber = false) =>
    (/** @type {any} */ event) =>
      set(isNumber ? Number(event.target.value) || 0 : event.target.value);
  return html`
    <${Section} title="What if" id="what-if">
      <form
        class="fields"
        onSubmit=${(/** @type {Event} */ event) => {
          event.preventDefault();
          void compute();
        }}
      >
        <label>Model<select value=${model} onChange=${choose(setModel)}>
          ${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
        </select></label>
        <label>Link between machines<select value=${link} onChange=${choose(setLink)}>
          ${catalog.links.map(
            (one) => html`<option key=${one.name} value=${one.name}>${one.kind}</option>`,
          )}
        </select></label>
        <label>Best for<select value=${objective} onChange=${choose(setObjective)}>
          <option value="latency">one user's speed</option>
          <option value="throughput">all users together</option>
        </select></label>
        <label>Users at once<input
          type="number" min="1" max="4096" value=${users} onChange=${choose(setUsers, true)}
        /></label>
        <label>Tokens of context each<input
          type="number" min="0" step="1024" value=${context} onChange=${choose(setContext, true)}
        /></label>
        <div class="setups">
          ${setups.map(
            (groups, index) => html`<${Setup}
              key=${index}
              number=${index + 1}
              groups=${groups}
              catalog=${catalog}
              onChange=${(/** @type {Group[]} */ next) => change(index, next)}
              onRemove=${setups.length > 1 &&
              (() => setSetups(setups.filter((_, i) => i !== index)))}
            />`,
          )}
        </div>
        <p class="actions">
          <button class="primary" type="submit" aria-busy=${state.busy}>
            ${state.busy ? "Computing…" : "Compute"}
          </button>
          <${Action}
            why=${setups.length >= MAX_SETUPS ? "Three setups fit beside each other." : ""}
            onClick=${() => setSetups([...setups, setups.at(-1) ?? first])}
          >
            Compare with another setup
          <//>
          ${!own.length &&
          html`<small class="muted">
            The machines of this cluster are not in the catalogue, so the setup begins with another.
          </small>`}
        </p>
      </form>
      <p role="status" class=${state.problem ? "notice critical" : ""}>${state.problem}</p>
    <//>
    <${PlanResults} plans=${plans} />
  `;
}

/**
 * @param {{number: number, groups: Group[], catalog: Catalog,
 *   onChange: (groups: Group[]) => void, onRemove: false | (() => void)}} props
 */
function Setup({ number, groups, catalog, onChange, onRemove }) {
  const set = (/** @type {number} */ index, /** @type {Partial<Group>} */ part) =>
    onChange(groups.map((group, i) => (i === index ? sold({ ...group, ...part }, catalog) : group)));
  return html`<fieldset>
    <legend>Setup ${number}</legend>
    ${groups.map(
      (group, index) => html`<div class="group" key=${index}>
        <input
          type="number"
          min="1"
          max="64"
          aria-label=${`Number of machines ${index + 1} in setup ${number}`}
          value=${group.count}
          onChange=${(/** @type {any} */ event) =>
            set(index, { count: Math.max(1, Math.min(64, Number(event.target.value) || 1)) })}
        />
        <select
          aria-label=${`Chip ${index + 1} in setup ${number}`}
          value=${group.kind}
          onChange=${(/** @type {any} */ event) => set(index, { kind: event.target.value })}
        >
          ${catalog.machines.map(
            (kind) => html`<option key=${kind.name} value=${kind.name}>
              ${kind.chip.replace("Apple ", "")}${kind.name.endsWith("-32c") ? " (32-core GPU)" : ""}
            </option>`,
          )}
        </select>
        <select
          aria-label=${`Memory ${index + 1} in setup ${number}`}
          value=${group.memory}
          onChange=${(/** @type {any} */ event) => set(index, { memory: Number(event.target.value) })}
        >
          ${catalog.machines
            .find((kind) => kind.name === group.kind)
            ?.memory_gb.map((size) => html`<option key=${size} value=${size}>${size} GB</option>`)}
        </select>
        ${groups.length > 1 &&
        html`<button
          type="button"
          class="small"
          aria-label=${`Remove machines ${index + 1} from setup ${number}`}
          onClick=${() => onChange(groups.filter((_, i) => i !== index))}
        >
          Remove
        </button>`}
      </div>`,
    )}
    <p class="actions">
      <${Action}
        kind="small"
        why=${groups.length >= MAX_GROUPS ? "Four kinds of machines are the most." : ""}
        onClick=${() => onChange([...groups, groups.at(-1) ?? { kind: "m4", memory: 16, count: 1 }])}
      >
        Add machines
      <//>
      ${onRemove && html`<${Action} kind="small" onClick=${onRemove}>Remove this setup<//>`}
    </p>
  </fieldset>`;
}

/**
 * Returns the group with a memory size that its machine is sold with.
 *
 * @param {Group} group
 * @param {Catalog} catalog
 */
function sold(group, catalog) {
  const sizes = catalog.machines.find((kind) => kind.name === group.kind)?.memory_gb ?? [];
  if (sizes.includes(group.memory)) return group;
  return { ...group, memory: sizes.findLast((size) => size <= group.memory) ?? sizes[0] ?? 16 };
}
