/** Nodes: their services, how one joins, and how one leaves. */

import { bytes, memorySize } from "./format.js";
import { live } from "./live.js";
import { Action, Badge, CommandLine, html, Section } from "./ui.js";

const TONES = /** @type {Record<string, string>} */ ({
  ready: "good", starting: "warning", draining: "warning", failed: "critical",
});

/** @type {{name: string, why: string}[]} */
const ACTIONS = [
  { name: "Drain", why: "Not from this page. On the machine, Ctrl-C or SIGTERM finishes what runs." },
  { name: "Update", why: "Not from this page. Install the new version there, then restart it." },
  { name: "Revoke", why: "Not from this page. Run the line below on the head." },
];

export function Nodes() {
  const { report } = live();
  if (!report) return null;
  return html`
    <${Join} />
    <ul class="models">
      ${report.nodes.map(
        (node) => html`<li key=${node.name}><${NodeCard} node=${node} report=${report} /></li>`,
      )}
    </ul>
  `;
}

function Join() {
  return html`<${Section} title="Add a machine" id="join">
    <p>On the head, this prints a line that lets one machine in, within ten minutes:</p>
    <${CommandLine} command="pomona invite" />
    <p>
      Run the printed line on the other machine, then <code>pomona up</code> there. Without an
      invitation, <code>pomona join</code> finds the head; both screens then show six digits. On the
      head, see who asks, and approve only when the digits are the same:
    </p>
    <${CommandLine} command="pomona nodes" />
    <${CommandLine} command="pomona approve NAME" />
    <p class="muted">
      Only the head's own terminal admits machines: a page cannot show that the digits are those of
      the machine in front of you.
    </p>
  <//>`;
}

/** @param {{node: import("./report.js").Node, report: import("./report.js").Report}} props */
function NodeCard({ node, report }) {
  const services = report.services.filter((service) => service.node === node.name);
  const { hardware, machine } = node;
  return html`<${Section} title=${node.name} id=${`node-${node.name}`}>
    <p class="muted">
      ${hardware
        ? `${machine.product || hardware.chip}, ${hardware.os_name} ${hardware.os_version}, `
          + `${hardware.cores} cores, ${memorySize(hardware.memory_bytes)} of memory`
        : "No beacon from its discovery service."}
      ${machine.disk_free_bytes > 0 && `, ${bytes(machine.disk_free_bytes)} free on its disk`}
    </p>
    <div class="scroll" tabindex="0" role="region" aria-label=${`Services of ${node.name}`}>
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
    </div>
    <p class="actions">
      ${ACTIONS.map(
        ({ name, why }) => html`<${Action} key=${name} why=${why} label=${`${name} ${node.name}`}>
          ${name}
        <//>`,
      )}
    </p>
    <details>
      <summary>Revoke ${node.name}</summary>
      <p>On the head, this ends its membership within a second. Running replies go on without it.</p>
      <${CommandLine} command=${`pomona revoke ${node.name}`} />
    </details>
    <details>
      <summary>Logs</summary>
      <p>Logs stay on their machine. There, this follows all services in the order of time:</p>
      <${CommandLine} command="pomona logs --follow" />
    </details>
  <//>`;
}
