"""What all clients are asked: sequences of several lengths, padded, with their lengths."""

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import RunningServer, serving

from seqlens_zoo.antecedent import VOCABULARY
from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.weights import reference

CHANGING_MODEL = "rnn-onnx"


@pytest.fixture(scope="session")
def rest(server: RunningServer) -> str:
    """Address of the shared server for REST."""
    return server.rest


@pytest.fixture(scope="session")
def changing_server(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server of CHANGING_MODEL alone, for tests that unload it and set what can be set.

    They leave it as they found it. Its traces go to ``traces.json`` beside its log.
    """
    models, folder = tmp_path_factory.mktemp("one-model"), tmp_path_factory.mktemp("changing")
    copytree(repository / CHANGING_MODEL, models / CHANGING_MODEL)
    with serving(models, folder, "--trace-file", str(folder / "traces.json")) as running:
        yield running


@pytest.fixture(scope="session")
def sequences() -> list[list[int]]:
    """Sequences of several lengths, as token ids."""
    random = np.random.default_rng(5)
    return [random.integers(2, len(VOCABULARY), length).tolist() for length in (21, 1, 64, 7)]


@pytest.fixture(scope="session")
def tokens(sequences: list[list[int]]) -> NDArray[np.int64]:
    """The sequences as rows [batch, longest], filled up with a real word that must not matter."""
    batch = np.full((len(sequences), max(map(len, sequences))), 5, np.int64)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


@pytest.fixture(scope="session")
def lengths(sequences: list[list[int]]) -> NDArray[np.int64]:
    """Their lengths, shape [batch]."""
    return np.array([len(sequence) for sequence in sequences])


@pytest.fixture(scope="session")
def expected(sequences: list[list[int]]) -> dict[str, NDArray[np.float32]]:
    """PyTorch's answers to them, shape [batch, classes], by architecture."""
    return {body: reference(body, sequences) for body in BODY_NAMES}
