import js from "@eslint/js";
import noUnsanitized from "eslint-plugin-no-unsanitized";
import globals from "globals";

export default [
  { ignores: ["**/vendor/**", "node_modules/**"] },
  js.configs.recommended,
  noUnsanitized.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: "module", globals: globals.browser },
    rules: {
      eqeqeq: "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-console": "error",
      "no-shadow": "error",
      "max-lines": ["error", 300],
      "max-len": ["error", { code: 110, ignoreUrls: true }],
    },
  },
  { files: ["**/*.js"], ignores: ["**/static/**"], languageOptions: { globals: globals.node },
    rules: { "no-console": "off" } },
];
