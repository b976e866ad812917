#!/bin/sh
# Installs the packages of uv.lock into .venv of this clone. Needs Python 3.11 or later and pip.
# Uses uv from PATH when it is new enough, and otherwise installs it into .tools.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
UV_AT_LEAST=0.13.0

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'pomona: %s\n' "$*" >&2; exit 1; }

# Ignore the Python settings of the caller's shell.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_TARGET PIP_PREFIX PIP_USER \
    PIP_REQUIRE_VIRTUALENV UV_PROJECT UV_PROJECT_ENVIRONMENT UV_PYTHON UV_WORKING_DIR \
    UV_NO_DEV 2>/dev/null || true

new_enough() {
    # "uv 0.13.9 (...)": the lower of the two versions must be UV_AT_LEAST.
    version=$("$1" --version 2>/dev/null | awk '{print $2}') || return 1
    [ -n "$version" ] || return 1
    lower=$(printf '%s\n%s\n' "$version" "$UV_AT_LEAST" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)
    [ "$lower" = "$UV_AT_LEAST" ]
}

find_python() {
    # A shim without an interpreter fails here; then try the next name.
    for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

install_uv() {
    python=$(find_python) || fail "Python 3.11 or later is required, and PATH has none; install it, then try again"
    say "installing uv $UV_VERSION into .tools with $("$python" --version)"
    rm -rf .tools/uv
    mkdir -p .tools
    # Debian's Python has no ensurepip, and its pip refuses to install into the system; it does
    # install into a folder with --target.
    if ! "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target .tools/uv "uv==$UV_VERSION" >.tools/pip.log 2>&1; then
        rm -rf .tools/uv
        "$python" -m venv .tools/uv >>.tools/pip.log 2>&1 &&
            .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check \
                "uv==$UV_VERSION" >>.tools/pip.log 2>&1 || {
            cat .tools/pip.log >&2
            rm -rf .tools/uv
            fail "uv could not be installed; see the output of pip above"
        }
    fi
    rm -f .tools/pip.log
}

if command -v uv >/dev/null 2>&1 && new_enough uv; then
    uv=$(command -v uv)
else
    uv=.tools/uv/bin/uv
    new_enough "$uv" || install_uv
    new_enough "$uv" || fail "$uv does not run on this machine"
fi

sync() {
    "$uv" sync --frozen "$@" && return
    # A proxy may use a certificate that only the system's store trusts.
    say "retrying with the certificates of the system"
    UV_SYSTEM_CERTS=1 "$uv" sync --frozen "$@" || fail "the installation failed; see above"
}

if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pomona ]; then
    say "installing Pomona and its dependencies into .venv (once; some hundred megabytes)"
    sync
    say "installed"
else
    sync --quiet
fi
