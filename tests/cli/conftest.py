"""The command on a terminal of its own."""

import os
import pty
import subprocess
import sys
import termios


def on_a_terminal(*arguments: str, stream: str = "stdout") -> tuple[int, str]:
    """Exit code and output of the command where one of its streams is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 160))
    process = subprocess.Popen(
        [sys.executable, "-m", "seqlens.cli", *arguments],
        **{stream: theirs},
        env=os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the terminal's way to say that the last writer has left
        pass
    os.close(ours)
    return process.wait(), shown.decode()
