/** Adds a machine: an invitation, or six digits that two screens show. */

import { useEffect, useRef, useState } from "./vendor/preact-hooks.js";
import { ApiError, sendForJson } from "./api.js";
import { clock } from "./format.js";
import { live } from "./live.js";
import { Action, CommandLine, Confirm, html, Section } from "./ui.js";

/**
 * @typedef {import("./report.js").Membership} Membership
 * @typedef {{members: Membership | null, why: string, onDone: () => void}} Props
 */

const RETRY_MS = 3000;
const ATTEMPTS = 60;

/** @param {Props} props */
export function Join({ members, why, onDone }) {
  const [invitation, show] = useState(
    /** @type {{commands: string[], expires_at: number, running: boolean} | null} */ (null),
  );
  const [said, say] = useState({ text: "", tone: "info" });
  const open = useRef(true);
  useEffect(() => () => void (open.current = false), []);
  const invite = async () => {
    show(null);
    say({ text: "Asking the head…", tone: "info" });
    for (let attempt = 0; open.current; attempt += 1) {
      try {
        show(await sendForJson("api/pomona/v1/nodes/invite", { body: {} }));
        say({ text: "", tone: "info" });
        return;
      } catch (error) {
        const restarts = error instanceof ApiError && (error.status === 0 || error.status === 503);
        if (!restarts || attempt >= ATTEMPTS) {
          say({ text: error instanceof Error ? error.message : String(error), tone: "critical" });
          return;
        }
        say({ text: "The services start again; the invitation comes after that…", tone: "info" });
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  };
  return html`<${Section} title="Add a machine" id="join">
    <p>
      An invitation is a line that lets one machine in, within ten minutes. Give it only to whom
      you trust.
    </p>
    <${Confirm}
      verb="Invite"
      name="a machine"
      yes="Open it and invite"
      why=${why}
      risk=${isClosed(members)
        ? "This machine listens to itself only. An invitation opens it to members: its services start "
          + "again. Running answers finish first; then none begins until the model is loaded again."
        : ""}
      onYes=${() => void invite()}
    />
    <p role="status" class=${said.text ? `notice ${said.tone}` : ""}>${said.text}</p>
    ${invitation && html`<p>On the other machine, until ${clock(invitation.expires_at)}:</p>
      ${invitation.commands.map((line) => html`<${CommandLine} key=${line} command=${line} />`)}
      <p class="muted">The first is only needed where Pomona is not installed yet.</p>`}
    <h3>Machines that ask to join</h3>
    ${!members?.waiting.length && html`<p class="muted">
      None. <code>pomona join</code> on a machine nearby asks without an invitation; six digits then
      appear on its screen and here.
    </p>`}
    ${members?.waiting.map(
      (one) => html`<${Asking} key=${one.key} machine=${one} why=${why} onDone=${onDone} />`,
    )}
  <//>`;
}

/** @param {Membership | null} members */
function isClosed(members) {
  const here = members?.members.find((member) => member.here)?.name;
  const doors = live().report?.services.filter((x) => x.node === here && x.endpoints["door"]);
  return doors?.length ? doors.every((x) => /127\.0\.0\.1|\[::1\]/.test(x.endpoints["door"] ?? "")) : true;
}

/** @param {{machine: import("./report.js").Waiting, why: string, onDone: () => void}} props */
function Asking({ machine, why, onDone }) {
  const [problem, say] = useState("");
  const { name, digits, invited, holder } = machine;
  const decide = async (/** @type {boolean} */ deny) => {
    try {
      const body = { name: machine.key, digits, replace: Boolean(holder), deny };
      await sendForJson("api/pomona/v1/nodes/approve", { body });
      say("");
      onDone();
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
  };
  const notYet = why || (digits || invited ? "" : "It has not finished asking.");
  return html`<div class="notice info" role="group" aria-label=${`${name} asks to join`}>
    <p>
      <strong>${name}</strong> ${" "}
      ${invited
        ? "has an invitation."
        : html`shows <strong class="digits">${digits.slice(0, 3)} ${digits.slice(3)}</strong> when it
            is the machine in front of you. Approve it only if its screen shows the same digits.`}
    </p>
    ${holder && html`<p>
      ${holder} is a member already. If this is the same machine, reinstalled, approving retires
      its old key.
    </p>`}
    <p class="actions">
      <${Action} kind="primary" why=${notYet} label=${`Approve ${name}`} onClick=${() => void decide(false)}>
        The digits agree: approve
      <//>
      <${Action} label=${`Refuse ${name}`} why=${why} onClick=${() => void decide(true)}>Refuse<//>
    </p>
    ${problem && html`<p class="notice critical" role="alert">${problem}</p>`}
  </div>`;
}
