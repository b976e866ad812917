/** Draws the machines in the order of the pipeline, with the links between them. */

import { useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact-hooks.js";
import { byteRate, duration } from "./format.js";
import { Lanes } from "./lanes.js";
import { Machine } from "./machine.js";
import { html } from "./ui.js";

/**
 * @typedef {import("./report.js").Report} Report
 * @typedef {import("./report.js").Node} Node
 * @typedef {import("./report.js").Work} Work
 * @typedef {{from: Node, to: Node, x1: number, y1: number, x2: number, y2: number,
 *   labelled: boolean}} Cable
 */

const CARD_WIDTH = 250;
const GAP = 150;
const TONES = {
  good: "good", slow: "warning", fallback: "critical", down: "critical", unmeasured: "muted",
};

/**
 * Orders the nodes by the pipelines' stages, then by name.
 *
 * @param {Report} report
 */
export function orderedNodes(report) {
  const order = report.pipelines.flatMap((pipeline) => pipeline.stages.map((stage) => stage.node));
  const rank = (/** @type {Node} */ node) => {
    const place = order.indexOf(node.name);
    return place < 0 ? order.length : place;
  };
  return [...report.nodes].sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
}

/**
 * Places cards in rows that turn at their ends, so that neighbours in the order are neighbours.
 *
 * @param {number} count
 * @param {number} width of the drawing, pixels
 */
export function places(count, width) {
  const most = Math.max(1, Math.floor((width + GAP) / (CARD_WIDTH + GAP)));
  const columns = count > most ? Math.ceil(count / Math.ceil(count / most)) : Math.max(count, 1);
  const at = Array.from({ length: count }, (_, index) => {
    const row = Math.floor(index / columns);
    const along = index % columns;
    return { row: row + 1, column: row % 2 ? columns - along : along + 1 };
  });
  return { columns, at };
}

/**
 * Returns what a node should have measured of another one, or the other of it.
 *
 * @param {Node} from
 * @param {Node} to
 */
export function linkBetween(from, to) {
  const found = (/** @type {Node} */ a, /** @type {Node} */ b) => {
    const link = a.links.find((x) => x.node === b.name);
    return link && { link, expected: a.expected.find((x) => x.node === b.name) };
  };
  return found(from, to) ?? found(to, from);
}

/** @param {{report: Report, work: Record<string, Work>}} props */
export function Cabling({ report, work }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const [width, setWidth] = useState(0);
  const [cables, setCables] = useState(/** @type {Cable[]} */ ([]));
  const nodes = orderedNodes(report);
  const { columns, at } = places(nodes.length, width);
  useLayoutEffect(() => setWidth(box.current?.clientWidth ?? 0), []);
  const measure = () => {
    if (!box.current) return;
    setWidth(box.current.clientWidth);
    setCables(findCables(box.current, nodes));
  };
  const signature = `${width} ${nodes.map((node) => `${node.name}${node.links.length}`)}`;
  useLayoutEffect(measure, [signature, columns]);
  useEffect(() => {
    if (!box.current) return;
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [signature]);
  return html`<div class="cabling" ref=${box}>
    <svg class="cables" aria-hidden="true">
      ${cables.map(
        (cable) => html`<line
          key=${`${cable.from.name} ${cable.to.name}`}
          class=${toneOf(cable.from, cable.to, report)}
          x1=${cable.x1}
          y1=${cable.y1}
          x2=${cable.x2}
          y2=${cable.y2}
        />`,
      )}
    </svg>
    <ul class="machines" style=${{ "--columns": String(columns) }}>
      ${nodes.map(
        (node, index) => html`<li
          key=${node.name}
          data-node=${node.name}
          style=${{ gridRow: String(at[index]?.row), gridColumn: String(at[index]?.column) }}
        >
          <${Machine} node=${node} report=${report} work=${work} />
        </li>`,
      )}
    </ul>
    ${cables
      .filter((cable) => cable.labelled)
      .map(
        (cable) => html`<${CableLabel}
          key=${`${cable.from.name} ${cable.to.name}`}
          cable=${cable}
          report=${report}
        />`,
      )}
    <${Lanes} report=${report} work=${work} box=${box} />
  </div>`;
}

/**
 * Measures where the cards are, and returns the lines between them.
 *
 * @param {HTMLElement} box
 * @param {Node[]} nodes
 * @returns {Cable[]}
 */
function findCables(box, nodes) {
  const frame = box.getBoundingClientRect();
  const cards = nodes.map((node) => {
    const card = box.querySelector(`[data-node="${CSS.escape(node.name)}"]`);
    const at = card?.getBoundingClientRect() ?? new DOMRect();
    return { node, left: at.left - frame.left, top: at.top - frame.top, w: at.width, h: at.height };
  });
  /** @type {Cable[]} */
  const found = [];
  const oneColumn = new Set(cards.map((card) => card.left)).size < 2;
  cards.forEach((a, i) => {
    cards.slice(i + 1).forEach((b, j) => {
      const linked = linkBetween(a.node, b.node);
      const next = j === 0;
      const notable = linked?.link.kind === "thunderbolt" || linked?.expected?.state === "fallback";
      if (!linked || (!next && (!notable || oneColumn))) return;
      const sideways = Math.abs(a.left - b.left) > Math.abs(a.top - b.top);
      const right = a.left < b.left;
      found.push({
        from: a.node,
        to: b.node,
        labelled: next,
        x1: sideways ? (right ? a.left + a.w : a.left) : a.left + a.w / 2,
        y1: sideways ? a.top + Math.min(a.h, b.h) / 2 : a.top + a.h,
        x2: sideways ? (right ? b.left : b.left + b.w) : b.left + b.w / 2,
        y2: sideways ? b.top + Math.min(a.h, b.h) / 2 : b.top,
      });
    });
  });
  for (const cable of found) cable.labelled ||= hasRoom(cable, cards, found);
  return found;
}

/**
 * Tests whether the middle of a cable is free of cards, and of the labels of other cables.
 *
 * @param {Cable} cable
 * @param {{left: number, top: number, w: number, h: number}[]} cards
 * @param {Cable[]} cables
 */
function hasRoom(cable, cards, cables) {
  const middle = (/** @type {Cable} */ { x1, y1, x2, y2 }) => [(x1 + x2) / 2, (y1 + y2) / 2];
  const [x = 0, y = 0] = middle(cable);
  const isCovered = cards.some(
    ({ left, top, w, h }) => x > left && x < left + w && y > top && y < top + h,
  );
  const isCrowded = cables.some((other) => {
    const [a = 0, b = 0] = middle(other);
    return other !== cable && other.labelled && Math.abs(a - x) < 170 && Math.abs(b - y) < 70;
  });
  const isStraight = Math.abs(cable.x1 - cable.x2) < 2 || Math.abs(cable.y1 - cable.y2) < 2;
  return isStraight && !isCovered && !isCrowded;
}

/**
 * @param {Node} from
 * @param {Node} to
 * @param {Report} report
 */
function toneOf(from, to, report) {
  const linked = newestLink(from, to, report);
  return TONES[linked?.expected?.state ?? "unmeasured"];
}

/**
 * @param {Node} from
 * @param {Node} to
 * @param {Report} report
 */
function newestLink(from, to, report) {
  const find = (/** @type {string} */ name) => report.nodes.find((node) => node.name === name);
  const [a, b] = [find(from.name), find(to.name)];
  return a && b ? linkBetween(a, b) : undefined;
}

/** @param {{cable: Cable, report: Report}} props */
function CableLabel({ cable, report }) {
  const linked = newestLink(cable.from, cable.to, report);
  if (!linked) return null;
  const { link, expected } = linked;
  const tone = TONES[expected?.state ?? "unmeasured"];
  const at = { left: `${(cable.x1 + cable.x2) / 2}px`, top: `${(cable.y1 + cable.y2) / 2}px` };
  const should = expected?.bytes_per_s ? `of ${byteRate(expected.bytes_per_s)}` : "";
  return html`<p class=${`cable ${tone}`} style=${at} title=${expected?.reason ?? ""}>
    <strong>${expected?.kind || link.kind || "no link"}</strong>
    <span>${link.rtt_us ? `${duration(link.rtt_us / 1e6)} round trip` : "does not answer"}</span>
    ${link.bytes_per_s > 0 && html`<span>${byteRate(link.bytes_per_s)} ${should}</span>`}
  </p>`;
}
