"""The `flash` command."""

from __future__ import annotations

import sys

_WINDOWS = (
    "Error: Flash does not run on Windows itself; run it in WSL2 "
    "(https://learn.microsoft.com/windows/wsl/install) or in a Linux container."
)


def main() -> None:
    """Run the command line, and exit."""
    if sys.platform.startswith("win"):
        sys.exit(_WINDOWS)
    from runpod_flash.cli.group import run

    sys.exit(run())


if __name__ == "__main__":
    main()
