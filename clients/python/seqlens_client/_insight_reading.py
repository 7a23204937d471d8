"""Answers of calls that look inside, read message by message. Free of I/O, for both clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from seqlens_client._answers import Outcome, read_answers
from seqlens_client._attention import AttentionMap, SiteMap
from seqlens_client._attention_pieces import merge
from seqlens_client._descriptions import AttentionSite, read_site
from seqlens_client._errors import SeqLensError, error_of_sequence, unreadable_answer
from seqlens_client._gates import GateLayer, GateReading, Gates
from seqlens_client._influence import (
    Influence,
    InfluenceByDistance,
    InfluenceMap,
    InfluenceTarget,
    InsideSequence,
)
from seqlens_client._insight_requests import Asked
from seqlens_wire.datatypes import Array
from seqlens_wire.pb import sequences_pb2 as pb

T_co = TypeVar("T_co", covariant=True)
Indices = Sequence[int | None]


class Reader(Protocol[T_co]):
    """Takes the messages of one answer as they come."""

    def take(self, message: Any) -> object:
        """Read one message."""

    def finish(self) -> T_co:
        """What the messages told together. Raises ``ServerError`` if something is missing."""


def read_sequences(
    messages: Sequence[pb.InsideSequence], indices: Indices, *, return_errors: bool
) -> tuple[InsideSequence, ...]:
    """The sequences that were looked at. Raises the first error unless errors are returned."""
    if len(messages) != len(indices):
        raise unreadable_answer(f"it tells of {len(messages)} sequences, not of {len(indices)}")
    sequences = tuple(map(_read_sequence, messages, indices))
    for sequence in sequences:
        if sequence.error is not None and not return_errors:
            raise sequence.error
    return sequences


def _read_sequence(message: pb.InsideSequence, index: int | None) -> InsideSequence:
    error = error_of_sequence(message.error, index) if message.HasField("error") else None
    return InsideSequence(message.length, tuple(message.tokens), error)


class AttentionReader:
    """Reads a stream of attention weights; ``finish`` gives a map or an error of each.

    Pieces of a site follow each other, so its maps are whole when another site begins.
    """

    def __init__(self, asked: Asked, *, return_errors: bool, keep_maps: bool = True) -> None:
        self._asked, self._return_errors, self._keep_maps = asked, return_errors, keep_maps
        self._indices = asked.indices
        self._version = ""
        self._sequences: tuple[InsideSequence, ...] | None = None
        self._site: AttentionSite | None = None
        self._pieces: dict[int, list[pb.AttentionMap]] = {}
        self._maps: list[SiteMap] = []
        self._answers: list[Outcome] | None = None

    def take(self, message: pb.ExtractAttentionResponse) -> list[SiteMap]:
        """Read one message; the maps of a site that is whole with it."""
        kind = message.WhichOneof("message")
        if (kind == "header") != (self._sequences is None):
            raise unreadable_answer(f"{kind} is not what comes next")
        if kind == "header":
            header = message.header
            self._version = header.model_version
            self._sequences = read_sequences(
                header.sequences, self._indices, return_errors=self._return_errors
            )
        elif kind == "layer":
            return self._take_layer(message.layer)
        elif kind == "answers":
            self._answers = read_answers(message.answers, self._version, self._indices)
        return []

    def _take_layer(self, layer: pb.AttentionLayer) -> list[SiteMap]:
        site = read_site(layer.site)
        whole = []
        if site != self._site:
            whole, self._site = self._whole(), site
        for piece in layer.maps:
            if not 0 <= piece.sequence < len(self._indices):
                raise unreadable_answer(f"a map of sequence {piece.sequence}, which nobody gave")
            self._pieces.setdefault(piece.sequence, []).append(piece)
        return whole

    def _whole(self) -> list[SiteMap]:
        """The maps of the site whose pieces are all here."""
        pieces, self._pieces = self._pieces, {}
        if self._site is None or self._sequences is None:
            return []
        whole = [merge(self._site, self._sequences[i], pieces[i]) for i in sorted(pieces)]
        if self._keep_maps:
            self._maps += whole
        return whole

    def rest(self) -> list[SiteMap]:
        """The maps of the last site, when no message follows."""
        if self._sequences is None:
            raise unreadable_answer("it ends before it has begun")
        return self._whole()

    def finish(self) -> AttentionMap | SeqLensError | list[AttentionMap | SeqLensError]:
        """A map, or an error, of each sequence; without a list around that of one alone."""
        self.rest()
        outcomes = [self._outcome(*each) for each in enumerate(self._sequences or ())]
        return outcomes if self._asked.many else outcomes[0]

    def _outcome(self, index: int, sequence: InsideSequence) -> AttentionMap | SeqLensError:
        answer = self._answers[index] if self._answers is not None else None
        error = sequence.error or (answer if isinstance(answer, SeqLensError) else None)
        if error is not None:
            if self._return_errors:
                return error
            raise error
        return AttentionMap(
            maps=tuple(each for each in self._maps if each.sequence == index),
            tokens=sequence.tokens,
            length=sequence.length,
            result=None if isinstance(answer, SeqLensError) else answer,
            model_version=self._version,
        )


class GateReader:
    """Reads a stream of gates."""

    def __init__(self, asked: Asked, *, return_errors: bool) -> None:
        self._indices, self._return_errors = asked.indices, return_errors
        self._header: pb.GateHeader | None = None
        self._sequences: tuple[InsideSequence, ...] = ()
        self._layers: list[GateLayer] = []

    def take(self, message: pb.ReadGatesResponse) -> None:
        """Read one message."""
        kind = message.WhichOneof("message")
        if (kind == "header") != (self._header is None):
            raise unreadable_answer(f"{kind} is not what comes next")
        if kind == "header":
            self._header = message.header
            self._sequences = read_sequences(
                message.header.sequences, self._indices, return_errors=self._return_errors
            )
        elif kind == "layer":
            self._take_layer(self._layer(message.layer))

    def _take_layer(self, part: GateLayer) -> None:
        """Add a layer, or what a message had no room for to the one before."""
        last = self._layers[-1] if self._layers else None
        if last is None or (last.layer, last.direction) != (part.layer, part.direction):
            self._layers.append(part)
        else:
            self._layers[-1] = replace(last, gates=(*last.gates, *part.gates))

    def _layer(self, layer: pb.GateLayer) -> GateLayer:
        return GateLayer(
            layer=layer.layer,
            name=layer.name,
            cell=layer.cell,
            direction=layer.direction,
            units=layer.units,
            recomputed_error=layer.recomputed_error,
            gates=tuple(self._reading(each, layer.units) for each in layer.gates),
            sequences=self._sequences,
        )

    def _reading(self, reading: pb.GateReading, units: int) -> GateReading:
        assert self._header is not None
        mean = _floats(reading.mean, -1)
        return GateReading(
            sequence=reading.sequence,
            gate=reading.gate,
            mean=mean,
            quantiles=_floats(reading.quantiles, len(self._header.quantiles), len(mean)),
            values=_floats(reading.values, len(mean), units) if reading.values else None,
        )

    def finish(self) -> Gates:
        """All layers."""
        if self._header is None:
            raise unreadable_answer("it ends before it has begun")
        return Gates(
            layers=tuple(self._layers),
            quantiles=tuple(self._header.quantiles),
            sequences=self._sequences,
            model_version=self._header.model_version,
        )


def read_influence(
    response: pb.MeasureInfluenceResponse, asked: Asked, *, return_errors: bool
) -> Influence:
    """What was measured. Raises the first sequence's error unless errors are returned."""
    sequences = read_sequences(response.sequences, asked.indices, return_errors=return_errors)
    target = response.target
    return Influence(
        maps=tuple(_influence_map(each, sequences) for each in response.maps),
        by_distance=tuple(map(_by_distance, response.by_distance)),
        target=InfluenceTarget(
            output=target.output,
            class_index=target.class_index if target.HasField("class_index") else None,
            predicted_class=target.predicted_class,
        ),
        sequences=sequences,
        predicted_seconds=response.predicted_seconds,
        seconds=response.seconds,
        model_runs=response.model_runs,
        model_version=response.model_version,
    )


def _influence_map(message: pb.InfluenceMap, sequences: Sequence[InsideSequence]) -> InfluenceMap:
    if not 0 <= message.sequence < len(sequences):
        raise unreadable_answer(f"a map of sequence {message.sequence}, which nobody gave")
    rows, columns = len(message.output_positions) or 1, len(message.input_positions)
    return InfluenceMap(
        sequence=message.sequence,
        measure=message.measure,
        method=message.method,
        output_positions=tuple(message.output_positions),
        input_positions=tuple(message.input_positions),
        values=_floats(message.values, rows, columns),
        shares=_floats(message.shares, rows, columns),
        floors=_floats(message.floors, rows),
        tokens=sequences[message.sequence].tokens,
    )


def _by_distance(message: pb.InfluenceByDistance) -> InfluenceByDistance:
    return InfluenceByDistance(
        measure=message.measure,
        distances=np.array(message.distances, np.int64),
        mean_share=np.array(message.mean_share, np.float64),
        mean_value=np.array(message.mean_value, np.float64),
        counts=np.array(message.counts, np.int64),
        below_floor=np.array(message.below_floor, np.int64),
        sequential_steps=np.array(message.sequential_steps, np.int64),
    )


def _floats(data: bytes, *shape: int) -> Array:
    """An array of the caller's own from the bytes of a message."""
    try:
        return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    except ValueError as error:
        raise unreadable_answer(f"{len(data)} bytes for {list(shape)} numbers") from error
