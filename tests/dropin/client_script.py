"""Runs a script with a client's own Python, and reads the JSON that it prints."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import RunningServer
from tests.dropin.installing import HERE


def run_script(
    python: Path, script: str, server: RunningServer, model: str, rows: list[list[int]]
) -> Any:
    """What the script printed; its arguments are the addresses, the model and the rows."""
    done = subprocess.run(
        [python, HERE / script, server.rest, server.grpc, model, json.dumps(rows)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
