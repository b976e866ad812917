/** The cluster: machines as they are cabled, their stages, links, and what changes. */

import { useRef, useState } from "./vendor/preact-hooks.js";
import { Cabling } from "./cabling.js";
import { clock, counted, digits, duration, tokenRate, byteRate, percent } from "./format.js";
import { live } from "./live.js";
import { Badge, html, Section } from "./ui.js";

/**
 * @typedef {import("./report.js").Report} Report
 * @typedef {import("./report.js").Pipeline} Pipeline
 */

const LINK_TONES = {
  good: "good", slow: "warning", fallback: "critical", down: "critical", unmeasured: "muted",
};
const PIPELINE_TONES = /** @type {Record<string, string>} */ ({
  active: "good", forming: "warning", impossible: "critical",
});

export function Cluster() {
  const { report, work } = live();
  if (!report) return null;
  return html`
    <${Troubles} report=${report} />
    <${Section} title="Machines" id="machines">
      <${Cabling} report=${report} work=${work} />
    <//>
    <div class="columns">
      ${report.pipelines.map(
        (pipeline) => html`<${PipelineCard} key=${pipeline.model} pipeline=${pipeline} />`,
      )}
    </div>
    <${Links} report=${report} />
    <${Changes} />
  `;
}

/** @param {{report: Report}} props */
function Troubles({ report }) {
  const alerts = report.alerts;
  const said = new Set(alerts.map((alert) => alert.summary));
  const others = report.troubles.filter((trouble) => !said.has(trouble));
  const fromNodes = report.nodes.flatMap((node) =>
    node.troubles.map((trouble) => `${node.name}: ${trouble}`),
  );
  if (!alerts.length && !others.length && !fromNodes.length) {
    return html`<p class="notice good" role="status">
      Every pipeline answers, and no service is missing.
    </p>`;
  }
  return html`<section class="alerts" aria-label="Alerts" aria-live="polite">
    <ul>
      ${alerts.map(
        (alert) => html`<li key=${alert.key} class=${`notice ${alert.severity}`}>
          <strong>${alert.severity}</strong> ${alert.summary}${" "}
          <small>since ${clock(alert.since)}</small>
        </li>`,
      )}
      ${[...others, ...fromNodes].map(
        (trouble) => html`<li key=${trouble} class="notice warning">${trouble}</li>`,
      )}
    </ul>
  </section>`;
}

/** @param {{pipeline: Pipeline}} props */
function PipelineCard({ pipeline }) {
  const { prediction, speculation } = pipeline;
  const measured = pipeline.measured_tokens_per_second;
  const tone = PIPELINE_TONES[pipeline.state] ?? "muted";
  const state = pipeline.state === "active" && !pipeline.proven ? "no token yet" : pipeline.state;
  const aside = html`<span>
    <${Badge} tone=${tone}>${state}<//> <small>epoch ${pipeline.epoch}</small>
  </span>`;
  return html`<${Section} title=${pipeline.model} id=${`pipeline-${pipeline.model}`} aside=${aside}>
    ${pipeline.reason && html`<p class="notice warning">${pipeline.reason}</p>`}
    <dl class="facts">
      <dt>One user, predicted</dt>
      <dd>
        ${prediction ? tokenRate(prediction.tokens_per_second) : "no prediction"}
        ${prediction && html` <small>ceiling ${digits(prediction.ceiling_tokens_per_second)}</small>`}
      </dd>
      <dt>One user, measured</dt>
      <dd>${measured ? tokenRate(measured) : "not measured yet"}</dd>
      ${prediction &&
      html`<dt>First token, predicted</dt>
        <dd>
          ${duration(prediction.first_token_s)}${" "}
          <small>after ${counted(prediction.prompt_tokens, "token")}</small>
        </dd>
        <dt>Room in the caches</dt>
        <dd>${counted(prediction.cache_tokens, "token")}</dd>`}
      <dt>Guessed tokens</dt>
      <dd>${guesses(speculation)}</dd>
    </dl>
    ${pipeline.proposal && html`<p class="notice info">A better plan: ${pipeline.proposal}</p>`}
    ${prediction?.notes.length
      ? html`<details>
          <summary>Notes on the plan</summary>
          <ul>
            ${prediction.notes.map((note) => html`<li key=${note}>${note}</li>`)}
          </ul>
        </details>`
      : null}
  <//>`;
}

/** @param {Pipeline["speculation"]} status */
export function guesses(status) {
  if (!status) return "not known yet";
  if (status.off) return `none: ${status.off}`;
  if (!status.drafted) return "none were worth sending yet";
  const right = percent(status.accepted / status.drafted);
  return `${right} right, ${digits(status.tokens_per_round)} tokens a round`;
}

/** @param {{report: Report}} props */
function Links({ report }) {
  const rows = report.nodes.flatMap((node) =>
    node.links.map((link) => ({
      from: node.name, link, expected: node.expected.find((x) => x.node === link.node),
    })),
  );
  if (!rows.length) {
    const one = report.nodes.length < 2;
    return html`<${Section} title="Links" id="links">
      <p class="empty">
        ${one
          ? "One machine: its stages talk over local sockets. Links appear when a second one joins."
          : "No link between the machines has been measured yet."}
      </p>
    <//>`;
  }
  return html`<${Section} title="Links" id="links">
    <div class="scroll" tabindex="0" role="region" aria-label="Links between machines">
      <table>
        <thead>
          <tr>
            <th scope="col">From</th><th scope="col">To</th><th scope="col">Kind</th>
            <th scope="col" class="number">Round trip</th><th scope="col" class="number">should be</th>
            <th scope="col" class="number">Throughput</th>
            <th scope="col" class="number">should be</th><th scope="col">State</th>
          </tr>
        </thead>
        <tbody>
          ${rows.map(
            ({ from, link, expected }) => html`<tr key=${`${from} ${link.node}`}>
              <td class="name">${from}</td>
              <td class="name">${link.node}</td>
              <td class="kind">${expected?.kind || link.kind || "none"}</td>
              <td class="number">${link.rtt_us ? duration(link.rtt_us / 1e6) : "not measured"}</td>
              <td class="number">${expected?.rtt_us ? duration(expected.rtt_us / 1e6) : ""}</td>
              <td class="number">
                ${link.bytes_per_s ? byteRate(link.bytes_per_s) : "not measured"}
              </td>
              <td class="number">${expected?.bytes_per_s ? byteRate(expected.bytes_per_s) : ""}</td>
              <td class="state">
                <${Badge} tone=${LINK_TONES[expected?.state ?? "unmeasured"]}>
                  ${expected?.state ?? "unmeasured"}
                <//>
                ${expected?.reason && html` <small>${expected.reason}</small>`}
              </td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
  <//>`;
}

/** Shows the changes, newest first. They stand still while someone points at them or has the focus
 * there. */
function Changes() {
  const { changes } = live();
  const held = useRef(/** @type {import("./report.js").Change[] | null} */ (null));
  const [, render] = useState(0);
  const hold = (/** @type {boolean} */ still) => () => {
    held.current = still ? live().changes : null;
    render((count) => count + 1);
  };
  const shown = held.current ?? changes;
  const more = changes.length - shown.length;
  return html`<${Section} title="What has happened" id="changes">
    ${!shown.length && html`<p class="empty">Nothing has changed since the gateway started.</p>`}
    <ol
      class="changes"
      tabindex="0"
      aria-label="Changes, newest first"
      onMouseEnter=${hold(true)}
      onMouseLeave=${hold(false)}
      onFocus=${hold(true)}
      onBlur=${hold(false)}
    >
      ${more > 0 &&
      html`<li class="muted">${counted(more, "newer change")}: move away to see</li>`}
      ${[...shown].reverse().map(
        (change, index) => html`<li key=${shown.length - index} class=${change.severity}>
          <time>${clock(change.at)}</time> <i class=${`dot ${change.severity}`} />
          <span>${change.text}</span>
        </li>`,
      )}
    </ol>
  <//>`;
}
