"""The equations of RNN, LSTM and GRU, as ONNX states them: recomputed, and walked backward.

Float64 throughout. Steps stand in the order of computation here, so those of a reverse layer
begin with the last position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqlens.backends.tapped import RecurrentTrace
from seqlens.sequences import Array

Function = Callable[[Array], Array]


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))  # does not overflow


# Each with its derivative in terms of its own value.
_ACTIVATIONS: Mapping[str, tuple[Function, Function]] = {
    "sigmoid": (_sigmoid, lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y * y),
    "relu": (lambda x: np.maximum(x, 0), lambda y: (y > 0).astype(np.float64)),
}
_DEFAULTS = {"rnn": ("Tanh",), "lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh")}


@dataclass(frozen=True, slots=True)
class Steps:
    """One sequence in one layer, each array [steps, units]."""

    before: Array  # hidden state before each step
    hidden: Array  # and after it
    gates: Mapping[str, Array]  # input, output, forget, cell; update, reset, new; none of an RNN
    cell_before: Array | None = None  # LSTM only
    cell: Array | None = None
    recurrent_new: Array | None = None  # GRU only: what the reset gate multiplies, or has


@dataclass(frozen=True, slots=True)
class Adjoint:
    """Derivatives of some targets by what a step reads, each [targets, ...]."""

    inputs: Array
    hidden: Array
    cell: Array | None = None


def supported(trace: RecurrentTrace) -> bool:
    """Whether the layer's activations are among those known here."""
    return all(name.lower() in _ACTIVATIONS for name in trace.activations)


def recompute(trace: RecurrentTrace, row: int) -> Steps:
    """Run one row of the batch again from its inputs and its initial state."""
    inputs = np.asarray(trace.inputs[row, : trace.lengths[row]], np.float64)
    inputs = inputs[::-1] if trace.reverse else inputs
    hidden = np.asarray(trace.initial_hidden[row], np.float64)
    driven = inputs @ trace.input_weights.T + trace.input_bias
    return _RUNS[trace.cell](trace, driven, hidden, row)


def step_back(
    trace: RecurrentTrace, steps: Steps, step: int, hidden: Array, cell: Array | None
) -> Adjoint:
    """From derivatives by the state after a step [targets, units] to those by what it read."""
    return _BACKWARD[trace.cell](trace, steps, step, hidden, cell)


def _function(trace: RecurrentTrace, number: int) -> Function:
    return _ACTIVATIONS[(trace.activations or _DEFAULTS[trace.cell])[number].lower()][0]


def _slope(trace: RecurrentTrace, number: int, value: Array) -> Array:
    return _ACTIVATIONS[(trace.activations or _DEFAULTS[trace.cell])[number].lower()][1](value)


def _run_rnn(trace: RecurrentTrace, driven: Array, hidden: Array, row: int) -> Steps:
    activate = _function(trace, 0)
    states = [hidden]
    for drive in driven + trace.recurrent_bias:
        states.append(activate(drive + trace.recurrent_weights @ states[-1]))
    return Steps(_stack(states[:-1], hidden), _stack(states[1:], hidden), {})


def _run_lstm(trace: RecurrentTrace, driven: Array, hidden: Array, row: int) -> Steps:
    gate, candidate, output = (_function(trace, number) for number in range(3))
    peep_i, peep_o, peep_f = _peepholes(trace)
    initial = trace.initial_cell
    cell = np.zeros_like(hidden) if initial is None else np.asarray(initial[row], np.float64)
    states, cells, gates = [hidden], [cell], []
    for drive in driven + trace.recurrent_bias:
        i, o, f, c = np.split(drive + trace.recurrent_weights @ states[-1], 4)
        i, f = gate(i + peep_i * cells[-1]), gate(f + peep_f * cells[-1])
        c = candidate(c)
        cells.append(f * cells[-1] + i * c)
        o = gate(o + peep_o * cells[-1])
        states.append(o * output(cells[-1]))
        gates.append((i, o, f, c))
    names = ("input", "output", "forget", "cell")
    return Steps(
        _stack(states[:-1], hidden),
        _stack(states[1:], hidden),
        _by_name(names, gates, hidden),
        _stack(cells[:-1], hidden),
        _stack(cells[1:], hidden),
    )


def _run_gru(trace: RecurrentTrace, driven: Array, hidden: Array, row: int) -> Steps:
    gate, candidate = _function(trace, 0), _function(trace, 1)
    of_z, of_r, of_n = np.split(trace.recurrent_weights, 3)
    bias_z, bias_r, bias_n = np.split(trace.recurrent_bias, 3)
    states, gates, inner = [hidden], [], []
    for drive in driven:
        z, r, n = np.split(drive, 3)
        z, r = gate(z + of_z @ states[-1] + bias_z), gate(r + of_r @ states[-1] + bias_r)
        if trace.linear_before_reset:
            inner.append(of_n @ states[-1] + bias_n)
            n = candidate(n + r * inner[-1])
        else:
            inner.append(states[-1])
            n = candidate(n + of_n @ (r * inner[-1]) + bias_n)
        states.append((1 - z) * n + z * states[-1])
        gates.append((z, r, n))
    return Steps(
        _stack(states[:-1], hidden),
        _stack(states[1:], hidden),
        _by_name(("update", "reset", "new"), gates, hidden),
        recurrent_new=_stack(inner, hidden),
    )


def _back_rnn(
    trace: RecurrentTrace, steps: Steps, step: int, hidden: Array, cell: Array | None
) -> Adjoint:
    moved = hidden * _slope(trace, 0, steps.hidden[step])
    return Adjoint(moved @ trace.input_weights, moved @ trace.recurrent_weights)


def _back_lstm(
    trace: RecurrentTrace, steps: Steps, step: int, hidden: Array, cell: Array | None
) -> Adjoint:
    assert steps.cell is not None
    assert steps.cell_before is not None
    i, o, f, c = (steps.gates[name][step] for name in ("input", "output", "forget", "cell"))
    peep_i, peep_o, peep_f = _peepholes(trace)
    squashed = _function(trace, 2)(steps.cell[step])
    of_o = hidden * squashed * _slope(trace, 0, o)
    of_cell = hidden * o * _slope(trace, 2, squashed) + of_o * peep_o
    of_cell = of_cell if cell is None else of_cell + cell
    of_i = of_cell * c * _slope(trace, 0, i)
    of_f = of_cell * steps.cell_before[step] * _slope(trace, 0, f)
    of_c = of_cell * i * _slope(trace, 1, c)
    moved = np.concatenate([of_i, of_o, of_f, of_c], axis=1)
    before = of_cell * f + of_i * peep_i + of_f * peep_f
    return Adjoint(moved @ trace.input_weights, moved @ trace.recurrent_weights, before)


def _back_gru(
    trace: RecurrentTrace, steps: Steps, step: int, hidden: Array, cell: Array | None
) -> Adjoint:
    assert steps.recurrent_new is not None
    z, r, n = (steps.gates[name][step] for name in ("update", "reset", "new"))
    inner, units = steps.recurrent_new[step], len(z)
    of_gates, of_n = trace.recurrent_weights[: 2 * units], trace.recurrent_weights[2 * units :]
    of_z = hidden * (steps.before[step] - n) * _slope(trace, 0, z)
    of_new = hidden * (1 - z) * _slope(trace, 1, n)
    # What reaches the product of the reset gate and what it multiplies.
    product = of_new if trace.linear_before_reset else of_new @ of_n
    of_r = product * inner * _slope(trace, 0, r)
    through = product * r @ of_n if trace.linear_before_reset else product * r
    before = hidden * z + np.concatenate([of_z, of_r], axis=1) @ of_gates + through
    moved = np.concatenate([of_z, of_r, of_new], axis=1)
    return Adjoint(moved @ trace.input_weights, before)


def _peepholes(trace: RecurrentTrace) -> tuple[Array, Array, Array]:
    """Of input, output and forget gate."""
    if trace.peephole_weights is None:
        nothing = np.zeros(trace.recurrent_weights.shape[1])
        return nothing, nothing, nothing
    i, o, f = np.split(trace.peephole_weights, 3)
    return i, o, f


def _stack(states: list[Array], like: Array) -> Array:
    return np.stack(states) if states else np.zeros((0, *like.shape))


def _by_name(
    names: tuple[str, ...], gates: Sequence[tuple[Array, ...]], like: Array
) -> dict[str, Array]:
    return {name: _stack([one[k] for one in gates], like) for k, name in enumerate(names)}


_RUNS = {"rnn": _run_rnn, "lstm": _run_lstm, "gru": _run_gru}
_BACKWARD = {"rnn": _back_rnn, "lstm": _back_lstm, "gru": _back_gru}
