"""Modules that sort their rows before they pack them: what is seen belongs to its own row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.backends.tapped_contract import Opened
from tests.backends.test_torchscript_opened import engine
from tests.support.torchscript_modules import CLASSES, HIDDEN, VOCABULARY, WIDTH, Recurrent
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqlens.attention.gates import read_gates
from seqlens.attention.questions import GateQuestion
from seqlens.backends.tapped import Look
from seqlens.backends.torchscript_tapped import TorchScriptTapped
from seqlens.sequences import InputSequence

ROWS = 30  # so many of one length are in no given order once they are sorted by it


class Sorting(nn.Module):
    """A GRU over rows sorted by length, a look back over its states, rows put back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = torch.sort(lengths, descending=True)
        x = self.embedding(tokens[order])
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True)
        y = pad_packed_sequence(self.layers(packed)[0], batch_first=True)[0]
        weights = torch.softmax(y @ y.transpose(1, 2), -1)
        return self.head(weights @ y)[torch.argsort(order)]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return Opened.of(engine(tmp_path, Sorting()))


def test_rows_are_seen_as_they_are_alone(opened: Opened) -> None:
    inputs = opened.inputs(ROWS, 6)
    everything = Look(opened.sites, embedding=True, hidden=True, recurrences=True)
    seen = opened.tapped.run(inputs, everything)
    np.testing.assert_allclose(
        seen.outputs["output_0"], opened.engine.run(inputs)["output_0"], atol=1e-6
    )
    (site,), (trace,) = opened.sites, seen.recurrences
    assert trace.lengths == (6,) * ROWS
    assert seen.embedding is not None
    assert seen.hidden is not None
    for row in range(ROWS):
        alone = opened.tapped.run({n: a[row : row + 1] for n, a in inputs.items()}, everything)
        np.testing.assert_array_equal(seen.embedding[row : row + 1], alone.embedding)
        np.testing.assert_array_equal(seen.hidden[row : row + 1], alone.hidden)
        np.testing.assert_array_equal(seen.weights[site][row : row + 1], alone.weights[site])
        np.testing.assert_array_equal(trace.hidden[row], alone.recurrences[0].hidden[0])


def test_rows_are_moved_and_differentiated_one_by_one(opened: Opened) -> None:
    """All rows are the same, as they are when influence is measured."""
    inputs = {n: np.repeat(a, ROWS, axis=0) for n, a in opened.inputs(1, 6).items()}
    seen = opened.tapped.run(inputs, Look(embedding=True))
    assert seen.embedding is not None
    delta = np.zeros_like(seen.embedding)
    delta[7, 2] = 0.5
    moved = opened.tapped.run(inputs, Look(delta=delta)).outputs["output_0"]
    changed = np.abs(moved - seen.outputs["output_0"]).max(axis=(1, 2)) > 1e-4
    assert np.flatnonzero(changed).tolist() == [7]
    weights = np.zeros_like(moved)
    weights[11, 3, 1] = 1
    gradient = opened.tapped.gradient(inputs, "output_0", weights)
    assert gradient is not None
    assert np.flatnonzero(np.abs(gradient).max(axis=(1, 2))).tolist() == [11]


def test_shorter_rows_are_filled_up(opened: Opened) -> None:
    inputs = opened.inputs(3, 6) | {"lengths": np.array([4, 6, 5])}
    seen = opened.tapped.run(inputs, Look(hidden=True))
    plain = opened.engine.run(inputs)["output_0"]
    real = np.arange(6)[None] < inputs["lengths"][:, None]
    assert seen.outputs["output_0"].shape == plain.shape
    assert seen.hidden is not None
    assert not seen.hidden[~real].any()


def test_gates_are_those_of_their_own_sequence(opened: Opened) -> None:
    random = np.random.default_rng(2)
    rows = [InputSequence({"tokens": random.integers(0, VOCABULARY, 6)}, 6) for _ in range(ROWS)]
    question = GateQuestion(full=True)
    (together,) = read_gates(opened.tapped, rows, question, together=True)
    (alone,) = read_gates(opened.tapped, rows, question, together=False)
    for one, other in zip(together.readings, alone.readings, strict=True):
        assert one.values is not None
        assert other.values is not None
        np.testing.assert_array_equal(one.values, other.values)


def test_torchs_own_packing_is_followed_in_one_run(tmp_path: Path) -> None:
    tapped = Opened.of(engine(tmp_path, Recurrent())).tapped
    assert isinstance(tapped, TorchScriptTapped)
    assert not tapped._findings.rearranged
