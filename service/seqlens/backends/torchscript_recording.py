"""A run of a module recorded whole: every call that handles what derives from its inputs."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seqlens.backends.torchscript_calls import Call, tensors_in
from seqlens.backends.torchscript_runner import Runner, leaves
from seqlens.backends.torchscript_tracking import Nature, Stage
from seqlens.backends.torchscript_watch import Place, Wanted, Watch
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.trial import trial_inputs


@dataclass(frozen=True, slots=True)
class Record:
    """One call of a recorded run."""

    place: Place
    call: Call
    data: tuple[Tensor, ...]  # operands that derive from the run's inputs
    results: tuple[Tensor, ...]


class Recorder(Watch):
    """Remembers all of a run, and so keeps every tensor of it: for small runs only."""

    def __init__(self, rows: int, length: int) -> None:
        super().__init__(Wanted())
        self.rows, self.length = rows, length
        self.records: list[Record] = []
        self.stages: dict[Stage, Tensor] = {}
        self.outputs: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}

    def noted(self, place: Place, call: Call, result: Any, nature: Nature) -> None:
        """Keep the call."""
        data = tuple(t for t in call.tensors if self.tracking.is_data(t))
        if nature.weights is not None:
            self.stages.setdefault(nature.weights, next(tensors_in(result)).clone())
        super().noted(place, call, result, nature)
        if nature.data:
            self.records.append(Record(place, call, data, tuple(tensors_in(result))))

    def answered(self, result: Any) -> None:
        """Keep the answers."""
        self.outputs = leaves(result)

    @property
    def by_place(self) -> dict[Place, Record]:
        """The calls by their places."""
        return {record.place: record for record in self.records}


def record(runner: Runner, anatomy: ModelAnatomy, rows: int, length: int) -> Recorder:
    """Run once on trial inputs. Sizes that are frozen in the model win over those asked for."""
    inputs = trial_inputs(anatomy, rows, length)
    recorder = Recorder(anatomy.fixed_batch or rows, anatomy.fixed_length or length)
    runner.run(inputs, recorder)
    recorder.arguments = runner.arguments(inputs)
    return recorder
