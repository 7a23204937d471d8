"""``python -m seqlens.cli``: the command, whatever is on the PATH."""

from seqlens.cli import main

main()
