/** A chart of the last hour. */

import { useEffect, useRef } from "./vendor/preact-hooks.js";
import uPlot from "./vendor/uplot.js";
import { digits } from "./format.js";
import { html } from "./ui.js";

/** @typedef {{name: string, values: (number | null)[]}} Series */

const HEIGHT = 180;
const HOUR_S = 3600;

/** @param {string} name of a custom property */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * @param {{title: string, unit: string, times: number[], series: Series[]}} props
 */
export function Chart({ title, unit, times, series }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {uPlot | null} */ (null));
  const names = series.map((one) => one.name).join("|");
  useEffect(() => {
    const make = () => {
      plot.current?.destroy();
      plot.current = box.current ? newPlot(box.current, unit, series, times) : null;
    };
    make();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    const observer = new ResizeObserver(() => {
      const width = box.current?.clientWidth ?? 0;
      if (width && width !== plot.current?.width) plot.current?.setSize({ width, height: HEIGHT });
    });
    if (box.current) observer.observe(box.current);
    return () => {
      dark.removeEventListener("change", make);
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names]);
  useEffect(() => {
    const chart = plot.current;
    // Nobody's pointer or zoom is moved by new data.
    if (!chart || chart.cursor.left === undefined || chart.select.width > 0) return;
    if ((chart.cursor.left ?? -1) >= 0) return;
    chart.setData(dataOf(times, series));
  }, [times]);
  return html`<figure class="card">
    <figcaption>
      <h2>${title}</h2>
      <ul class="legend">
        ${series.map(
          (one, index) => html`<li key=${one.name}>
            <i class=${`series-${index}`} />${one.name}: ${summary(one.values, unit)}
          </li>`,
        )}
      </ul>
    </figcaption>
    <div ref=${box} class="plot" aria-hidden="true" />
  </figure>`;
}

/**
 * Returns the upper end of an axis. Without a value above 0 it is 1: smaller ticks would all read 0.
 *
 * @param {number | null} high
 */
export const topOf = (high) => (high && high > 0 ? high * 1.1 : 1);

/**
 * Describes values in words: the latest, and the range of the hour.
 *
 * @param {(number | null)[]} values
 * @param {string} unit
 */
export function summary(values, unit) {
  const known = values.filter((value) => value !== null);
  const last = known.at(-1);
  if (last === undefined) return "no measurement yet";
  const low = known.reduce((a, b) => Math.min(a, b));
  const high = known.reduce((a, b) => Math.max(a, b));
  return `${digits(last)} ${unit} (${digits(low)} to ${digits(high)} within the hour)`;
}

/**
 * @param {number[]} times
 * @param {Series[]} series
 * @returns {uPlot.AlignedData}
 */
const dataOf = (times, series) => [times, ...series.map((one) => one.values)];

/**
 * @param {HTMLElement} box
 * @param {string} unit
 * @param {Series[]} series
 * @param {number[]} times
 */
function newPlot(box, unit, series, times) {
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui, sans-serif",
  };
  return new uPlot(
    {
      width: Math.max(box.clientWidth, 200),
      height: HEIGHT,
      legend: { show: false },
      cursor: { points: { size: 7 } },
      scales: {
        x: { range: (_, low, high) => [Math.min(low, high - HOUR_S), high] },
        y: { range: (_, __, high) => [0, topOf(high)] },
      },
      axes: [
        { ...axis, size: 32, values: (_, ticks) => ticks.map(hourAndMinute) },
        {
          ...axis,
          size: 48,
          label: unit,
          labelSize: 18,
          labelFont: axis.font,
          values: (_, ticks) => ticks.map(digits),
        },
      ],
      series: [
        {},
        ...series.map((one, index) => ({
          label: one.name,
          stroke: colour(`--series-${index}`),
          fill: index === 0 ? colour("--series-fill") : "transparent",
          width: 2,
          spanGaps: true,
        })),
      ],
    },
    dataOf(times, series),
    box,
  );
}

/** @param {number} unix */
const hourAndMinute = (unix) =>
  new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
