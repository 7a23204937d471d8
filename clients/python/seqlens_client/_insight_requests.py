"""Requests to look inside a model, from what the caller gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from google.protobuf.message import Message

from seqlens_client._errors import invalid
from seqlens_client._influence import InfluenceTarget
from seqlens_client._operations import check_range, check_text
from seqlens_client._sequences import (
    ManySequences,
    OneSequence,
    Prepared,
    as_list,
    is_many,
    pack_group,
    prepare,
)
from seqlens_wire.pb import sequences_pb2 as pb

Positions = slice | range | tuple[int | None, int | None] | int
"""Positions of a sequence: a slice or range of step 1, (start, stop), or one position. Negative
ones of a slice, a tuple or a number count from the end."""

MapDatatype = Literal["float32", "float16", "uint8"]
Reduction = Literal["mean", "max"]
InfluenceMeasure = Literal["occlusion", "jacobian"]
M = TypeVar("M", bound=Message)

SAME_KIND = "all to be texts, or arrays of the same inputs, datatypes and number of axes"
DATATYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One sequence or several, all of which travel in one message."""

    group: list[Prepared]
    many: bool

    @property
    def indices(self) -> Sequence[int | None]:
        """What errors call the sequences: by their place, unless there is one alone."""
        return range(len(self.group)) if self.many else [None]


def read_asked(sequence: OneSequence | ManySequences) -> Asked:
    """Prepare what is looked at. Raises ``InvalidInput`` unless one message can hold it all."""
    sequence = as_list(sequence)
    if not is_many(sequence):
        return Asked([prepare(cast(OneSequence, sequence))], many=False)
    if not sequence:
        raise invalid("sequence", "an empty list", "at least one sequence")
    group = [prepare(each, index) for index, each in enumerate(sequence)]
    for index, prepared in enumerate(group):
        if prepared.form != group[0].form:
            expected = (
                "the same kind of sequence as the first: looked at in one call, all are texts, "
            )
            expected += "or all are arrays of the same inputs, datatypes and axes"
            raise invalid("sequence", "another kind", expected, index)
    return Asked(group, many=True)


def attention_request(
    model: str,
    asked: Asked,
    *,
    version: str = "",
    outputs: bool = False,
    measures: bool = False,
    share_positions: Sequence[int] | None = None,
    **selection: Any,
) -> pb.ExtractAttentionRequest:
    """The request of attention weights. Raises ``InvalidInput`` for what it cannot say."""
    if share_positions is not None and not measures:
        raise invalid("share_positions", "no measures", "measures=True beside them")
    return _message(
        pb.ExtractAttentionRequest,
        **_head(model, version, asked),
        selection=_selection(**selection),
        with_outputs=outputs,
        with_measures=measures,
        share_positions=_numbers("share_positions", share_positions),
    )


def _selection(
    *,
    sites: Sequence[str] | None = None,
    layers: Sequence[int] | int | None = None,
    heads: Sequence[int] | int | None = None,
    queries: Positions | None = None,
    keys: Positions | None = None,
    last_query: bool = False,
    top_k: int = 0,
    reduce_heads: Reduction | None = None,
    rollout: bool = False,
    dtype: MapDatatype = "float32",
) -> pb.AttentionSelection:
    if dtype not in DATATYPES:
        raise invalid("dtype", repr(dtype), "float32, float16 or uint8")
    check_range("top_k", top_k, least=0)
    query_start, query_stop = _span("queries", queries)
    key_start, key_stop = _span("keys", keys)
    return _message(
        pb.AttentionSelection,
        sites=_names("sites", sites),
        layers=_numbers("layers", layers),
        heads=_numbers("heads", heads),
        query_start=query_start,
        query_stop=query_stop,
        key_start=key_start,
        key_stop=key_stop,
        last_query=last_query,
        top_k=top_k,
        reduce_heads=reduce_heads or "",
        rollout=rollout,
        datatype=DATATYPES[dtype],
    )


def influence_request(
    model: str,
    version: str,
    asked: Asked,
    *,
    measures: Sequence[str],
    target: InfluenceTarget | str | int | None,
    output_positions: Sequence[int] | int | None,
    input_positions: Sequence[int] | int | None,
    replacements: int | None,
    replacement_tokens: Sequence[int] | None,
    directions: int | None,
    exact: bool,
    by_distance: bool,
) -> pb.MeasureInfluenceRequest:
    """The request of influence. Raises ``InvalidInput`` for what the protocol cannot say."""
    for name, number in (("replacements", replacements), ("directions", directions)):
        if number is not None:
            check_range(name, number, least=1)
    return _message(
        pb.MeasureInfluenceRequest,
        **_head(model, version, asked),
        measures=_names("measures", measures),
        target=_target(target),
        output_positions=_numbers("output_positions", output_positions),
        input_positions=_numbers("input_positions", input_positions),
        replacements=replacements,
        replacement_tokens=_numbers("replacement_tokens", replacement_tokens),
        directions=directions,
        exact=exact,
        by_distance=by_distance,
    )


def gates_request(
    model: str,
    version: str,
    asked: Asked,
    *,
    layers: Sequence[int] | int | None,
    quantiles: Sequence[float] | None,
    full: bool,
) -> pb.ReadGatesRequest:
    """The request of gates. Raises ``InvalidInput`` for what the protocol cannot say."""
    return _message(
        pb.ReadGatesRequest,
        **_head(model, version, asked),
        layers=_numbers("layers", layers),
        quantiles=quantiles,
        full=full,
    )


def _head(model: str, version: str, asked: Asked) -> Mapping[str, Any]:
    check_text("model", model)
    check_text("version", version)
    sequences = pack_group(asked.group)
    return {"model_name": model, "model_version": version, "sequences": sequences}


def _message(kind: type[M], **fields: Any) -> M:
    try:
        return kind(**fields)
    except (TypeError, ValueError):  # such as a fraction for a position, or a huge number
        for name, value in fields.items():
            _check_field(kind, name, value)
        raise


def _check_field(kind: type[Message], name: str, value: object) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        raise invalid(name, repr(value), f"what the protocol has room for: {error}") from None


def _span(name: str, positions: Positions | None) -> tuple[int | None, int | None]:
    """Start and stop, each None where it is open."""
    if positions is None:
        return None, None
    if isinstance(positions, tuple) and len(positions) == 2:
        return positions
    if isinstance(positions, slice) and positions.step in (None, 1):
        return positions.start, positions.stop
    if isinstance(positions, range) and positions.step == 1:
        return positions.start, positions.stop
    if isinstance(positions, (int, np.integer)):
        return positions, None if positions == -1 else positions + 1
    expected = "a slice or range of step 1, (start, stop), or one position"
    raise invalid(name, repr(positions), expected)


def _names(name: str, names: Sequence[str] | None) -> Sequence[str] | None:
    if isinstance(names, str):  # to Python a sequence as well: of its letters
        raise invalid(name, repr(names), f"a list of names: [{names!r}]")
    return names


def _numbers(name: str, numbers: Sequence[int] | int | None) -> Sequence[int] | None:
    if isinstance(numbers, (int, np.integer)):
        return [numbers]
    if numbers is not None and not len(numbers):
        raise invalid(name, "an empty list", "at least one number, or None for all")
    return numbers


def _target(target: InfluenceTarget | str | int | None) -> pb.InfluenceTarget | None:
    if target is None:
        return None
    if isinstance(target, str):
        return pb.InfluenceTarget(output=target)
    if isinstance(target, (int, np.integer)):
        return _message(pb.InfluenceTarget, class_index=target)
    return pb.InfluenceTarget(
        output=target.output,
        class_index=target.class_index,
        predicted_class=target.predicted_class,
    )
