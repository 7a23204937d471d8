"""Gates of LSTM and GRU layers, as the caller sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqlens_client._influence import InsideSequence


@dataclass(frozen=True, slots=True, eq=False)
class GateReading:
    """One gate of one sequence, at the steps in the order of the sequence. All float32."""

    sequence: int  # place among those asked about
    gate: str  # input, forget, output, cell, forget_product; of GRU update, reset, new, ...
    mean: NDArray[np.float32]  # [steps]: over the units
    quantiles: NDArray[np.float32]  # [quantiles, steps]: over the units
    values: NDArray[np.float32] | None  # [steps, units], if asked for in full


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GateLayer:
    """The gates of one layer in one direction."""

    layer: int  # counted from 0 from the input
    name: str
    cell: str  # lstm or gru
    direction: str  # forward or reverse
    units: int
    recomputed_error: float  # hidden states made of these gates, to the model's own
    gates: tuple[GateReading, ...]
    sequences: tuple[InsideSequence, ...]  # in the order of the call

    def __repr__(self) -> str:
        kinds = sorted({each.gate for each in self.gates})
        return f"GateLayer({self.layer}, {self.cell} {self.direction}, {self.units} units, {kinds})"

    def gate(self, gate: str, sequence: int = 0) -> GateReading:
        """One gate of one sequence, by its place in the call.

        Raises ``ValueError`` for one that is not here.
        """
        for each in self.gates:
            if (each.gate, each.sequence) == (gate, sequence):
                return each
        here = ", ".join(sorted({each.gate for each in self.gates})) or "none"
        raise ValueError(f"gate: got {gate!r} of sequence {sequence}, expected one of {here}")

    def plot(self, sequence: int = 0, ax: Any = None) -> Any:
        """Draw the gates of one sequence, step by step, into matplotlib axes, and return them.

        Without ``ax`` a figure is made. Raises ``ImportError`` where matplotlib is needed for
        that and is not installed.
        """
        from seqlens_client._plotting import plot_gates

        return plot_gates(self, sequence, self.sequences[sequence].tokens, ax)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Gates:
    """Gates of all layers that were asked for."""

    layers: tuple[GateLayer, ...]
    quantiles: tuple[float, ...]  # that the readings have
    sequences: tuple[InsideSequence, ...]  # in the order of the call
    model_version: str  # the one that answered

    def __repr__(self) -> str:
        return f"Gates({list(self.layers)})"

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts of the positions of the first sequence; empty: no tokenizer."""
        return self.sequences[0].tokens

    def layer(self, layer: int, direction: str = "forward") -> GateLayer:
        """A layer in one direction; negative: from the end of those that are here.

        Raises ``ValueError`` for one that is not here.
        """
        numbers = sorted({each.layer for each in self.layers})
        number = numbers[layer] if -len(numbers) <= layer < 0 else layer
        for each in self.layers:
            if (each.layer, each.direction) == (number, direction):
                return each
        here = ", ".join(f"{each.layer} {each.direction}" for each in self.layers)
        raise ValueError(f"layer: got {layer} {direction}, expected one of {here}")
