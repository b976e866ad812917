/** A chat with a model of the cluster. */

import { useEffect, useRef, useState } from "./vendor/preact-hooks.js";
import { ChatSettings } from "./chat_settings.js";
import { complete, newAnswer, tokensPerSecond } from "./completion.js";
import {
  loadConversations, loadSettings, messagesOf, newConversation, saveConversations, saveSettings,
  titleOf,
} from "./conversation.js";
import { tokenRate } from "./format.js";
import { live } from "./live.js";
import { Message } from "./message.js";
import { html } from "./ui.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

const NEAR_END_PX = 120;

/** What outlives the panel, so that an answer goes on while another panel is open. */
const chat = {
  conversations: loadConversations(),
  open: newConversation(),
  settings: loadSettings(),
  draft: "",
  abort: /** @type {AbortController | null} */ (null),
  changed: () => {},
};

/** @param {string} question */
async function ask(question) {
  const { open, settings } = chat;
  const answer = newAnswer();
  const messages = [...messagesOf(open.turns), { role: "user", content: question }];
  open.turns.push({ question, answer });
  chat.conversations = [open, ...chat.conversations.filter((one) => one.id !== open.id)];
  chat.abort = new AbortController();
  saveConversations(chat.conversations);
  await complete({ ...settings }, messages, answer, () => chat.changed(), chat.abort.signal);
  chat.abort = null;
  saveConversations(chat.conversations);
  chat.changed();
}

export function Chat() {
  const [, render] = useState(0);
  const [said, say] = useState("");
  const end = useRef(/** @type {HTMLElement | null} */ (null));
  const box = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const follow = useRef(true);
  useEffect(() => {
    let frame = 0;
    const watch = () => {
      const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
      follow.current = scrollHeight - clientHeight - scrollTop < NEAR_END_PX;
    };
    addEventListener("scroll", watch, { passive: true });
    chat.changed = () => {
      if (frame) return;
      frame = requestAnimationFrame(() => {
        frame = 0;
        render((count) => count + 1);
      });
    };
    return () => {
      chat.changed = () => {};
      cancelAnimationFrame(frame);
      removeEventListener("scroll", watch);
    };
  }, []);
  // Whoever has scrolled up to read is left there.
  useEffect(() => {
    if (follow.current && chat.abort) end.current?.scrollIntoView({ block: "end" });
  });
  const { report } = live();
  // A question loads an unloaded model.
  const models = [...(report?.pipelines ?? []).map((x) => x.model), ...(report?.unloaded ?? [])];
  if (!models.includes(chat.settings.model) && models[0]) chat.settings.model = models[0];
  const change = (/** @type {Partial<typeof chat.settings>} */ part) => {
    Object.assign(chat.settings, part);
    saveSettings(chat.settings);
    render((count) => count + 1);
  };
  const show = (/** @type {Conversation} */ conversation) => {
    chat.abort?.abort();
    chat.open = conversation;
    render((count) => count + 1);
    box.current?.focus();
  };
  const submit = async (/** @type {Event | undefined} */ event) => {
    event?.preventDefault();
    const question = chat.draft.trim();
    if (!question || chat.abort || !models.length) return;
    try {
      if (chat.settings.tools.trim()) JSON.parse(chat.settings.tools);
    } catch {
      say("The tools are not valid JSON: see the settings.");
      return;
    }
    chat.draft = "";
    follow.current = true;
    say("Asked.");
    const done = ask(question);
    render((count) => count + 1);
    await done;
    const answer = chat.open.turns.at(-1)?.answer;
    const rate = answer ? tokensPerSecond(answer) : 0;
    say(`The answer is ${answer?.status ?? "done"}${rate ? `, ${tokenRate(rate)}` : ""}.`);
  };
  const onKey = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) void submit(event);
    if (event.key === "Escape") chat.abort?.abort();
  };
  const writing = chat.abort !== null;
  const none = report ? "No model is loaded: see Models." : "Connecting to the cluster.";
  const why = models.length ? "" : none;
  return html`<div class="chat">
    <div class="conversations">
      <button type="button" onClick=${() => show(newConversation())}>New conversation</button>
      ${chat.conversations.length > 0 &&
      html`<label class="pick">Kept in this browser<select
        value=${chat.open.id}
        onChange=${(/** @type {any} */ event) => {
          const found = chat.conversations.find((one) => one.id === event.target.value);
          if (found) show(found);
        }}
      >
        ${!chat.conversations.some((one) => one.id === chat.open.id) &&
        html`<option value=${chat.open.id}>New conversation</option>`}
        ${chat.conversations.map(
          (one) => html`<option key=${one.id} value=${one.id}>${titleOf(one)}</option>`,
        )}
      </select></label>`}
      ${chat.open.turns.length > 0 &&
      html`<button
        type="button"
        onClick=${() => {
          chat.conversations = chat.conversations.filter((one) => one.id !== chat.open.id);
          saveConversations(chat.conversations);
          show(newConversation());
        }}
      >
        Delete this one
      </button>`}
    </div>
    <${ChatSettings} settings=${chat.settings} models=${models} onChange=${change} />
    <ol class="turns" aria-label="Conversation">
      ${chat.open.turns.map(
        ({ question, answer }, index) => html`<${Message}
          key=${`${chat.open.id} ${index}`}
          question=${question}
          answer=${answer}
          model=${chat.settings.model}
          number=${index + 1}
        />`,
      )}
    </ol>
    ${!chat.open.turns.length &&
    html`<p class="empty">${why || "Ask something. Answers stay in this browser."}</p>`}
    <form class="composer" onSubmit=${submit}>
      <label for="question" class="off-screen">Question</label>
      <textarea
        id="question"
        ref=${box}
        rows="2"
        placeholder="Ask; Enter sends, Shift+Enter begins a line"
        value=${chat.draft}
        onInput=${(/** @type {any} */ event) => (chat.draft = event.target.value)}
        onKeyDown=${onKey}
      />
      ${writing
        ? html`<button type="button" class="danger" onClick=${() => chat.abort?.abort()}>Stop</button>`
        : html`<button
            type="submit"
            class="primary"
            aria-disabled=${why ? "true" : undefined}
            title=${why}
          >
            Send
          </button>`}
    </form>
    <p role="status" class="off-screen">${said}</p>
    <span ref=${end} class="end" />
  </div>`;
}
