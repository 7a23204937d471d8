"""What the edges ask of ``Insight`` and get back: plain values without a wire format."""

from dataclasses import dataclass, field

from seqlens.api.requests import SequenceRequest
from seqlens.attention.questions import GateQuestion, InfluenceQuestion
from seqlens.attention.selection import AttentionSelection
from seqlens.attention.sites import Site
from seqlens.errors import SeqLensError

Asked = tuple[SequenceRequest | SeqLensError, ...]


@dataclass(frozen=True, slots=True)
class AttentionRequest:
    """Attention weights of some sequences."""

    sequences: Asked
    selection: AttentionSelection = field(default_factory=AttentionSelection)
    with_outputs: bool = False
    with_measures: bool = False
    share_positions: tuple[int, ...] = ()
    deadline: float | None = None  # seconds, monotonic clock


@dataclass(frozen=True, slots=True)
class InfluenceRequest:
    """How much answers depend on positions of some sequences."""

    sequences: Asked
    question: InfluenceQuestion = field(default_factory=InfluenceQuestion)
    deadline: float | None = None
    message_bytes: int | None = None  # the answer has to fit into a message of so many


@dataclass(frozen=True, slots=True)
class GateRequest:
    """Gates at the steps of some sequences."""

    sequences: Asked
    question: GateQuestion = field(default_factory=GateQuestion)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class InsideSequence:
    """What is told of one sequence asked about, beside what was looked for."""

    length: int
    tokens: tuple[str, ...] = ()  # texts of its positions; empty: no tokenizer
    error: SeqLensError | None = None  # nothing was looked at


@dataclass(frozen=True, slots=True)
class AttentionHeader:
    """What comes before the maps."""

    sequences: tuple[InsideSequence, ...]
    sites: tuple[Site, ...]
    predicted_bytes: int
