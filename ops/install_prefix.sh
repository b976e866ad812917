#!/bin/sh
# Installs this version of Pomona into PREFIX/<version>, with a Python of uv's own, and makes
# PREFIX/current a link to it. PREFIX is /opt/pomona unless given. Services run as another account,
# which cannot read a clone in somebody's home.
set -eu
prefix=${1:-/opt/pomona}
cd "$(dirname "$0")/.."
case $prefix in /*) ;; *) printf 'pomona: %s is not an absolute path\n' "$prefix" >&2; exit 1 ;; esac

. ops/find_uv.sh
version=$(sed -n 's/^version = "\(.*\)"/\1/p' shared/pyproject.toml | head -n 1)
folder=$prefix/$version
umask 022
mkdir -p "$prefix/python"

# The account of the services reads Python too, so it must not be in a home.
UV_PYTHON_INSTALL_DIR=$prefix/python
UV_PROJECT_ENVIRONMENT=$folder
export UV_PYTHON_INSTALL_DIR UV_PROJECT_ENVIRONMENT
request=$PYTHON_VERSION
if is_mac; then request=cpython-$PYTHON_VERSION-macos-aarch64-none; fi
say "installing Pomona $version into $folder"
sync() { "$uv" sync --frozen --no-dev --no-editable "$@"; }
if ! sync --managed-python --python "$request"; then
    # Without the internet there is no Python of uv's own; one that every account can read will do.
    python=$(find_python 11) || fail "no Python can be downloaded, and none is installed"
    say "no Python can be downloaded; trying $python"
    sync --no-managed-python --python "$python" || fail "the installation failed; see above"
    real=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case $real in
        /root/*|/home/*|/Users/*)
            say "note: $real is in a home, which the account of the services may not read" ;;
    esac
fi

rm -f "$prefix/.current.new"
ln -s "$version" "$prefix/.current.new"
# A rename replaces the link at once; `mv` without -h or -T would move into the folder.
if [ -L "$prefix/current" ] || [ ! -e "$prefix/current" ]; then
    "$folder/bin/python" -c 'import os, sys; os.replace(*sys.argv[1:])' "$prefix/.current.new" "$prefix/current"
else
    rm -f "$prefix/.current.new"
    fail "$prefix/current is not a link"
fi
say "$prefix/current is $version"
