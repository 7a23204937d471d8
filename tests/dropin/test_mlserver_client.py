"""MLServer's client code, in an environment of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import RunningServer
from tests.dropin.client_script import run_script
from tests.dropin.conftest import CHANGING_MODEL
from tests.dropin.installing import python_with

from seqlens_zoo.weights import reference

# Installing it takes half a minute or more.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = [[5, 6, 7], [8, 9, 10]]


@pytest.fixture(scope="module")
def python() -> Path:
    return python_with("mlserver")


@pytest.fixture(scope="module")
def told(python: Path, changing_server: RunningServer) -> Any:
    return run_script(python, "mlserver_script.py", changing_server, CHANGING_MODEL, ROWS)


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    return reference("rnn", ROWS)


@pytest.mark.parametrize(("wire", "form"), [("grpc", "typed"), ("grpc", "raw"), ("rest", "typed")])
def test_answers_are_pytorchs(
    wire: str, form: str, told: Any, expected: NDArray[np.float32]
) -> None:
    answer = told[wire][form]
    assert answer["id"] == "m"
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)


def test_health_metadata_and_errors(told: Any) -> None:
    grpc, rest = told["grpc"], told["rest"]
    assert [grpc[key] for key in ("live", "ready", "model ready")] == [True, True, True]
    assert grpc["server"] == "seqlens"
    assert grpc["metadata"] == rest["inputs"] == ["tokens", "lengths"]
    status, text = rest["error"]
    assert status == 404
    assert "model 'nowhere' is not in the repository" in text


def test_models_are_loaded_and_unloaded(told: Any) -> None:
    assert told["grpc"]["control"] == {
        "models": [CHANGING_MODEL],
        "ready when unloaded": False,
        "ready when loaded": True,
    }


def test_where_its_copy_of_the_protocol_is_another_it_cannot_read_us(told: Any) -> None:
    grpc = told["grpc"]
    assert grpc["stream"] == "INTERNAL"
    assert grpc["own repository service"] == "UNIMPLEMENTED"


@pytest.mark.parametrize("options", [[], ["--binary-data"], ["--batch-size", "2"]])
def test_its_command_processes_a_file(
    options: list[str],
    python: Path,
    changing_server: RunningServer,
    expected: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    inputs = (
        {"name": "tokens", "shape": [1, len(row)], "datatype": "INT64", "data": row} for row in ROWS
    )
    lines = (json.dumps({"id": str(i), "inputs": [one]}) for i, one in enumerate(inputs))
    asked.write_text("\n".join(lines))
    command = [python.with_name("mlserver"), "infer", "-u", changing_server.rest, *options]
    files = ["-m", CHANGING_MODEL, "-i", str(asked), "-o", str(answered)]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    told = sorted(map(json.loads, answered.read_text().splitlines()), key=lambda one: one["id"])
    logits = [one["outputs"][0]["data"] for one in told]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
