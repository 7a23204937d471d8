"""The command ``seqlens``."""

import os
import sys

# NumPy's libraries, which would otherwise take every core for a single product: those are the
# lanes', and two threads on a core that is taken were seen to be 30 times slower than one.
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def main() -> None:
    """Entry point of the command.

    The light installation has only the client: there the command says what is missing.
    """
    for name in _THREADS:  # read once, when NumPy is loaded
        os.environ.setdefault(name, "1")
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
