/** Markdown of a model as safe HTML: no script, no style, no image, nothing that loads by itself. */

import DOMPurify from "./vendor/dompurify.js";
import { Marked } from "./vendor/marked.js";

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li",
  "ol", "p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["align", "class", "href", "rel", "start", "target"];
const LINKS = /^(?:https?:|mailto:)/i;
const CODE_CLASS = /^language-[\w+#.-]{1,32}$/;

/** @param {string} text */
const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // What looks like HTML is shown as the model wrote it.
    html: ({ text }) => escaped(text),
    // An image would tell its server that this answer was read.
    image: ({ href, text }) => escaped(`[image: ${text || href}]`),
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  const kept = node.tagName === "CODE" && CODE_CLASS.test(node.getAttribute("class") ?? "");
  if (!kept) node.removeAttribute("class");
});

/**
 * Returns sanitised HTML.
 *
 * @param {string} text
 * @returns {string}
 */
export function toHtml(text) {
  return DOMPurify.sanitize(marked.parse(text, { async: false }), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOWED_URI_REGEXP: LINKS,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
  });
}
