/** Conversations, kept in this browser only. */

/**
 * @typedef {import("./completion.js").Answer} Answer
 * @typedef {import("./completion.js").Settings} Settings
 * @typedef {{question: string, answer: Answer}} Turn
 * @typedef {{id: string, at: number, turns: Turn[]}} Conversation
 */

const STORE = "pomona-conversations";
const SETTINGS = "pomona-chat-settings";
const MAX_KEPT = 50;
const TITLE_CHARACTERS = 40;

/** @returns {Conversation} */
export const newConversation = () => ({
  id: Math.random().toString(36).slice(2), at: Date.now(), turns: [],
});

/** @param {Conversation} conversation */
export function titleOf(conversation) {
  const text = conversation.turns[0]?.question.trim() ?? "";
  if (!text) return "New conversation";
  return text.length > TITLE_CHARACTERS ? `${text.slice(0, TITLE_CHARACTERS)}…` : text;
}

/** Returns the kept conversations, newest first. */
export function loadConversations() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return /** @type {Conversation[]} */ (Array.isArray(found) ? found : []).map(interrupted);
  } catch {
    return [];
  }
}

/**
 * Marks answers as stopped that were being written when the page was closed.
 *
 * @param {Conversation} conversation
 */
function interrupted(conversation) {
  for (const { answer } of conversation.turns) {
    if (!["done", "stopped", "failed"].includes(answer.status)) answer.status = "stopped";
  }
  return conversation;
}

/**
 * Keeps conversations. The oldest give way when the browser has no room.
 *
 * @param {Conversation[]} conversations
 */
export function saveConversations(conversations) {
  const kept = conversations.filter((one) => one.turns.length).slice(0, MAX_KEPT);
  while (kept.length) {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
      return;
    } catch {
      kept.pop();
    }
  }
  localStorage.removeItem(STORE);
}

/** @returns {Settings} */
export function loadSettings() {
  const empty = {
    model: "", system: "", temperature: "", topP: "", maxTokens: "", seed: "", tools: "",
  };
  try {
    return { ...empty, ...JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") };
  } catch {
    return empty;
  }
}

/** @param {Settings} settings */
export function saveSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // A full or closed store: the settings last as long as the page.
  }
}

/**
 * Returns the messages of a conversation for the API.
 *
 * @param {Turn[]} turns
 */
export function messagesOf(turns) {
  return turns.flatMap(({ question, answer }) => {
    const said = answer.text || answer.calls.map((call) => `${call.name}(${call.input})`).join("\n");
    const asked = { role: "user", content: question };
    return said ? [asked, { role: "assistant", content: said }] : [asked];
  });
}
