"""Bodies of requests that look inside models, with the names of the messages over gRPC."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from seqlens.api.insight.requests import AttentionRequest, GateRequest, InfluenceRequest
from seqlens.api.insight.words import (
    DATATYPES,
    MEASURES,
    REDUCTIONS,
    once,
    read_datatype,
    read_measures,
    read_reduction,
)
from seqlens.api.message_bounds import check_tensor_names
from seqlens.api.requests import SequenceRequest, deadline_in
from seqlens.api.rest.asked import AskedSequences
from seqlens.attention.questions import GateQuestion, InfluenceQuestion, Target
from seqlens.attention.selection import AttentionSelection, Span
from seqlens.errors import SeqLensError

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]

FORMATS = ("json", "ndjson", "npz", "bertviz", "html")


def _one_of(words: Sequence[str]) -> msgspec.Meta:
    """What the document says of a word; what is wrong with it is said by whoever reads it."""
    return msgspec.Meta(extra_json_schema={"enum": list(words)})


class SelectionBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which attention weights. Negative layers and positions count from the end."""

    sites: tuple[str, ...] = ()
    layers: tuple[_Int32, ...] = ()
    heads: tuple[_Int32, ...] = ()
    query_start: _Int64 | None = None
    query_stop: _Int64 | None = None
    key_start: _Int64 | None = None
    key_stop: _Int64 | None = None
    last_query: bool = False
    top_k: _Uint32 = 0
    reduce_heads: Annotated[str, _one_of(REDUCTIONS)] = ""
    rollout: bool = False
    datatype: Annotated[str, _one_of(("", *DATATYPES))] = ""

    def read(self) -> AttentionSelection:
        """As a plain value. Raises ``InvalidRequest``."""
        check_tensor_names("selection.sites", self.sites)
        return AttentionSelection(
            sites=once(self.sites),
            layers=once(self.layers),
            heads=once(self.heads),
            queries=Span(self.query_start, self.query_stop),
            keys=Span(self.key_start, self.key_stop),
            last_query=self.last_query,
            top_k=self.top_k,
            reduce_heads=read_reduction(self.reduce_heads),
            rollout=self.rollout,
            datatype=read_datatype(self.datatype),
        )


class InsideBody(AskedSequences, forbid_unknown_fields=True):
    """What all these bodies have; ``format`` is that of the answer, before what is accepted."""

    format: Annotated[str, _one_of(("", *FORMATS))] = ""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None
    version: str = ""
    id: str = ""


class AttentionBody(InsideBody, forbid_unknown_fields=True):
    """Attention weights of some sequences."""

    selection: SelectionBody = msgspec.field(default_factory=SelectionBody)
    with_outputs: bool = False
    with_measures: bool = False
    share_positions: tuple[_Int64, ...] = ()

    def read(self, sequences: Sequence[SequenceRequest | SeqLensError]) -> AttentionRequest:
        """As a plain request. Raises ``InvalidRequest``."""
        return AttentionRequest(
            sequences=tuple(sequences),
            selection=self.selection.read(),
            with_outputs=self.with_outputs,
            with_measures=self.with_measures,
            share_positions=once(self.share_positions),
            deadline=deadline_in(self.timeout_seconds),
        )


class TargetBody(msgspec.Struct, forbid_unknown_fields=True):
    """What of the model's answer is looked at: an element of an output, or a vector's norm."""

    output: str = ""
    class_index: _Int64 | None = None
    predicted_class: bool = False


class InfluenceBody(InsideBody, forbid_unknown_fields=True):
    """How much answers depend on positions of some sequences."""

    measures: tuple[Annotated[str, _one_of(MEASURES)], ...] = ()
    target: TargetBody = msgspec.field(default_factory=TargetBody)
    output_positions: tuple[_Int64, ...] = ()
    input_positions: tuple[_Int64, ...] = ()
    replacements: _Uint32 = 0
    replacement_tokens: tuple[_Int64, ...] = ()
    directions: _Uint32 = 0
    exact: bool = False
    by_distance: bool = False

    def read(self, sequences: Sequence[SequenceRequest | SeqLensError]) -> InfluenceRequest:
        """As a plain request. Raises ``InvalidRequest``."""
        check_tensor_names("target.output", [self.target.output])
        default = InfluenceQuestion()
        question = InfluenceQuestion(
            measures=read_measures(self.measures),
            target=Target(self.target.output, self.target.class_index, self.target.predicted_class),
            output_positions=once(self.output_positions),
            input_positions=once(self.input_positions),
            replacements=self.replacements or default.replacements,
            replacement_tokens=once(self.replacement_tokens),
            directions=self.directions or default.directions,
            exact=self.exact,
            by_distance=self.by_distance,
        )
        return InfluenceRequest(tuple(sequences), question, deadline_in(self.timeout_seconds))


class GatesBody(InsideBody, forbid_unknown_fields=True):
    """Gates at the steps of some sequences."""

    layers: tuple[_Int32, ...] = ()
    quantiles: tuple[float, ...] = ()
    full: bool = False

    def read(self, sequences: Sequence[SequenceRequest | SeqLensError]) -> GateRequest:
        """As a plain request."""
        question = GateQuestion(
            layers=once(self.layers),
            quantiles=self.quantiles or GateQuestion().quantiles,
            full=self.full,
        )
        return GateRequest(tuple(sequences), question, deadline_in(self.timeout_seconds))
