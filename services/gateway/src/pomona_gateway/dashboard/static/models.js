/** Models: what is loaded, known and on the disk; pull, load and unload. */

import { useState } from "./vendor/preact-hooks.js";
import { sendForJson } from "./api.js";
import { bytes } from "./format.js";
import { live } from "./live.js";
import { StageProgress } from "./machine.js";
import { Action, Badge, Confirm, html, Progress, Section } from "./ui.js";

/** @typedef {import("./report.js").ModelEntry} ModelEntry */

const TONES = {
  ready: "good", loading: "warning", failed: "critical", unloaded: "muted", disk: "muted",
};
const STATES = {
  ready: "ready", loading: "loading", failed: "failed", unloaded: "not loaded",
  disk: "on this machine's disk",
};

/** Returns why this key must not change models; empty when it may. */
export function whyNotAdministrator() {
  const role = live().hello?.role;
  if (!role || role === "administrator") return "";
  return "Needs an administrator's key: pomona keys create NAME --administrator";
}

export function Models() {
  const { models, report } = live();
  const [said, say] = useState({ text: "", tone: "info" });
  const [source, type] = useState("");
  const ask = async (/** @type {string} */ path, /** @type {string} */ model) => {
    say({ text: "Asking…", tone: "info" });
    try {
      const answer = await sendForJson(path, { body: { model } });
      say({ text: `${answer.id} is ${answer.state}.`, tone: "good" });
    } catch (error) {
      say({ text: error instanceof Error ? error.message : String(error), tone: "critical" });
    }
  };
  const why = whyNotAdministrator() || (source.trim() ? "" : "Name a model first.");
  const isHubId = /^[\w.-]+\/[\w.-]+/.test(source.trim());
  const whyNoPull = why || (isHubId ? "" : "Only a Hugging Face id can be pulled.");
  return html`
    <${Section} title="Add a model" id="add">
      <form class="inline" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
        <label for="source">Hugging Face id, folder or GGUF file on the machines</label>
        <input
          id="source"
          value=${source}
          placeholder="owner/name"
          autocomplete="off"
          onInput=${(/** @type {any} */ event) => type(event.target.value)}
        />
        <${Action}
          kind="primary"
          why=${why}
          whyId="why-not"
          onClick=${() => ask("v1/models/load", source.trim())}
        >
          Load
        <//>
        <${Action}
          why=${whyNoPull}
          whyId="why-not"
          onClick=${() => ask("api/pomona/v1/models/pull", source.trim())}
        >
          Pull to this machine
        <//>
        <small id="why-not" class="why">${whyNoPull}</small>
      </form>
      <p class="muted">
        Loading fetches to each machine the layers that it will hold. Pulling downloads all of the
        model to ${live().hello?.node ?? "the gateway's machine"}; the others then copy from it.
      </p>
      <p role="status" class=${said.text ? `notice ${said.tone}` : ""}>${said.text}</p>
    <//>
    ${!models.length && html`<p class="empty">Reading what is on the disk…</p>`}
    <ul class="models">
      ${models.map(
        (model) => html`<li key=${model.source}>
          <${Model} model=${model} report=${report} ask=${ask} />
        </li>`,
      )}
    </ul>
  `;
}

/**
 * @param {{model: ModelEntry, report: import("./report.js").Report | null,
 *   ask: (path: string, model: string) => void}} props
 */
function Model({ model, report, ask }) {
  const pipeline = report?.pipelines.find((x) => x.source === model.source);
  const users = report?.requests.filter((request) => request.model === model.name).length ?? 0;
  const why = whyNotAdministrator();
  const isLoaded = model.state === "ready" || model.state === "loading" || model.state === "failed";
  const aside = html`<${Badge} tone=${TONES[model.state]}>${STATES[model.state]}<//>`;
  const risk = users
    ? `${users} running request${users === 1 ? "" : "s"} will fail.`
    : "Its next request loads it again.";
  return html`<${Section} title=${model.name} id=${`model-${model.source}`} aside=${aside}>
    <dl class="facts">
      ${model.source !== model.name && html`<dt>Source</dt><dd class="path">${model.source}</dd>`}
      <dt>Memory that it needs</dt>
      <dd>${model.needs_bytes ? `${bytes(model.needs_bytes)} with a short context` : "not known yet"}</dd>
      ${model.fits && !isLoaded && html`<dt>Fits</dt><dd>${fitText(model)}</dd>`}
      ${model.total_bytes > 0 &&
      html`<dt>On ${live().hello?.node ?? "this machine"}</dt>
        <dd>${bytes(model.held_bytes)} of ${bytes(model.total_bytes)} of weights</dd>`}
    </dl>
    ${model.reason && html`<p class="notice ${model.state === "failed" ? "critical" : "info"}">
      ${model.reason}
    </p>`}
    ${model.pull === "running" &&
    html`<${Progress}
      label="Pulled"
      value=${model.held_bytes}
      max=${model.total_bytes}
      text=${model.total_bytes
        ? `${bytes(model.held_bytes)} of ${bytes(model.total_bytes)} pulled`
        : "asking the hub for the list of files"}
    />`}
    ${model.pull === "failed" &&
    html`<p class="notice critical">The pull failed: ${model.pull_reason}</p>`}
    ${model.state === "loading" &&
    html`<ul class="loading">
      ${pipeline?.stages
        .filter((stage) => stage.state !== "ready")
        .map(
          (stage) => html`<li key=${stage.worker}>
            <strong>${stage.node || stage.worker}</strong>, layers ${stage.start} to${" "}
            ${stage.stop - 1}: ${stage.state}
            <${StageProgress} stage=${stage} />
          </li>`,
        )}
    </ul>`}
    <p class="actions">
      ${isLoaded && html`<${Confirm}
        verb="Unload"
        name=${model.name}
        why=${why}
        risk=${risk}
        onYes=${() => ask("v1/models/unload", model.source)}
      />`}
      ${!isLoaded &&
      html`<${Action}
        kind="primary"
        why=${why}
        label=${`Load ${model.name}`}
        onClick=${() => ask("v1/models/load", model.source)}
      >
        Load
      <//>`}
    </p>
  <//>`;
}

/** @param {ModelEntry} model */
function fitText(model) {
  if (model.fits === "now") return "yes, beside what is loaded";
  if (model.fits === "no") return `no: ${bytes(model.missing_bytes)} of memory are missing`;
  return "only after other models are unloaded";
}
