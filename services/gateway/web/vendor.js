/**
 * Copies the built files of the libraries, and their licences, into the package.
 *
 * `node vendor.js` writes them; `node vendor.js --check` fails when they are not what the lock file
 * says. The page has no build step, so a bare specifier such as "preact" becomes a path, and a
 * script that sets a global becomes a module.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const packages = join(here, "node_modules");
const target = join(here, "../src/pomona_gateway/dashboard/static/vendor");

const modules = [
  { from: "preact/dist/preact.mjs", to: "preact.js" },
  { from: "preact/hooks/dist/hooks.mjs", to: "preact-hooks.js" },
  { from: "htm/dist/htm.module.js", to: "htm.js" },
  { from: "marked/lib/marked.esm.js", to: "marked.js" },
  { from: "dompurify/dist/purify.min.js", to: "dompurify.js", global: "globalThis.DOMPurify" },
  { from: "uplot/dist/uPlot.iife.min.js", to: "uplot.js", global: "uPlot" },
  { from: "uplot/dist/uPlot.min.css", to: "uplot.css" },
];
const licences = ["preact", "htm", "marked", "dompurify", "uplot"];

/** @param {string} path */
const read = (path) => readFileSync(join(packages, path), "utf8");

/** @param {{from: string, to: string, global?: string}} file */
function built(file) {
  let text = read(file.from)
    .replace(/(from\s*|import\s*)"preact"/g, '$1"./preact.js"')
    .replace(/\n?\/[/*]# sourceMappingURL=.*$/m, "")
    .trimEnd();
  if (file.global) text += `\nexport default ${file.global};`;
  return `${text}\n`;
}

/** @returns {[string, string][]} names and contents */
function files() {
  /** @type {[string, string][]} */
  const found = modules.map((file) => [file.to, built(file)]);
  /** @type {Map<string, string[]>} */
  const texts = new Map();
  for (const name of licences) {
    const { version, license, homepage } = JSON.parse(read(`${name}/package.json`));
    const text = read(`${name}/LICENSE`).trim().replace(/^[ \t]+/gm, "");
    // The MIT licences differ in the lines before their text, the Apache Licenses in those after it.
    const begin = Math.max(0, text.indexOf("Permission is hereby granted"));
    const isApache = /Apache License\s+Version 2.0/.test(text);
    const key = isApache ? "Apache" : text.slice(begin).replace(/\s+/g, " ");
    const known = texts.get(key) ?? [text.slice(begin)];
    const named = `${name} ${version} (${license}) ${homepage ?? ""}\n${text.slice(0, begin)}`;
    texts.set(key, [...known, named.trim()]);
  }
  const parts = [...texts.values()].map(([text, ...names]) => `${names.join("\n\n")}\n\n${text}\n`);
  found.push(["LICENCES.txt", parts.join(`\n${"-".repeat(78)}\n\n`)]);
  return found;
}

mkdirSync(target, { recursive: true });
let differing = 0;
for (const [name, content] of files()) {
  const path = join(target, name);
  if (!process.argv.includes("--check")) {
    writeFileSync(path, content);
    continue;
  }
  let present = "";
  try {
    present = readFileSync(path, "utf8");
  } catch {
    // missing
  }
  if (present !== content) {
    console.error(`${path} is not what package-lock.json gives; run \`node vendor.js\``);
    differing += 1;
  }
}
process.exitCode = differing ? 1 : 0;
