"""The command `regrow`, also as `python -m regrow.recipes`."""

import sys

from .errors import lacking


def main() -> None:
    """Runs the command line; without its optional packages it says which one to install."""
    try:
        from .cli import app
    except ModuleNotFoundError as error:
        sys.exit(lacking(error))
    app(prog_name="regrow")


if __name__ == "__main__":
    main()
