/** The newest lines of the logs on the gateway's machine. */

import { useState } from "./vendor/preact-hooks.js";
import { clock } from "./format.js";
import { live } from "./live.js";
import { whyNotAdministrator } from "./models.js";
import { CommandLine, html, Section, useAnswers } from "./ui.js";

const POLL_MS = 3000;

export function Logs() {
  const [open, setOpen] = useState(false);
  const [process, choose] = useState("");
  const why = whyNotAdministrator();
  const path = `api/pomona/v1/logs?lines=200&process=${encodeURIComponent(process)}`;
  const [found, problem] = useAnswers(open && !why ? path : "", POLL_MS);
  return html`<${Section} title=${`Logs of ${live().hello?.node ?? "this machine"}`} id="logs">
    <details onToggle=${(/** @type {any} */ event) => setOpen(event.target.open)}>
      <summary>The newest lines</summary>
      ${(why || problem) && html`<p class="notice warning">${why || problem}</p>`}
      ${found && html`<label>Process<select
          value=${process}
          onChange=${(/** @type {any} */ event) => choose(event.target.value)}
        >
          <option value="">all</option>
          ${found.processes.map(
            (/** @type {string} */ name) => html`<option key=${name} value=${name}>${name}</option>`,
          )}
        </select></label>
        <div class="scroll log" tabindex="0" role="region" aria-label="Log">
          ${found.lines.map(
            (/** @type {import("./report.js").LogLine} */ line, /** @type {number} */ index) => html`<p
              key=${index}
              class=${line.level}
            >
              <small>${line.at ? clock(line.at) : ""} ${line.process} ${line.level}</small>
              ${" "}${line.text}
            </p>`,
          )}
        </div>`}
    </details>
    <p class="muted">Logs of other machines stay there. This follows them in a terminal:</p>
    <${CommandLine} command="pomona logs --follow" />
  <//>`;
}
