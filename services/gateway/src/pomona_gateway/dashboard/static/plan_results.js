/** Compares plans. */

import { bytes, counted, digits, duration, tokenRate } from "./format.js";
import { Badge, html, Section } from "./ui.js";

/** @typedef {import("./report.js").Plan} PlanResult */

/** @param {number | undefined} dollars */
const money = (dollars) => (dollars === undefined ? "–" : `$${digits(dollars)}`);

/** @type {{name: string, of: (plan: PlanResult) => string}[]} */
const ROWS = [
  { name: "One user", of: (plan) => tokenRate(plan.tokens_per_second ?? 0) },
  { name: "Ceiling for one user", of: (plan) => tokenRate(plan.ceiling_tokens_per_second) },
  {
    name: "All users together",
    of: (plan) =>
      `${tokenRate(plan.users_tokens_per_second ?? 0)} for ${counted(plan.users ?? 1, "user")}`,
  },
  {
    name: "First token",
    of: (plan) =>
      `${duration(plan.first_token_s ?? 0)} after ${counted(plan.prompt_tokens ?? 0, "token")}`,
  },
  {
    name: "Machines used",
    of: (plan) => `${new Set(plan.stages?.map((x) => x.machine)).size} of ${plan.machines}`,
  },
  {
    name: "Memory used",
    of: (plan) => bytes((plan.stages ?? []).reduce((all, stage) => all + stage.memory_bytes, 0)),
  },
  { name: "Room in the caches", of: (plan) => counted(plan.cache_tokens ?? 0, "token") },
  { name: "Power, all users", of: (plan) => `${digits(plan.watts ?? 0)} W` },
  { name: "Energy a token", of: (plan) => `${digits(plan.joules_per_token ?? 0)} J` },
  { name: "Price of the machines", of: (plan) => money(plan.price_of_used_dollars) },
  { name: "A million tokens, all users", of: (plan) => money(plan.dollars_per_million_tokens) },
  {
    name: "A million tokens, one user",
    of: (plan) => money(plan.dollars_per_million_tokens_one_user),
  },
];

/** @param {{plans: PlanResult[]}} props */
export function PlanResults({ plans }) {
  if (!plans.length) return null;
  const best = Math.max(...plans.map((plan) => plan.tokens_per_second ?? 0));
  return html`<${Section} title=${`${plans[0]?.model} would run so`} id="plans">
    <div class="scroll" tabindex="0" role="region" aria-label="Plans compared">
      <table>
        <thead>
          <tr>
            <th scope="col">Figure</th>
            ${plans.map(
              (plan, index) => html`<th scope="col" key=${index}>
                Setup ${index + 1}<br /><small>${plan.cluster.replaceAll("x:", " × ")}</small>
              </th>`,
            )}
          </tr>
        </thead>
        <tbody>
          <tr>
            <th scope="row">Fits</th>
            ${plans.map(
              (plan, index) => html`<td key=${index}>
                <${Badge} tone=${plan.fits ? "good" : "critical"}>${plan.fits ? "yes" : "no"}<//>
                ${plan.fits && plans.length > 1 && plan.tokens_per_second === best
                  ? html` <${Badge} tone="good">fastest<//>`
                  : null}
              </td>`,
            )}
          </tr>
          ${ROWS.map(
            ({ name, of }) => html`<tr key=${name}>
              <th scope="row">${name}</th>
              ${plans.map(
                (plan, index) => html`<td key=${index}>
                  ${plan.fits ? of(plan) : name.startsWith("Ceiling") ? of(plan) : "–"}
                </td>`,
              )}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    ${plans.map((plan, index) => html`<${Details} key=${index} plan=${plan} number=${index + 1} />`)}
    <p class="muted">
      Predicted by <code>pomona plan</code>. Power and prices are the catalogue's; a million tokens
      include electricity and the machines' price over their life.
    </p>
  <//>`;
}

/** @param {{plan: PlanResult, number: number}} props */
function Details({ plan, number }) {
  if (!plan.fits) {
    return html`<div class="notice critical">
      <p>Setup ${number} does not fit: ${plan.reason}</p>
      <ul>
        ${plan.would_fit?.map((remedy) => html`<li key=${remedy}>Would fit: ${remedy}</li>`)}
      </ul>
    </div>`;
  }
  return html`<details>
    <summary>Stages of setup ${number}</summary>
    <div class="scroll" tabindex="0" role="region" aria-label=${`Stages of setup ${number}`}>
      <table>
        <thead>
          <tr>
            <th scope="col">Machine</th><th scope="col">Layers</th>
            <th scope="col" class="number">Memory</th><th scope="col" class="number">of usable</th>
            <th scope="col" class="number">Time of a token</th>
          </tr>
        </thead>
        <tbody>
          ${plan.stages?.map(
            (stage) => html`<tr key=${stage.start}>
              <td>${stage.machine}</td>
              <td>${stage.start} to ${stage.stop - 1}</td>
              <td class="number">${bytes(stage.memory_bytes)}</td>
              <td class="number">${bytes(stage.usable_bytes)}</td>
              <td class="number">${digits(stage.milliseconds_per_token)} ms</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>
    <ul>
      ${plan.notes.map((note) => html`<li key=${note}>${note}</li>`)}
    </ul>
  </details>`;
}
