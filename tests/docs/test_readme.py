"""What the README shows works as it stands."""

from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_client_example_runs_against_a_server(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    example = README.split("```python\n")[1].split("```")[0]
    exec(compile(example.replace("127.0.0.1:8001", server.grpc), "README.md", "exec"), {})
    first, *others = capsys.readouterr().out.splitlines()
    label, length, seconds = first.split()
    assert (label, length) == ("kitten", "13")
    assert float(seconds) > 0
    assert [line.split(") ")[0] + ")" for line in others] == ["(40,)", "(40,)"]
