"""Recurrent layers at work: every stacked layer of an operator run again, one direction each.

An operator shows only what its last layer gives; the hidden states between are computed from its
operands, in float64. Weights go from PyTorch's order of gates (i f g o; r z n) to ONNX's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqlens.backends.tapped import RecurrentTrace
from seqlens.backends.torchscript_calls import Call, key_of
from seqlens.backends.torchscript_runner import as_array
from seqlens.graphs.anatomy import Cell, RecurrentLayer
from seqlens.graphs.torchscript_recurrence import LAYERS
from seqlens.sequences import Array

FLOAT_LAYERS = frozenset(name for name in LAYERS if "quantized" not in name)
_GATES: dict[Cell, tuple[int, ...]] = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
_RUN: dict[str, Callable[..., Any]] = {
    "aten::lstm": torch.lstm,
    "aten::gru": torch.gru,
    "aten::rnn_tanh": torch.rnn_tanh,
    "aten::rnn_relu": torch.rnn_relu,
}


@dataclass(frozen=True, slots=True)
class _Padded:
    """What goes into an operator, batch first, rows in the order of the batch."""

    steps: Tensor  # [batch, time, input], float64
    lengths: Tensor  # int64 [batch]
    rows: Tensor | None  # place among the packed rows of each row; None: as they are


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer in one direction and what goes into it, in float64."""

    call: Call
    name: str
    number: int
    reverse: bool
    steps: Tensor  # [batch, time, input]
    lengths: Tensor  # int64 [batch]
    states: list[Tensor]  # [batch, units]: hidden state and, of an LSTM, cell state
    weights: list[Tensor]

    def run(self) -> Tensor:
        """Hidden states after each step [batch, time, units], zero behind the end of a row."""
        places = torch.arange(self.steps.shape[1])[None].expand(len(self.steps), -1)
        real = places < self.lengths[:, None]
        # Each row is turned around by itself, so that a reverse layer starts at its own end.
        turned = torch.where(real, self.lengths[:, None] - 1 - places, places)
        steps = _rearranged(self.steps, turned) if self.reverse else self.steps
        initial = [state[None].contiguous() for state in self.states]
        hx = initial if self.call.name == "aten::lstm" else initial[0]
        biased = self.call.get("has_biases")
        run = _RUN[self.call.name]
        hidden = run(steps, hx, self.weights, biased, 1, 0.0, False, False, True)[0]
        hidden = _rearranged(hidden, turned) if self.reverse else hidden
        return hidden * real[..., None]

    def trace(self, hidden: Tensor) -> RecurrentTrace:
        """The layer in the conventions of ONNX, with the states that it went through."""
        cell = LAYERS[self.call.name]
        ordered = [as_array(_reordered(weight, cell)) for weight in self.weights]
        biases = ordered[2:] or [np.zeros(len(ordered[0]))] * 2
        return RecurrentTrace(
            name=self.name,
            layer=self.number,
            cell=cell,
            reverse=self.reverse,
            inputs=self._given(self.steps),
            hidden=self._given(hidden),
            lengths=tuple(self.lengths.tolist()),
            input_weights=ordered[0],
            recurrent_weights=ordered[1],
            input_bias=biases[0],
            recurrent_bias=biases[1],
            initial_hidden=self._given(self.states[0]),
            initial_cell=self._given(self.states[1]) if cell == "lstm" else None,
            activations=("Relu",) if self.call.name == "aten::rnn_relu" else (),
        )

    def _given(self, tensor: Tensor) -> Array:
        """In the type of the layer itself."""
        return as_array(tensor.to(self.call.get("params")[0].dtype))


def read_traces(
    calls: Sequence[Call], orders: dict[int, Tensor], known: Sequence[RecurrentLayer]
) -> tuple[RecurrentTrace, ...]:
    """The layers of these calls of LSTM, GRU and RNN operators, in order of execution.

    ``orders`` holds, by the batch sizes' memory, in what order rows were packed. Layers are named
    after ``known`` ones if these are as many. Projected LSTMs have no such form and are left out.
    """
    operators = [layer for layer in known if layer.operator in LAYERS]
    traces: list[RecurrentTrace] = []
    above = 0
    for number, call in enumerate(calls):
        cell = LAYERS[call.name]
        named = len(operators) == len(calls)
        name = operators[number].name if named else f"{cell}_{number}"
        if _weights_each(call) == 2 + 2 * call.get("has_biases"):
            traces += _operator(call, name, above, _padded(call, orders))
        above += call.get("num_layers")
    return tuple(traces)


def _weights_each(call: Call) -> int:
    parts: int = call.get("num_layers") * _directions(call)
    return len(call.get("params")) // parts


def _directions(call: Call) -> int:
    return 2 if call.get("bidirectional") else 1


def _padded(call: Call, orders: dict[int, Tensor]) -> _Padded:
    sizes = call.get("batch_sizes")
    if sizes is None:
        steps = _precise(call.get("input"))
        steps = steps if call.get("batch_first") else steps.transpose(0, 1)
        return _Padded(steps, torch.full((len(steps),), steps.shape[1]), None)
    steps, lengths = torch._VF._pad_packed_sequence(
        _precise(call.get("data")), sizes, True, 0.0, len(sizes)
    )
    order = orders.get(key_of(sizes)[1])
    if order is None:
        return _Padded(steps, lengths, None)
    rows = torch.argsort(order.cpu())
    return _Padded(steps[rows], lengths[rows], rows)


def _operator(call: Call, name: str, above: int, given: _Padded) -> list[RecurrentTrace]:
    traces: list[RecurrentTrace] = []
    steps = given.steps
    for number in range(call.get("num_layers")):
        hidden: list[Tensor] = []
        for direction in range(_directions(call)):
            layer = _Layer(
                call,
                _full_name(call, name, number, direction),
                above + number,
                direction == 1,
                steps,
                given.lengths,
                _states(call, number * _directions(call) + direction, given.rows),
                _weights(call, number * _directions(call) + direction),
            )
            hidden.append(layer.run())
            traces.append(layer.trace(hidden[-1]))
        steps = torch.cat(hidden, -1)
    return traces


def _full_name(call: Call, name: str, layer: int, direction: int) -> str:
    name += f".l{layer}" if call.get("num_layers") > 1 else ""
    return name + ("_reverse" if direction else "")


def _states(call: Call, index: int, rows: Tensor | None) -> list[Tensor]:
    hx = call.get("hx")
    states = [_precise(state[index]) for state in (hx if isinstance(hx, list | tuple) else [hx])]
    return states if rows is None else [state[rows] for state in states]


def _weights(call: Call, index: int) -> list[Tensor]:
    count = _weights_each(call)
    return [_precise(w) for w in call.get("params")[index * count : (index + 1) * count]]


def _precise(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _reordered(weight: Tensor, cell: Cell) -> Tensor:
    parts = weight.chunk(len(_GATES[cell]))
    return torch.cat([parts[index] for index in _GATES[cell]])


def _rearranged(steps: Tensor, places: Tensor) -> Tensor:
    return steps.gather(1, places[..., None].expand(-1, -1, steps.shape[2]))
