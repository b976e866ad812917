/** The page: navigation, login, and the panel that is open. */

import { render } from "./vendor/preact.js";
import { useEffect, useRef, useState } from "./vendor/preact-hooks.js";
import { apiKey, setApiKey } from "./api.js";
import { Chat } from "./chat.js";
import { Cluster } from "./cluster.js";
import { connect, live, useLive } from "./live.js";
import { Models } from "./models.js";
import { Nodes } from "./nodes.js";
import { Now } from "./now.js";
import { Plan } from "./plan.js";
import { html } from "./ui.js";

/** @type {{id: string, title: string, panel: () => any}[]} */
const PANELS = [
  { id: "cluster", title: "Cluster", panel: Cluster },
  { id: "now", title: "Now", panel: Now },
  { id: "models", title: "Models", panel: Models },
  { id: "plan", title: "Plan", panel: Plan },
  { id: "chat", title: "Chat", panel: Chat },
  { id: "nodes", title: "Nodes", panel: Nodes },
];

const panelOfAddress = () => {
  const id = location.hash.replace(/^#\/?/, "");
  return PANELS.find((panel) => panel.id === id) ?? PANELS[0];
};

function App() {
  const { status, problem, hello, report } = useLive();
  const [panel, open] = useState(panelOfAddress);
  const main = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    const follow = () => {
      open(panelOfAddress());
      scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    };
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => {
    document.title = panel ? `${panel.title} · Pomona` : "Pomona";
  }, [panel]);
  if (status === "login") return html`<${Login} problem=${apiKey() ? problem : ""} />`;
  return html`
    <a class="skip" href="#main" onClick=${skipTo(main)}>Skip to the panel</a>
    <nav aria-label="Panels"><div>
      <p class="brand"><img src="dashboard/icon.svg" alt="" width="24" height="24" />Pomona</p>
      <ul>
        ${PANELS.map(
          ({ id, title }) => html`<li key=${id}>
            <a href=${`#/${id}`} aria-current=${panel?.id === id ? "page" : undefined}>${title}</a>
          </li>`,
        )}
      </ul>
      <${Connection} />
      <p class="links">
        <a href="openapi.json">API document</a>
        ${hello?.keys_required && html`<button class="link" onClick=${logOut}>Forget key</button>`}
        ${hello && html`<small>Pomona ${hello.version}</small>`}
      </p>
    </div></nav>
    <main id="main" tabindex="-1" ref=${main}>
      <h1>${panel?.title}</h1>
      ${status === "lost" &&
      html`<p class="notice critical" role="alert">
        ${problem} ${report ? "What is shown is from before. " : ""}Connecting again…
      </p>`}
      ${report || panel?.id === "chat"
        ? html`<${panel?.panel} />`
        : status !== "lost" && html`<p class="empty">Asking the gateway…</p>`}
    </main>
  `;
}

/** @param {{current: HTMLElement | null}} main */
const skipTo = (main) => (/** @type {Event} */ event) => {
  event.preventDefault();
  main.current?.focus();
};

function Connection() {
  const { status, report } = live();
  const state = status === "live" && report ? report.state : status;
  const texts = {
    serving: "serving", degraded: "degraded", absent: "no services", live: "connected",
    connecting: "connecting", lost: "not connected", login: "",
  };
  const tone = state === "serving" ? "good" : state === "degraded" ? "warning" : "muted";
  return html`<p class="connection" role="status">
    <i class=${`dot ${status === "lost" ? "critical" : tone}`} />${report?.cluster ?? "cluster"}
    ${" "}${texts[state]}
  </p>`;
}

/** @param {{problem: string}} props */
function Login({ problem }) {
  const [key, type] = useState("");
  const logIn = (/** @type {Event} */ event) => {
    event.preventDefault();
    setApiKey(key.trim());
    void connect();
  };
  return html`<main class="login" id="main">
    <h1><img src="dashboard/icon.svg" alt="" width="32" height="32" />Pomona</h1>
    <form onSubmit=${logIn}>
      <label for="key">API key of this gateway</label>
      <input
        id="key"
        type="password"
        autocomplete="off"
        value=${key}
        aria-describedby="key-note"
        onInput=${(/** @type {any} */ event) => type(event.target.value)}
      />
      <button class="primary" type="submit">Open</button>
      ${problem && html`<p class="notice critical" role="alert">${problem}</p>`}
      <p id="key-note">
        The key stays in this tab and is forgotten when it closes. Make one on the gateway's machine
        with <code>pomona keys create NAME</code>, or with <code>--administrator</code> to load
        models from here.
      </p>
    </form>
  </main>`;
}

function logOut() {
  setApiKey("");
  void connect();
}

const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(html`<${App} />`, root);
  void connect();
}
