# Finds or installs uv, and says which Python uv shall use. Sourced by scripts in the clone's root;
# sets $uv, and defines say, fail and python_request. POSIX sh.
#
# Any Python from 3.8 on brings uv, which then brings its own Python where there is none that fits:
# the one of macOS is 3.9, and one that runs under Rosetta would install packages for Intel Macs,
# which MLX does not have.

UV_VERSION=0.13.9
UV_AT_LEAST=0.13.0
PYTHON_VERSION=3.12
MACOS_AT_LEAST=14

say() { printf '==> %s\n' "$*" >&2; }
fail() { printf 'pomona: %s\n' "$*" >&2; exit 1; }

# Ignore the Python settings of the caller's shell.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX PIP_TARGET PIP_PREFIX PIP_USER \
    PIP_REQUIRE_VIRTUALENV UV_PROJECT UV_PROJECT_ENVIRONMENT UV_PYTHON UV_WORKING_DIR \
    UV_NO_DEV UV_ARCH SYSTEM_VERSION_COMPAT 2>/dev/null || true

is_mac() { [ "$(uname -s)" = Darwin ]; }

require_mac() {
    # A shell under Rosetta says x86_64; the processor does not.
    if [ "$(uname -m)" != arm64 ] && [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" != 1 ]; then
        fail "an Apple Silicon Mac (arm64) is required; this one is $(uname -m)"
    fi
    macos=$(sw_vers -productVersion 2>/dev/null || true)
    if [ "${macos%%.*}" -lt "$MACOS_AT_LEAST" ] 2>/dev/null; then
        fail "macOS $MACOS_AT_LEAST or later is required; this Mac has $macos"
    fi
}

new_enough() {
    # "uv 0.13.9 (...)": the lower of the two versions must be UV_AT_LEAST.
    version=$("$1" --version 2>/dev/null | awk '{print $2}') || return 1
    [ -n "$version" ] || return 1
    lower=$(printf '%s\n%s\n' "$version" "$UV_AT_LEAST" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)
    [ "$lower" = "$UV_AT_LEAST" ]
}

find_python() {
    # Prints the first Python of PATH that is at least version 3.$1. A shim without an interpreter
    # fails here; then the next name is tried.
    for name in python3.12 python3.13 python3.11 python3.14 python3 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c "import sys; sys.exit(sys.version_info < (3, $1))" >/dev/null 2>&1; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

python_request() {
    # Prints what uv shall look for: on a Mac a Python for arm64, uv's own unless there is one.
    # Elsewhere uv decides by itself.
    is_mac || return 0
    found=$(find_python 11) || found=
    if [ -n "$found" ] &&
        "$found" -c 'import platform, sys; sys.exit(platform.machine() != "arm64")' >/dev/null 2>&1
    then
        printf '%s' "$found"
    else
        printf 'cpython-%s-macos-aarch64-none' "$PYTHON_VERSION"
    fi
}

install_uv() {
    python=$(find_python 8) || fail "no Python was found that could install uv: install uv \
(https://docs.astral.sh/uv, on a Mac \`brew install uv\`), then try again"
    say "installing uv $UV_VERSION into .tools with $("$python" --version 2>&1)"
    rm -rf .tools/uv
    mkdir -p .tools
    # Under Rosetta, pip would choose the uv for Intel Macs.
    platform=
    if is_mac; then platform="--platform macosx_11_0_arm64 --only-binary :all:"; fi
    # Debian's Python has no ensurepip, and its pip refuses to install into the system; it does
    # install into a folder with --target.
    # shellcheck disable=SC2086 # $platform is several words, or none
    if ! "$python" -m pip install --quiet --disable-pip-version-check --no-deps $platform \
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

if is_mac; then require_mac; fi
if command -v uv >/dev/null 2>&1 && new_enough uv; then
    uv=$(command -v uv)
else
    uv=.tools/uv/bin/uv
    new_enough "$uv" || install_uv
    new_enough "$uv" || fail "$uv does not run on this machine"
fi
