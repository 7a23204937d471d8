"""A model opened up: what a backend offers to those who want to look inside, in plain data.

A tapped model stands beside the serving engine and never touches it. Everything here is in the
graph's own layout, whole batch and padding included: what the axes of a tensor mean is found by
probing, in ``seqlens.attention``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from seqlens.graphs.anatomy import Cell, ModelAnatomy, Tap, Untapped
from seqlens.sequences import Array, Tensors

__all__ = ["Look", "RecurrentTrace", "Seen", "Tap", "TappedModel", "Untapped"]


@dataclass(frozen=True, slots=True)
class Look:
    """What to look at in one run, and what to change in it."""

    sites: tuple[str, ...] = ()  # names of taps whose weights are wanted
    embedding: bool = False
    hidden: bool = False
    recurrences: bool = False
    replaced: Mapping[str, Array] = field(default_factory=dict)  # by tap: weights put in instead
    delta: Array | None = None  # added to the embedding, of its shape and datatype


@dataclass(frozen=True, slots=True)
class RecurrentTrace:
    """One layer in one direction at work, in the conventions of ONNX's RNN, LSTM and GRU.

    Steps of a reverse layer stand in the order of the sequence, not of the computation. Weights
    are float64 and constant: gates in ONNX's order, i o f c for an LSTM, z r h for a GRU.
    """

    name: str
    layer: int  # counted from 0 from the input
    cell: Cell
    reverse: bool
    inputs: Array  # [batch, time, input]
    hidden: Array  # [batch, time, units]: after each step
    lengths: tuple[int, ...]  # steps that the layer ran for each row
    input_weights: Array  # W [gates * units, input]
    recurrent_weights: Array  # R [gates * units, units]
    input_bias: Array  # [gates * units]
    recurrent_bias: Array  # [gates * units]
    initial_hidden: Array  # [batch, units]
    initial_cell: Array | None = None  # [batch, units], LSTM only
    linear_before_reset: bool = True  # GRU only; PyTorch's form
    peephole_weights: Array | None = None  # P [3 * units] for i o f, LSTM only
    activations: tuple[str, ...] = ()  # as in ONNX; empty: the defaults of the cell


@dataclass(frozen=True, slots=True)
class Seen:
    """What one run showed; only what was looked at is there."""

    outputs: dict[str, Array]  # the plain ones, as ``Engine.run`` gives them
    weights: dict[str, Array] = field(default_factory=dict)  # by tap
    embedding: Array | None = None  # vectors of the positions before anything mixes them
    hidden: Array | None = None  # last tensor with one vector a position that the outputs use
    recurrences: tuple[RecurrentTrace, ...] = ()  # in order of execution


@runtime_checkable
class TappedModel(Protocol):
    """One model, opened up. Methods may be called from any thread, by several at once."""

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the graph as it is served."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What can be tapped, in order of execution."""

    @property
    def untapped(self) -> tuple[Untapped, ...]:
        """What was found and cannot be tapped."""

    def run(self, inputs: Tensors, look: Look) -> Seen:
        """Run the model once and look inside.

        ``inputs`` are as for ``Engine.run``. Raises ``BackendFailed`` when the model refuses,
        ``NotInModel`` for what this model does not have: a site, an embedding (features are
        their own), hidden vectors, a tap that cannot be replaced.
        """

    def product_error(self, inputs: Tensors, site: str) -> float | None:
        """Largest difference of weights times values to the output of the site's own kernel.

        None where the weights are the model's own tensor, so that there is nothing to compare.
        """

    def gradient(self, inputs: Tensors, output: str, weights: Array) -> Array | None:
        """Derivative of ``sum(weights * output)`` by the embedding, exact, of its shape.

        ``output`` is an output's name or ``"hidden"``. None where the backend has no autograd.
        """

    def close(self) -> None:
        """Free what it holds. It is not used afterwards."""
