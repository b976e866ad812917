/** What the cluster does now, and did in the last hour. */

import { Chart } from "./chart.js";
import { guesses } from "./cluster.js";
import { counted, digits, duration, percent, tokenRate } from "./format.js";
import { live } from "./live.js";
import { html, Section, Tile } from "./ui.js";

/** @typedef {import("./report.js").Report} Report */

/**
 * @param {string[]} fields
 * @param {(number | null)[][]} samples
 * @param {string} name
 */
function column(fields, samples, name) {
  const index = fields.indexOf(name);
  return samples.map((sample) => sample[index] ?? null);
}

export function Now() {
  const { report, fields, samples } = live();
  if (!report) return null;
  const of = (/** @type {string} */ name) => column(fields, samples, name);
  const times = of("at").map((at) => at ?? 0);
  const firstTokens = of("first_token_s");
  const lastFirstToken = firstTokens.findLast((value) => value !== null);
  const waiting = report.workers.reduce((total, worker) => total + worker.waiting, 0);
  const caches = of("cache_use");
  return html`
    <dl class="tiles">
      <${Tile} label="Output" value=${tokenRate(report.tokens_per_second)} note="all users" />
      <${Tile} label="Users" value=${digits(report.users)} note="running requests" />
      <${Tile} label="Queue" value=${digits(waiting)} note="waiting for their prompt" />
      <${Tile}
        label="First token"
        value=${lastFirstToken === undefined ? "–" : duration(lastFirstToken ?? 0)}
        note=${lastFirstToken === undefined ? "none within the hour" : "mean of the latest"}
      />
      <${Tile} label="KV caches" value=${percent(caches.at(-1) ?? 0)} note="in use, tightest" />
    </dl>
    ${report.pipelines.map((pipeline) => html`<${Speed} key=${pipeline.model} pipeline=${pipeline} />`)}
    <div class="columns charts">
      <${Chart}
        title="Output"
        unit="tok/s"
        times=${times}
        series=${[{ name: "All users", values: of("tokens_per_second") }]}
      />
      <${Chart}
        title="Users and queue"
        unit="requests"
        times=${times}
        series=${[
          { name: "Running", values: of("users") },
          { name: "Waiting", values: of("waiting") },
        ]}
      />
      <${Chart}
        title="Time to first token"
        unit="s"
        times=${times}
        series=${[{ name: "Mean", values: firstTokens }]}
      />
      <${Chart}
        title="Guesses and caches"
        unit="%"
        times=${times}
        series=${[
          { name: "Guesses that were right", values: of("acceptance").map(hundredfold) },
          { name: "KV caches in use", values: caches.map(hundredfold) },
        ]}
      />
    </div>
    <${Requests} report=${report} />
  `;
}

/** @param {number | null} share */
const hundredfold = (share) => (share === null ? null : 100 * share);

/** @param {{pipeline: import("./report.js").Pipeline}} props */
function Speed({ pipeline }) {
  const { prediction } = pipeline;
  const measured = pipeline.measured_tokens_per_second;
  const predicted = prediction?.tokens_per_second ?? 0;
  const top = Math.max(measured, predicted, prediction?.ceiling_tokens_per_second ?? 0);
  const rows = [
    { name: "Predicted", value: predicted },
    { name: "Measured", value: measured },
    { name: "Ceiling", value: prediction?.ceiling_tokens_per_second ?? 0 },
  ];
  return html`<${Section} title=${`${pipeline.model}, one user alone`} id=${`speed-${pipeline.model}`}>
    <table class="speed">
      <tbody>
        ${rows.map(
          ({ name, value }) => html`<tr key=${name}>
            <th scope="row">${name}</th>
            <td class="number">${value ? tokenRate(value) : "not yet"}</td>
            <td class="fill">
              <span class="meter">
                <i style=${{ width: top ? percent(value / top) : "0" }} />
              </span>
            </td>
          </tr>`,
        )}
      </tbody>
    </table>
    <p class="muted">Guessed tokens: ${guesses(pipeline.speculation)}</p>
  <//>`;
}

/** @param {{report: Report}} props */
function Requests({ report }) {
  return html`<${Section} title="Running requests" id="requests">
    ${!report.requests.length && html`<p class="empty">No request is running.</p>`}
    ${report.requests.length > 0 &&
    html`<div class="scroll" tabindex="0" role="region" aria-label="Running requests">
      <table>
        <thead>
          <tr>
            <th scope="col">Model</th><th scope="col" class="number">Age</th>
            <th scope="col" class="number">Prompt read</th><th scope="col" class="number">Reply</th>
          </tr>
        </thead>
        <tbody>
          ${report.requests.map(
            (request) => html`<tr key=${request.request}>
              <td>${request.model}</td>
              <td class="number">${duration(request.age_s)}</td>
              <td class="number">
                ${digits(request.prefilled)} of ${counted(request.prompt_tokens, "token")}
              </td>
              <td class="number">${counted(request.reply_tokens, "token")}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`}
  <//>`;
}
