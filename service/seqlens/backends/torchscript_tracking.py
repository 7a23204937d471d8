"""Following attention weights through a run: from a softmax to the product that uses them.

A softmax is attention only when its result weighs something that derives from the run's inputs.
What derives from them is marked by the memory that it lies in. Addresses are reused, so the mark
of an address is decided anew with every result that lies there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from seqlens.backends.torchscript_calls import Call, Key, key_of, tensors_in
from seqlens.graphs.torchscript_operators import PRODUCTS, SHAPES_ONLY, SUMS, VIEWS

FUSED = frozenset(
    {
        "aten::scaled_dot_product_attention",
        "aten::_scaled_dot_product_attention_math",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_native_multi_head_attention",
        "aten::_transformer_encoder_layer_fwd",
    }
)
_GUARDS = frozenset({"aten::masked_fill", "aten::where", "aten::nan_to_num"})
_KEEPS_TOTAL = frozenset(
    {"aten::add", "aten::clamp", "aten::clamp_min", "aten::maximum", "aten::expand_as"}
)
_ADDED = frozenset({"aten::addmm", "aten::baddbmm"})  # their first operand is only added


@dataclass(frozen=True, slots=True)
class Stage:
    """A candidate's weights: 0 as they come, 1 behind the first guard against padding, ..."""

    candidate: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Nature:
    """What is known of the elements in some memory."""

    data: bool = False  # they derive from the run's inputs
    weights: Stage | None = None  # they are weights, perhaps moved or cast
    weighed: Stage | None = None  # they are values times these weights, not yet summed
    exponential: int | None = None  # number of the exponential that they are
    total: int | None = None  # number of the exponential that they are the sum of
    logsum_of: Key | None = None  # they are the logarithm of summed exponentials of what lies there
    logarithm: bool = False  # of a softmax


NOTHING, DATA = Nature(), Nature(data=True)


@dataclass(slots=True)
class Candidate:
    """Something that may prove to be attention weights before the run ends."""

    operator: str
    fused: bool
    used: int | None = None  # the stage in which they first weighed something; None: never


class Tracking:
    """What the memory of one run holds."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._natures: dict[Key, Nature] = {}
        self._exponentials = 0
        self._rules: dict[str, Callable[[Call, Tensor], Nature]] = {
            "aten::softmax": self._softmax,
            "aten::_softmax": self._softmax,
            "aten::_safe_softmax": self._softmax,
            "aten::log_softmax": self._log_softmax,
            "aten::_log_softmax": self._log_softmax,
            "aten::logsumexp": self._logsumexp,
            "aten::sub": self._sub,
            "aten::exp": self._exp,
            "aten::div": self._div,
            "aten::mul": self._mul,
            **dict.fromkeys(VIEWS | {"aten::_to_copy", "aten::lift_fresh"}, self._same),
            **dict.fromkeys(_GUARDS, self._guard),
            **dict.fromkeys(PRODUCTS, self._product),
            **dict.fromkeys(SUMS | {"aten::mean"}, self._sum),
            **dict.fromkeys(_KEEPS_TOTAL, self._shift),
            **dict.fromkeys(FUSED, self._fused),
        }

    def begin(self, tensors: Iterable[Tensor]) -> None:
        """Mark the run's inputs."""
        for tensor in tensors:
            self._natures[key_of(tensor)] = DATA

    def is_data(self, tensor: Tensor) -> bool:
        """Whether it derives from the run's inputs."""
        return self._of(tensor).data

    def judge(self, call: Call, result: object) -> Nature:
        """What the result of a call is."""
        if call.name in SHAPES_ONLY:
            return NOTHING
        if not any(self._of(tensor).data for tensor in call.tensors):
            return NOTHING
        rule = self._rules.get(call.name)
        first = next(tensors_in(result), None)
        return DATA if rule is None or first is None else rule(call, first)

    def note(self, call: Call, result: object, nature: Nature) -> None:
        """Remember what the result is."""
        if nature.weights is not None and self.candidates[nature.weights.candidate].fused:
            nature = DATA  # what the kernel gives is made with its weights
        # A view that no rule knows keeps what was known of the memory that it looks at.
        own = set() if call.operator.writes else {key_of(t) for t in call.tensors}
        for tensor in tensors_in(result):
            if (key := key_of(tensor)) not in own or key not in self._natures:
                self._natures[key] = nature

    def _of(self, tensor: Tensor) -> Nature:
        return self._natures.get(key_of(tensor), NOTHING)

    def _candidate(self, call: Call, result: Tensor, fused: bool = False) -> Nature:
        self.candidates.append(Candidate(call.name, fused))
        return Nature(True, weights=Stage(len(self.candidates) - 1))

    def _softmax(self, call: Call, result: Tensor) -> Nature:
        return self._candidate(call, result)

    def _log_softmax(self, call: Call, result: Tensor) -> Nature:
        return Nature(True, logarithm=True)

    def _exp(self, call: Call, result: Tensor) -> Nature:
        if self._of(call.tensors[0]).logarithm:
            return self._candidate(call, result)
        return self._exponential()

    def _logsumexp(self, call: Call, result: Tensor) -> Nature:
        return Nature(True, logsum_of=key_of(call.tensors[0]))

    def _sub(self, call: Call, result: Tensor) -> Nature:
        above, *below = call.tensors
        return (
            Nature(True, logarithm=self._of(below[0]).logsum_of == key_of(above)) if below else DATA
        )

    def _exponential(self) -> Nature:
        self._exponentials += 1
        return Nature(True, exponential=self._exponentials)

    def _sum(self, call: Call, result: Tensor) -> Nature:
        nature = self._of(call.tensors[0])
        if nature.weighed is not None:
            self._use(nature.weighed)
        return Nature(True, total=nature.exponential)

    def _shift(self, call: Call, result: Tensor) -> Nature:
        return Nature(True, total=self._of(call.tensors[0]).total)

    def _div(self, call: Call, result: Tensor) -> Nature:
        above, *below = (self._of(tensor) for tensor in call.tensors)
        if above.exponential is not None and below and below[0].total == above.exponential:
            return self._candidate(call, result)
        return self._guard(call, result)

    def _same(self, call: Call, result: Tensor) -> Nature:
        nature = self._of(call.tensors[0])
        return nature if nature.data else DATA

    def _guard(self, call: Call, result: Tensor) -> Nature:
        """Weights with some hidden, or scaled: the next stage of the same weights.

        Exponentials with some hidden are others: what they are divided by has to be their own sum.
        """
        for tensor in call.tensors:
            nature, alike = self._of(tensor), result.shape == tensor.shape
            if nature.weights is not None:
                stage = nature.weights
                return Nature(True, weights=Stage(stage.candidate, stage.number + alike))
            if nature.exponential is not None and alike:
                return self._exponential()
        return DATA

    def _mul(self, call: Call, result: Tensor) -> Nature:
        for tensor, other in _pairs(call.tensors[:2]):
            stage = self._of(tensor).weights
            if stage is not None and self._weighs(stage, other) and result.shape != tensor.shape:
                return Nature(True, weighed=stage)
        return self._guard(call, result)

    def _product(self, call: Call, result: Tensor) -> Nature:
        operands = call.tensors[1:] if call.name in _ADDED else call.tensors
        for tensor, other in _pairs(operands[:2]):
            stage = self._of(tensor).weights
            if stage is not None and self._weighs(stage, other):
                self._use(stage)
        return DATA

    def _fused(self, call: Call, result: Tensor) -> Nature:
        nature = self._candidate(call, result, fused=True)
        assert nature.weights is not None
        self._use(nature.weights)
        return nature

    def _weighs(self, stage: Stage, other: Tensor) -> bool:
        nature = self._of(other)
        own = nature.weights is not None and nature.weights.candidate == stage.candidate
        return nature.data and not own

    def _use(self, stage: Stage) -> None:
        candidate = self.candidates[stage.candidate]
        if candidate.used is None:
            candidate.used = stage.number


def _pairs(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(tensors[0], tensors[1]), (tensors[1], tensors[0])] if len(tensors) == 2 else []
