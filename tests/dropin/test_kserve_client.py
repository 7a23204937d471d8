"""KServe's Python clients, in an environment of their own."""

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
def told(changing_server: RunningServer) -> Any:
    python = python_with("kserve")
    return run_script(python, "kserve_script.py", changing_server, CHANGING_MODEL, ROWS)


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    return reference("rnn", ROWS)


@pytest.mark.parametrize("wire", ["grpc", "rest"])
@pytest.mark.parametrize("form", ["typed", "raw"])
def test_answers_are_pytorchs(
    wire: str, form: str, told: Any, expected: NDArray[np.float32]
) -> None:
    answer = told[wire][form]
    assert answer["id"] == "k"
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("wire", ["grpc", "rest"])
def test_health(wire: str, told: Any) -> None:
    assert [told[wire][key] for key in ("live", "ready", "model ready")] == [True, True, True]


def test_errors(told: Any) -> None:
    assert not told["rest"]["unknown ready"]
    (code, details), (status, text) = told["grpc"]["error"], told["rest"]["error"]
    assert (code, status) == ("NOT_FOUND", 404)
    assert "model 'nowhere' is not in the repository" in details
    assert "model 'nowhere' is not in the repository" in text


def test_its_own_messages_load_and_unload(told: Any) -> None:
    control = told["control"]
    assert control["inputs"] == ["tokens", "lengths"]
    assert control["ready when unloaded"] is False
    assert control["ready when loaded"] is True
    # In its dialect answers would say so too; the protocol's are empty.
    assert control["says so"] == [False, False]
