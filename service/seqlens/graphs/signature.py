"""A model's tensors as its user declares them, and how they are told apart from the file's own.

TorchScript files name their arguments, but no results, and tell no datatypes: there the
declared names, in whichever of the usual ways they are given, become the names of the model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seqlens.errors import ModelRejected
from seqlens.graphs.reading import FIRST_AXIS, GraphReading, TensorReading

_NUMBERED = re.compile(r".*__([0-9]{1,6})")
_FROM_INPUT = "input:"  # before the name of the input that a recurrent layer starts from


@dataclass(frozen=True, slots=True)
class StatedTensor:
    """An input or output as it is declared; None leaves what is found."""

    name: str
    datatype: str | None = None  # as on the wire
    shape: tuple[int, ...] | None = None  # whole, with the batch axis; -1: any size
    label_file: str = ""  # of an output: the file with the names of its classes


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs that are declared; none at all leaves those of the file."""

    inputs: tuple[StatedTensor, ...] = ()
    outputs: tuple[StatedTensor, ...] = ()
    batched: bool = False  # the first axis of every tensor is the batch
    source: str = "config.pbtxt"  # where it is declared, for errors

    def input(self, name: str) -> StatedTensor | None:
        """The declared input of this name."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)


def stated_names(
    own: Sequence[str], stated: Sequence[StatedTensor], source: str = "config.pbtxt"
) -> dict[str, str]:
    """What each of a file's own names is called, by those that are declared.

    A declared name is the file's own, or ends in ``__N`` and stands for the one at place N, or
    stands for the one at its own place, as the PyTorch backend of Triton has it. Raises
    ``ModelRejected`` for a place that is not there, or two names for one.
    """
    names: dict[str, str] = {}
    for place, tensor in enumerate(stated):
        name = _own_name(own, tensor.name, place)
        if name is None:
            known = ", ".join(own) or "none"
            raise ModelRejected(
                f"{source}: {tensor.name!r} stands for nothing in the file, which has {known}"
            )
        if name in names:
            raise ModelRejected(
                f"{source}: {names[name]!r} and {tensor.name!r} both stand for {name!r}"
            )
        names[name] = tensor.name
    return names


def _own_name(own: Sequence[str], name: str, place: int) -> str | None:
    if name in own:
        return name
    numbered = _NUMBERED.fullmatch(name)
    index = int(numbered[1]) if numbered else place
    return own[index] if index < len(own) else None


def as_stated(reading: GraphReading, signature: Signature) -> GraphReading:
    """The reading with declared names, and with datatypes and shapes where the file has none."""
    names = stated_names([i.name for i in reading.inputs], signature.inputs, signature.source)
    results = [o.name for o in reading.outputs]
    # Results that only a run can tell are not listed.
    called = stated_names(results, signature.outputs, signature.source) if results else {}
    return replace(
        reading,
        inputs=tuple(_input(one, names.get(one.name), signature) for one in reading.inputs),
        outputs=tuple(replace(o, name=called.get(o.name, o.name)) for o in reading.outputs),
        recurrent_layers=tuple(
            replace(layer, initial_state=_started_from(layer.initial_state, names))
            for layer in reading.recurrent_layers
        ),
    )


def _input(read: TensorReading, name: str | None, signature: Signature) -> TensorReading:
    stated = signature.input(name) if name is not None else None
    if stated is None:
        return read
    return replace(
        read,
        name=stated.name,
        datatype=stated.datatype or read.datatype,
        shape=read.shape if read.shape is not None else _axes(stated, signature.batched),
    )


def _axes(stated: StatedTensor, batched: bool) -> tuple[int | str | None, ...] | None:
    """Sizes as readings have them: the batch is one for all inputs, other free axes are apart."""
    if stated.shape is None:
        return None
    sizes: list[int | str | None] = [None if size < 0 else size for size in stated.shape]
    return tuple([FIRST_AXIS, *sizes[1:]] if batched and sizes else sizes)


def _started_from(state: str, names: dict[str, str]) -> str:
    own = state.removeprefix(_FROM_INPUT)
    return f"{_FROM_INPUT}{names.get(own, own)}" if state.startswith(_FROM_INPUT) else state
