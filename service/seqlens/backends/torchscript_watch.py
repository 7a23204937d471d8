"""A dispatch mode that looks into one run of a module, and changes it where it is told to.

It works on the calling thread alone and keeps nothing in the module. Under inference mode it is
shown whole operators (a softmax, an LSTM) just as TorchScript calls them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqlens.backends.torchscript_calls import Call, OperatorMode, key_of, operator_of, tensors_in
from seqlens.backends.torchscript_kernels import difference, recomputed
from seqlens.backends.torchscript_tracking import Nature, Stage, Tracking
from seqlens.errors import BackendFailed
from seqlens.sequences import Array


@dataclass(frozen=True, slots=True)
class Place:
    """A call in the order of a run: the so-manieth of this operator, counted from 0."""

    operator: str
    occurrence: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look at and what to change in one run."""

    weights: frozenset[Stage] = frozenset()
    period: int | None = None  # candidates so far apart are one and the same, in a loop
    replaced: Mapping[Stage, Array] = field(default_factory=dict)
    checked: Stage | None = None  # a fused kernel whose output is to be compared
    embedding: Place | None = None
    features: str | None = None  # an argument that is its own embedding
    delta: Array | None = None  # added to the embedding
    hidden: Place | None = None
    recurrences: frozenset[str] = frozenset()  # operators whose calls are kept


class Watch(OperatorMode):
    """Looks into one run; made anew for each."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self.tracking = Tracking()
        self.weights: dict[Stage, list[Tensor]] = defaultdict(list)  # of each step of a loop
        self.embedding: Tensor | None = None
        self.hidden: Tensor | None = None
        self.product_error: float | None = None
        self.layers: list[Call] = []  # of recurrent operators
        self.orders: dict[int, Tensor] = {}  # of packed rows, by the batch sizes' memory
        self._wanted = wanted
        self._counts: Counter[str] = Counter()
        self._reached: set[Stage] = set()
        self._selected: list[tuple[Tensor, Tensor]] = []
        self._keys: tuple[Any, Any] | None = None

    @contextmanager
    def over(self, arguments: dict[str, Any]) -> Iterator[None]:
        """Watch what is called inside of it; see ``torchscript_runner.Watch``."""
        if (features := self._wanted.features) is not None:
            arguments[features] = self._at_embedding(arguments[features])
        self.tracking.begin(tensors_in(arguments))
        dispatch = torch._C
        self._keys = (
            dispatch._dispatch_tls_local_include_set(),
            dispatch._dispatch_tls_local_exclude_set(),
        )
        with self:
            yield

    def answered(self, result: Any) -> None:
        """Nothing is read from answers here."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the operator and look at what it gives."""
        kwargs = kwargs or {}
        operator = operator_of(func)
        call = Call(operator, operator.named(args, kwargs))
        if operator.writes:
            self._keep_captured(call)
        if operator.composite and self._keys is not None:
            # Torch hands composite operators over with views of parameters no longer marked as
            # such, and then chooses other kernels inside (matmul folds its batch or does not).
            # Calling them as if nobody watched keeps answers the same to the bit.
            with torch._C._ForceDispatchKeyGuard(*self._keys):
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        return self._looked(call, result)

    def _looked(self, call: Call, result: Any) -> Any:
        place = Place(call.name, self._counts[call.name])
        self._counts[call.name] += 1
        nature = self.tracking.judge(call, result)
        if nature.weights is not None:
            result = self._at_weights(call, nature.weights, result)
        if place == self._wanted.embedding:
            result = self._at_embedding(result)
        if place == self._wanted.hidden:
            self.hidden = next(tensors_in(result))
        if self._wanted.recurrences:
            self._at_layers(call, result)
        self.noted(place, call, result, nature)
        return result

    def noted(self, place: Place, call: Call, result: Any, nature: Nature) -> None:
        """Remember what a result is."""
        self.tracking.note(call, result, nature)

    def _at_weights(self, call: Call, stage: Stage, result: Any) -> Any:
        fused = self.tracking.candidates[stage.candidate].fused
        if stage in self._reached:
            return result  # a view of what was met before
        self._reached.add(stage)
        if self._wanted.period is not None:
            stage = Stage(stage.candidate % self._wanted.period, stage.number)
        if fused and (stage in self._wanted.weights or stage == self._wanted.checked):
            self._at_kernel(call, stage, result)
        elif stage in self._wanted.replaced:
            if fused:
                raise BackendFailed("weights of a fused kernel cannot be replaced")
            given = self._like(self._wanted.replaced[stage], result)
            result = result.copy_(given) if call.operator.writes else given
            self.weights[stage].append(result)
        elif stage in self._wanted.weights:
            self.weights[stage].append(result)
        return result

    def _at_kernel(self, call: Call, stage: Stage, result: Any) -> None:
        again = recomputed(call)
        self.weights[stage].append(again.weights)
        if stage == self._wanted.checked:
            error = difference(next(tensors_in(result)), again.product)
            self.product_error = max(error, self.product_error or 0.0)

    def _at_embedding(self, result: Tensor) -> Tensor:
        self.embedding = result
        delta = self._wanted.delta
        return result if delta is None else result + self._like(delta, result)

    def _at_layers(self, call: Call, result: Any) -> None:
        if call.name in self._wanted.recurrences:
            self.layers.append(call)
        elif call.name == "aten::index_select":
            self._selected.append((result, call.get("index")))
        elif call.name == "aten::_pack_padded_sequence":
            for chosen, index in self._selected:
                if chosen is call.get("input"):
                    self.orders[key_of(result[1])[1]] = index

    def _keep_captured(self, call: Call) -> None:
        """Copy what was captured before an operator writes over it."""
        keys = {key_of(tensor) for tensor in call.tensors}
        for kept in self.weights.values():
            kept[:] = [each.clone() if key_of(each) in keys else each for each in kept]
        if self.embedding is not None and key_of(self.embedding) in keys:
            self.embedding = self.embedding.clone()
        if self.hidden is not None and key_of(self.hidden) in keys:
            self.hidden = self.hidden.clone()

    def _like(self, array: Array, tensor: Tensor) -> Tensor:
        if array.shape != tuple(tensor.shape):
            raise BackendFailed(
                f"shape {list(array.shape)} was given for a tensor of shape {list(tensor.shape)}"
            )
        return torch.tensor(array).to(tensor.device, tensor.dtype)
