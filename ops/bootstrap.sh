#!/bin/sh
# Installs the packages of uv.lock into .venv of this clone. Needs a Python that can install uv, or uv
# (see find_uv.sh); on a Mac, Apple Silicon and macOS 14.
set -eu
cd "$(dirname "$0")/.."
. ops/find_uv.sh

request=$(python_request)
sync() {
    "$uv" sync --frozen ${request:+--python "$request"} "$@" && return
    # A proxy may use a certificate that only the system's store trusts.
    say "retrying with the certificates of the system"
    UV_SYSTEM_CERTS=1 "$uv" sync --frozen ${request:+--python "$request"} "$@" ||
        fail "the installation failed; see above"
}

if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pomona ]; then
    say "installing Pomona and its dependencies into .venv (once; some hundred megabytes)"
    sync
    say "installed"
else
    sync --quiet
fi
