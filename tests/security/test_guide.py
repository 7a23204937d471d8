"""What the guide shows of clients works with a real server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import RunningServer
from tests.support.authority import KEY, Authority

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "security.md"


@pytest.fixture
def page(
    secured: RunningServer, ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The page, with the addresses of the server, in a folder with the files that it names."""
    certificate, key = ours.client
    for name, path in (("ca.pem", ours.ca), ("client.pem", certificate), ("client.key", key)):
        (tmp_path / name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    for port, address in ((8000, secured.rest), (8001, secured.grpc)):
        text = text.replace(f"models.example.com:{port}", address)
    return text


def test_clients_in_python(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    namespace = {"KEY": KEY}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), namespace)
    said = capsys.readouterr().out
    assert said.startswith("(40,)\n")
    assert said.count("tokens") == len(blocks) == 2


def test_commands_of_clients(page: str) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if "seqlens infer" in block)
    commands = re.sub(r"^\$ (export .*\n)?", "", block, flags=re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env=os.environ | {"PATH": path, "SEQLENS_TOKEN": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert '"input": "the kitten"' in run.stdout
    assert '"name":"lstm-onnx"' in run.stdout
