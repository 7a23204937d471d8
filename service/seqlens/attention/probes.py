"""Runs of a tapped model on trial inputs of chosen sizes, for all of its sites at once."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from seqlens.attention.axes import LENGTH, ROWS
from seqlens.backends.padding import split_rows
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.errors import SeqLensError
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy
from seqlens.graphs.trial import trial_inputs
from seqlens.sequences import Array, InputSequence, Tensors


@dataclass(slots=True)
class SiteProbe:
    """The sites of a tapped model that still run; one that fails is left out with its reason.

    Raises what the model raises where it fails without any site.
    """

    tapped: TappedModel
    refused: dict[str, str] = field(default_factory=dict)  # by site

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the model."""
        return self.tapped.anatomy

    @property
    def names(self) -> tuple[str, ...]:
        """The sites that run."""
        return tuple(t.site.name for t in self.tapped.taps if t.site.name not in self.refused)

    def refuse(self, name: str, reason: str) -> None:
        """Leave a site out."""
        self.refused[name] = reason

    def look(self, inputs: Tensors) -> Seen:
        """Weights of all sites that run, from one run if that works."""
        try:
            return self.tapped.run(inputs, Look(sites=self.names))
        except SeqLensError:
            plain = self.tapped.run(inputs, Look())
        return Seen(plain.outputs, dict(self._one_by_one(inputs)))

    def at(self, sizes: Mapping[str, int]) -> Seen:
        """What a run at these sizes shows."""
        return self.look(inputs_of(self.anatomy, sizes))

    def runs(self, sizes: Mapping[str, int]) -> bool:
        """Whether the model runs at these sizes."""
        try:
            self.at(sizes)
        except SeqLensError:
            return False
        return True

    def _one_by_one(self, inputs: Tensors) -> Iterator[tuple[str, Array]]:
        for name in self.names:
            try:
                yield name, self.tapped.run(inputs, Look(sites=(name,))).weights[name]
            except SeqLensError as error:
                self.refuse(name, str(error))


def inputs_of(anatomy: ModelAnatomy, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Trial inputs of these sizes."""
    own = {name: size for name, size in sizes.items() if name not in (ROWS, LENGTH)}
    return trial_inputs(anatomy, sizes.get(ROWS, 1), sizes.get(LENGTH, 1), lengths=own)


def probe_sequences(
    anatomy: ModelAnatomy, sizes: Mapping[str, int], lengths: Iterable[int]
) -> list[InputSequence]:
    """One random sequence of each length; inputs with lengths of their own keep those."""
    shared = inputs_of(anatomy, {**sizes, ROWS: 1})
    sequences = []
    for number, length in enumerate(lengths):
        own = {name: size for name, size in sizes.items() if name not in (ROWS, LENGTH)}
        drawn = trial_inputs(anatomy, 1, length, seed=number + 1, lengths=own)
        inputs = {
            one.name: _row(one, drawn if one.batch_axis is not None else shared, length, own)
            for one in anatomy.inputs
            if not one.made_by_server and one.role is not InputRole.STATE
        }
        sequences.append(InputSequence(inputs, length))
    return sequences


def _row(one: InputAnatomy, values: Tensors, length: int, own: Mapping[str, int]) -> Array:
    array = values[one.name]
    if array.ndim == 0:
        return array
    times = () if one.time_axis is None else (one.time_axis,)
    row = split_rows(array, one.batch_axis, times, [array.shape[times[0]] if times else 0], -1)[0]
    return row[:length] if times and one.name not in own else row
