/** One machine: its memory, and the stages that it holds. */

import { bytes, digits, duration, memorySize, percent } from "./format.js";
import { Badge, Bar, html, Progress } from "./ui.js";

/**
 * @typedef {import("./report.js").Report} Report
 * @typedef {import("./report.js").Node} Node
 * @typedef {import("./report.js").Stage} Stage
 * @typedef {import("./report.js").Work} Work
 */

/** @param {{node: Node, report: Report, work: Record<string, Work>}} props */
export function Machine({ node, report, work }) {
  const { hardware, machine } = node;
  const workers = report.workers.filter((worker) => worker.node === node.name);
  // Workers of one machine share its memory, and each reports all of it.
  const usable = Math.max(0, ...workers.map((worker) => worker.usable_bytes));
  const weights = sum(workers.map((worker) => worker.weight_bytes));
  const prefixes = sum(workers.map((worker) => worker.prefix_bytes));
  const caches = sum(workers.map((worker) => worker.cache_bytes)) - prefixes;
  const sensors = [
    machine.celsius ? `${digits(machine.celsius)} °C` : "",
    machine.watts ? `${digits(machine.watts)} W` : "",
  ].filter(Boolean);
  return html`<article aria-label=${`Machine ${node.name}`}>
    <h3>${node.name}</h3>
    <p class="muted">
      ${hardware ? `${hardware.chip}, ${memorySize(hardware.memory_bytes)}` : "no beacon from it"}
      ${sensors.length > 0 && html`<br />${sensors.join(", ")}`}
    </p>
    ${workers.length
      ? html`<${Bar}
          label="Memory"
          total=${Math.max(usable, weights + caches + prefixes)}
          format=${bytes}
          parts=${[
            { name: "Weights", value: weights, tone: "weights" },
            { name: "Caches", value: Math.max(0, caches), tone: "caches" },
            { name: "Kept prefixes", value: prefixes, tone: "prefixes" },
            { name: "Free", value: Math.max(0, usable - weights - caches - prefixes), tone: "free" },
          ]}
        />`
      : html`<p class="muted">No stage worker runs here.</p>`}
    <ul class="stages">
      ${report.pipelines.flatMap((pipeline) =>
        pipeline.stages.map(
          (stage, index) =>
            stage.node === node.name &&
            html`<${StageRow}
              key=${`${pipeline.model} ${stage.worker}`}
              stage=${stage}
              role=${roleOf(index, pipeline.stages.length)}
              model=${pipeline.model}
              work=${work[stage.worker]}
            />`,
        ),
      )}
    </ul>
  </article>`;
}

/** @param {number[]} values */
const sum = (values) => values.reduce((a, b) => a + b, 0);

/**
 * @param {number} index
 * @param {number} count
 */
const roleOf = (index, count) =>
  count === 1 ? "whole model" : index === 0 ? "head" : index === count - 1 ? "tail" : "stage";

/** @param {{stage: Stage, role: string, model: string, work: Work | undefined}} props */
function StageRow({ stage, role, model, work }) {
  const busy = work?.busy ?? 0;
  const computes = busy > 0 || (work?.step_tokens ?? 0) > 0;
  const times = [
    stage.predicted_us ? `${duration(stage.predicted_us / 1e6)} predicted` : "",
    stage.decode_us ? `${duration(stage.decode_us / 1e6)} measured` : "",
  ].filter(Boolean);
  return html`<li class=${computes ? "computing" : ""} data-stage=${`${model} ${stage.worker}`}>
    <div class="row">
      <strong>Layers ${stage.start} to ${stage.stop - 1}</strong> <small>${role}</small>
      ${stage.state !== "ready" && html` <${Badge} tone="warning">${stage.state}<//>`}
    </div>
    <small class="model">${model}</small>
    ${stage.state === "ready"
      ? html`<div class="busy">
          <span class="meter"><i style=${{ width: percent(busy) }} /></span>
          <small>
            ${busy || work?.steps_per_s
              ? `computes ${percent(busy)} of the time, ${digits(work?.steps_per_s ?? 0)} steps/s`
              : "idle"}
          </small>
        </div>`
      : html`<${StageProgress} stage=${stage} />`}
    ${times.length > 0 && html`<small class="muted">a token: ${times.join(", ")}</small>`}
    ${stage.error && html`<p class="notice critical">${stage.error}</p>`}
  </li>`;
}

/**
 * How far a stage is: first its files are fetched, then its weights are read.
 *
 * @param {{stage: Stage}} props
 */
export function StageProgress({ stage }) {
  const fetching = stage.fetch_bytes > 0 && !stage.total_bytes;
  const [done, all] = fetching
    ? [stage.fetched_bytes, stage.fetch_bytes]
    : [stage.loaded_bytes, stage.total_bytes];
  if (!all) return html`<small class="muted">waiting for its turn</small>`;
  const what = fetching ? "fetched" : "in memory";
  return html`<${Progress}
    label=${`Layers ${stage.start} to ${stage.stop - 1}`}
    value=${done}
    max=${all}
    text=${`${bytes(done)} of ${bytes(all)} ${what}`}
  />`;
}
