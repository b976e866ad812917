/** Shows the lanes as dots that travel from stage to stage, more slowly than they do. */

import { useEffect, useRef } from "./vendor/preact-hooks.js";
import { counted, digits } from "./format.js";
import { html } from "./ui.js";

/**
 * @typedef {import("./report.js").Report} Report
 * @typedef {import("./report.js").Work} Work
 * @typedef {{x: number, y: number}} Point
 */

const FRAME_MS = 80;
const SECONDS_A_STAGE = 0.9;
const MAX_DOTS = 12;

/**
 * Returns the lanes that are in flight, for each pipeline that computes.
 *
 * @param {Report} report
 * @param {Record<string, Work>} work
 */
export function travelling(report, work) {
  return report.pipelines
    .map((pipeline) => {
      const works = pipeline.stages.map((stage) => work[stage.worker]);
      const steps = Math.max(0, ...works.map((x) => x?.steps_per_s ?? 0));
      const lanes = Math.max(0, ...works.map((x) => x?.lanes ?? 0));
      const computes = steps > 0 || works.some((x) => (x?.step_tokens ?? 0) > 0);
      return { pipeline, steps, lanes: computes ? Math.max(1, lanes) : 0 };
    })
    .filter((flight) => flight.lanes > 0);
}

/**
 * Returns the point at a share of a closed way through points.
 *
 * @param {Point[]} points
 * @param {number} share 0 to 1
 * @returns {Point}
 */
export function pointOnWay(points, share) {
  const at = share * points.length;
  const from = points[Math.floor(at) % points.length] ?? { x: 0, y: 0 };
  const to = points[(Math.floor(at) + 1) % points.length] ?? from;
  const part = at % 1;
  // Half of the time in a stage, half of it on the way.
  const moved = Math.max(0, 2 * part - 1);
  return { x: from.x + moved * (to.x - from.x), y: from.y + moved * (to.y - from.y) };
}

/** @param {{report: Report, work: Record<string, Work>, box: {current: HTMLElement | null}}} props */
export function Lanes({ report, work, box }) {
  const layer = useRef(/** @type {SVGSVGElement | null} */ (null));
  const flights = travelling(report, work);
  const newest = useRef(flights);
  newest.current = flights;
  const moving = flights.length > 0;
  useEffect(() => {
    const still = matchMedia("(prefers-reduced-motion: reduce)");
    if (!moving || still.matches) return;
    const timer = setInterval(() => {
      if (!document.hidden && layer.current && box.current) {
        draw(layer.current, box.current, newest.current);
      }
    }, FRAME_MS);
    const dots = layer.current;
    return () => {
      clearInterval(timer);
      dots?.replaceChildren();
    };
  }, [moving]);
  const text = flights
    .map(({ pipeline, lanes, steps }) => {
      const rate = steps ? `, ${digits(steps)} steps a second on each stage` : "";
      return `${pipeline.model}: ${counted(lanes, "lane")} in flight${rate}`;
    })
    .join("; ");
  return html`<svg class="lanes" ref=${layer} aria-hidden="true" />
    <p class="caption">
      ${text ? `${text}. Dots travel slower than lanes do.` : "No lane is in flight: nobody asks."}
    </p>`;
}

/**
 * @param {SVGSVGElement} layer
 * @param {HTMLElement} box
 * @param {ReturnType<typeof travelling>} flights
 */
function draw(layer, box, flights) {
  const frame = box.getBoundingClientRect();
  /** @type {Point[]} */
  const dots = [];
  for (const { pipeline, lanes } of flights) {
    const points = pipeline.stages.map((stage) => {
      const name = CSS.escape(`${pipeline.model} ${stage.worker}`);
      const row = box.querySelector(`[data-stage="${name}"]`)?.getBoundingClientRect();
      return row && { x: row.right - frame.left - 10, y: row.top - frame.top + 14 };
    });
    const known = points.filter((point) => point !== undefined);
    if (!known.length) continue;
    const lap = (performance.now() / 1000 / (SECONDS_A_STAGE * known.length)) % 1;
    const shown = Math.min(lanes, MAX_DOTS);
    for (let lane = 0; lane < shown; lane += 1) {
      dots.push(pointOnWay(known, (lap + lane / shown) % 1));
    }
  }
  while (layer.childElementCount > dots.length) layer.lastChild?.remove();
  while (layer.childElementCount < dots.length) {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("r", "5");
    layer.append(dot);
  }
  dots.forEach((point, index) => {
    layer.children[index]?.setAttribute("cx", point.x.toFixed(1));
    layer.children[index]?.setAttribute("cy", point.y.toFixed(1));
  });
}
