"""Starts the `pomona` command."""

import sys

from pomona.errors import ConfigurationError, PomonaError


def main() -> None:
    from pomona_ops.cli import app

    try:
        app(prog_name="pomona")
    except PomonaError as error:
        print(f"pomona: {error}", file=sys.stderr)
        raise SystemExit(78 if isinstance(error, ConfigurationError) else 1) from error


if __name__ == "__main__":
    main()
