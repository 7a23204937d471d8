"""The command ``seqlens``."""

import sys


def main() -> None:
    """Entry point of the command.

    The light installation has only the client: there the command says what is missing.
    """
    try:
        from seqlens.cli.app import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("seqlens"):
            raise
        sys.exit(
            f"seqlens: {missing.name!r} is not installed; the command needs the server's "
            "libraries: pip install 'seqlens[server]'"
        )
    run(sys.argv[1:])
