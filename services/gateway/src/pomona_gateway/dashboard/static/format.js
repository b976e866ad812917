/** Numbers and times for people: always with their unit. Pure. */

const DIGITS = 3;

/** @param {number} count */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${digits(value)} ${units[unit]}`;
}

/**
 * Formats the memory of a machine as it is sold: 64 GB are 64 times 2^30 bytes.
 *
 * @param {number} count bytes
 */
export const memorySize = (count) => `${digits(count / 2 ** 30)} GB`;

/** @param {number} value bytes a second */
export const byteRate = (value) => `${bytes(value)}/s`;

/**
 * Formats with three significant digits, without an exponent.
 *
 * @param {number} value
 */
export function digits(value) {
  if (value === 0) return "0";
  const decimals = Math.max(0, DIGITS - 1 - Math.floor(Math.log10(Math.abs(value))));
  const places = Math.min(decimals, Math.abs(value) < 1 ? 2 : DIGITS - 1);
  return value.toLocaleString("en", { maximumFractionDigits: places });
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 0.001) return `${digits(seconds * 1e6)} µs`;
  if (seconds < 1) return `${digits(seconds * 1000)} ms`;
  if (seconds < 120) return `${digits(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${digits(seconds / 3600)} h`;
}

/** @param {number} share 0 to 1 */
export const percent = (share) => `${Math.round(100 * share)}%`;

/** @param {number} rate */
export const tokenRate = (rate) => `${digits(rate)} tok/s`;

/** @param {number} unix seconds */
export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], {
    hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
}

/**
 * Formats a count with its noun.
 *
 * @param {number} count
 * @param {string} noun
 */
export const counted = (count, noun) => `${digits(count)} ${noun}${count === 1 ? "" : "s"}`;
