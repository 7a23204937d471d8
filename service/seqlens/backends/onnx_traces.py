"""From the tensors of a recurrent operator to traces of its layers, one for each direction."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from seqlens.backends.tapped import RecurrentTrace
from seqlens.graphs.recurrent_traces import RecurrentPlace
from seqlens.sequences import Array


def read_traces(
    places: Sequence[RecurrentPlace], found: Mapping[str, Array]
) -> tuple[RecurrentTrace, ...]:
    """The traces of all places, of ``found`` values by name."""
    return tuple(
        _trace(place, index, found) for place in places for index in range(len(place.directions))
    )


def _trace(place: RecurrentPlace, index: int, found: Mapping[str, Array]) -> RecurrentTrace:
    inputs, hidden = found[place.inputs], found[place.hidden][:, index]
    recurrent_weights = found[place.recurrent_weights][index].astype(np.float64)
    input_bias, recurrent_bias = _biases(place, index, found, len(recurrent_weights))
    cell_state = _state(found.get(place.initial_cell), index, hidden)
    peepholes = found.get(place.peephole_weights)
    return RecurrentTrace(
        name=place.name,
        layer=place.layer,
        cell=place.cell,
        reverse=place.directions[index],
        inputs=inputs.swapaxes(0, 1),
        hidden=hidden.swapaxes(0, 1),
        lengths=_lengths(found.get(place.lengths), inputs),
        input_weights=found[place.input_weights][index].astype(np.float64),
        recurrent_weights=recurrent_weights,
        input_bias=input_bias,
        recurrent_bias=recurrent_bias,
        initial_hidden=_state(found.get(place.initial_hidden), index, hidden),
        initial_cell=cell_state if place.cell == "lstm" else None,
        linear_before_reset=place.linear_before_reset,
        peephole_weights=None if peepholes is None else peepholes[index].astype(np.float64),
        activations=place.activations[index],
    )


def _biases(
    place: RecurrentPlace, index: int, found: Mapping[str, Array], size: int
) -> Iterator[Array]:
    """Input bias and recurrent bias, zeros where the operator has none."""
    both = found.get(place.biases)
    halves = np.zeros(2 * size) if both is None else both[index].astype(np.float64)
    return iter(np.split(halves, 2))


def _state(states: Array | None, index: int, hidden: Array) -> Array:
    """[batch, units]; zeros where the operator starts from nothing."""
    return np.zeros(hidden.shape[1:], hidden.dtype) if states is None else states[index]


def _lengths(lengths: Array | None, inputs: Array) -> tuple[int, ...]:
    steps, rows = inputs.shape[:2]
    return (steps,) * rows if lengths is None else tuple(int(one) for one in lengths)
