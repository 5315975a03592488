"""The command `regrow`, also as `python -m regrow.lab`."""

import sys

from .errors import lacking


def main() -> None:
    """Runs the command line; without its optional packages it says which one to install."""
    # Lightning imports it only to get its version, and that imports transformers if installed: seconds, for nothing
    sys.modules.setdefault("torchmetrics", None)  # type: ignore[arg-type]
    try:
        from .cli.app import app
    except ModuleNotFoundError as error:
        sys.exit(lacking(error))
    app(prog_name="regrow")


if __name__ == "__main__":
    main()
