#!/bin/sh
# Makes .venv in this clone what uv.lock says, from nothing but Python 3.11 or later and pip.
# uv itself is taken from PATH when it is new enough, and otherwise installed into .tools.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
UV_AT_LEAST=0.13.0

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'pomona: %s\n' "$*" >&2; exit 1; }

# What the caller's shell is set to must neither be used nor be changed.
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
    # A shim that stands for no interpreter fails here, and the next name is tried.
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
    python=$(find_python) || fail "Python 3.11 or later is needed, and no python3 on PATH is"
    say "installing uv $UV_VERSION into .tools with $("$python" --version)"
    rm -rf .tools/uv
    mkdir -p .tools
    # Debian's Python has neither ensurepip nor, for its own environment, a willing pip;
    # what pip puts into a folder of ours disturbs nobody.
    if ! "$python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target .tools/uv "uv==$UV_VERSION" >.tools/pip.log 2>&1; then
        rm -rf .tools/uv
        "$python" -m venv .tools/uv >>.tools/pip.log 2>&1 &&
            .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check \
                "uv==$UV_VERSION" >>.tools/pip.log 2>&1 || {
            cat .tools/pip.log >&2
            rm -rf .tools/uv
            fail "uv could not be installed; pip says why above"
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
    # Behind a proxy that signs with a certificate of its own, only the system trusts it.
    say "once more, with the certificates that this system trusts"
    UV_SYSTEM_CERTS=1 "$uv" sync --frozen "$@" || fail "the installation failed; see above"
}

if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pomona ]; then
    say "installing Pomona and what it needs into .venv (once; some hundred megabytes)"
    sync
    say "installed"
else
    sync --quiet
fi
