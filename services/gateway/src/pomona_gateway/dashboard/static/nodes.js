/** Nodes: who is a member, how one joins, and how one leaves. */

import { useState } from "./vendor/preact-hooks.js";
import { sendForJson } from "./api.js";
import { bytes, memorySize } from "./format.js";
import { Join } from "./join.js";
import { live } from "./live.js";
import { Logs } from "./logs.js";
import { whyNotAdministrator } from "./models.js";
import { Action, Badge, Confirm, html, Section, useAnswers } from "./ui.js";

/** @typedef {import("./report.js").Membership} Membership */

const TONES = /** @type {Record<string, string>} */ ({
  ready: "good", starting: "warning", draining: "warning", failed: "critical",
});
const POLL_MS = 3000;

export function Nodes() {
  const { report } = live();
  const [members, problem, again] = useAnswers(
    whyNotAdministrator() ? "" : "api/pomona/v1/nodes", POLL_MS,
  );
  if (!report) return null;
  const names = new Set([
    ...report.nodes.map((node) => node.name),
    ...(members?.members.map((/** @type {{name: string}} */ member) => member.name) ?? []),
  ]);
  const why = whyNotAdministrator() || problem || whyNotHead(members);
  return html`
    <${Join} members=${members} why=${why} onDone=${again} />
    <ul class="models">
      ${[...names].sort().map(
        (name) => html`<li key=${name}>
          <${NodeCard} name=${name} report=${report} members=${members} why=${why} onDone=${again} />
        </li>`,
      )}
    </ul>
    <${Logs} />
  `;
}

/** @param {Membership | null} members */
function whyNotHead(members) {
  if (!members) return "Reading the members…";
  if (members.is_head) return "";
  return `Only ${members.heads.join(", ")} has the cluster's key: open the page there.`;
}

/**
 * @param {{name: string, report: import("./report.js").Report, members: Membership | null,
 *   why: string, onDone: () => void}} props
 */
function NodeCard({ name, report, members, why, onDone }) {
  const node = report.nodes.find((one) => one.name === name);
  const services = report.services.filter((service) => service.node === name);
  const member = members?.members.find((one) => one.name === name);
  const { hardware, machine } = node ?? { hardware: null, machine: null };
  const own = live().hello?.version ?? "";
  const others = [...new Set(services.map((x) => x.version).filter((x) => own && x !== own))];
  return html`<${Section}
    title=${name}
    id=${`node-${name}`}
    aside=${member && html`<${Badge} tone=${node ? "good" : "muted"}>
      ${node ? member.role : `${member.role}, absent`}
    <//>`}
  >
    <p class="muted">
      ${hardware
        ? `${machine?.product || hardware.chip}, ${hardware.os_name} ${hardware.os_version}, `
          + `${hardware.cores} cores, ${memorySize(hardware.memory_bytes)} of memory`
        : "No beacon from its discovery service."}
      ${machine && machine.disk_free_bytes > 0 && `, ${bytes(machine.disk_free_bytes)} free`}
      ${member && member.since > 0 && html`<br />Member since ${" "}
        ${new Date(1000 * member.since).toLocaleDateString()}
        ${member.invited_by && `, invited by ${member.invited_by}`}`}
    </p>
    ${services.length > 0 && html`<div
      class="scroll" tabindex="0" role="region" aria-label=${`Services of ${name}`}
    >
      <table>
        <thead>
          <tr>
            <th scope="col">Service</th><th scope="col">State</th>
            <th scope="col">Version</th>
          </tr>
        </thead>
        <tbody>
          ${services.map(
            (service) => html`<tr key=${service.name}>
              <td class="path">${service.name}<br /><small class="muted">pid ${service.pid}</small></td>
              <td><${Badge} tone=${TONES[service.state] ?? "muted"}>${service.state}<//></td>
              <td>${service.version}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
    ${others.length > 0 && html`<p class="notice warning">
      Update: ${name} runs ${others.join(", ")}, and this gateway ${own}. Install the same version
      on both, then restart the services of the older one.
    </p>`}
    <${Drain} name=${name} report=${report} />
    ${member && html`<${Revoke}
      name=${name}
      why=${why || (member.here ? "This machine has the cluster's key." : "")}
      stages=${report.pipelines.flatMap((x) => x.stages.filter((stage) => stage.node === name))}
      onDone=${onDone}
    />`}
  <//>`;
}

const DRAINS = {
  draining: "Being drained: others load its layers.",
  drained: "Drained: it holds no layers and can be stopped.",
  refused: "Not drained",
  ended: "",
};

/** @param {{name: string, report: import("./report.js").Report}} props */
function Drain({ name, report }) {
  const [problem, say] = useState("");
  const drain = report.drains.find((one) => one.node === name);
  const inForce = drain?.state === "draining" || drain?.state === "drained";
  const ask = async (/** @type {string} */ path, /** @type {object} */ options) => {
    try {
      await sendForJson(`api/pomona/v1/${path}`, { body: { node: name, ...options } });
      say("");
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  const why = whyNotAdministrator();
  const refused = drain?.state === "refused";
  return html`<div>
    <p role="status" class=${inForce ? "notice info" : refused ? "notice warning" : ""}>
      ${drain && DRAINS[drain.state]}${refused && `: ${drain.reason}`}
    </p>
    <p class="actions">
      ${inForce
        ? html`<${Action} why=${why} label=${`Undrain ${name}`} onClick=${() => void ask("undrain", {})}>
            Undrain
          <//>`
        : html`<${Confirm}
            verb="Drain"
            name=${name}
            why=${why}
            risk=${"Others load its layers, and running answers go on. When they cannot hold a model, "
              + "nothing is done and the reason is said. It is taken back when it was started again."}
            onYes=${() => void ask("drain", { until_back: true })}
          />`}
      ${refused && html`<${Confirm}
        verb="Drain"
        name=${`${name} all the same`}
        yes="Drain it all the same"
        why=${why}
        risk="No request for the model is answered until this machine is back."
        onYes=${() => void ask("drain", { until_back: true, force: true })}
      />`}
    </p>
    ${problem && html`<p class="notice critical" role="alert">${problem}</p>`}
  </div>`;
}

/**
 * @param {{name: string, why: string, stages: import("./report.js").Stage[],
 *   onDone: () => void}} props
 */
function Revoke({ name, why, stages, onDone }) {
  const [problem, say] = useState("");
  const revoke = async () => {
    try {
      await sendForJson("api/pomona/v1/nodes/revoke", { body: { name } });
      say("");
      onDone();
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  const effect = stages.length
    ? `It holds ${stages.length} stage${stages.length > 1 ? "s" : ""}: running answers pause and go `
      + "on without it, or fail after a minute when the model does not fit the others. "
    : "";
  return html`<div>
    <${Confirm}
      verb="Revoke"
      name=${name}
      why=${why}
      risk=${"Within a second it is no longer a member; only a new invitation lets it in again. " + effect}
      onYes=${() => void revoke()}
    />
    <p role="status" class=${problem ? "notice critical" : ""}>${problem}</p>
  </div>`;
}
