"""Calls that look inside a model, the same for both clients but for what they give back."""

# Keeps help(Client.attention) readable: it would spell out numpy's ArrayLike.
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from google.protobuf.message import Message

from seqlens_client import _insight_requests as requests
from seqlens_client._influence import Influence, InfluenceTarget
from seqlens_client._insight_options import AttentionOptions, SelectionOptions
from seqlens_client._insight_reading import AttentionReader, GateReader, Reader, read_influence
from seqlens_client._insight_requests import (
    InfluenceMeasure,
    MapDatatype,
    Positions,
    Reduction,
)
from seqlens_client._operations import Operation
from seqlens_client._sequences import ManySequences, OneSequence

OneMap = TypeVar("OneMap")
ManyMaps = TypeVar("ManyMaps")
ManyMapsOrErrors = TypeVar("ManyMapsOrErrors")
SiteMaps = TypeVar("SiteMaps")
OneInfluence = TypeVar("OneInfluence")
OneGates = TypeVar("OneGates")
R = TypeVar("R", bound=Reader[Any])


@dataclass(frozen=True, slots=True)
class Looking(Generic[R]):
    """A call whose answer comes in many messages. Each attempt has a reader of its own."""

    method: str
    request: Message
    reader: Callable[[], R]


class InsightCalls(
    ABC,
    Generic[OneMap, ManyMaps, ManyMapsOrErrors, SiteMaps, OneInfluence, OneGates],
):
    """Attention weights, influence and gates."""

    @overload
    def attention(
        self,
        model: str,
        sequence: OneSequence,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[AttentionOptions],
    ) -> OneMap: ...
    @overload
    def attention(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[AttentionOptions],
    ) -> ManyMaps: ...
    @overload
    def attention(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[True],
        **options: Unpack[AttentionOptions],
    ) -> ManyMapsOrErrors: ...
    def attention(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
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
        outputs: bool = False,
        measures: bool = False,
        share_positions: Sequence[int] | None = None,
        version: str = "",
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> Any:
        """Attention weights of one sequence, or of a list of them, as the model computes them.

        A sequence is what ``infer`` takes; those of a list must be of one kind. All sites that
        are proved are drawn unless ``sites`` (names) or ``layers`` (numbers; negative: from the
        end) say which, and all ``heads``. ``queries`` and ``keys`` are a slice, a range,
        ``(start, stop)`` or one position; ``last_query`` is the last one of each sequence.
        ``top_k`` gives the largest weights of each query only, ``reduce_heads`` the mean or max
        over the heads, ``rollout`` one map through all chosen layers (Abnar and Zuidema 2020).
        With ``dtype`` float16 or uint8 (steps of 1/255) less travels; arrays here are float32.

        ``outputs`` adds what ``infer`` gives, ``measures`` what the heads do, such as entropy and
        distance, and the share of weight on the keys at ``share_positions``.

        Raises ``NotInModel`` for models without attention and ``InvalidInput`` for what cannot be
        selected, or is too large: the error says what would fit. A bad sequence in a list raises
        its error, with ``index`` set, or with ``return_errors`` takes its place in the list.
        """
        asked = requests.read_asked(sequence)
        request = requests.attention_request(
            model,
            asked,
            sites=sites,
            layers=layers,
            heads=heads,
            queries=queries,
            keys=keys,
            last_query=last_query,
            top_k=top_k,
            reduce_heads=reduce_heads,
            rollout=rollout,
            dtype=dtype,
            outputs=outputs,
            measures=measures,
            share_positions=share_positions,
            version=version,
        )
        reader = partial(AttentionReader, asked, return_errors=return_errors)
        return self._gather(Looking("ExtractAttention", request, reader), timeout)

    def stream_attention(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
        *,
        timeout: float | None = None,
        **options: Unpack[SelectionOptions],
    ) -> SiteMaps:
        """The same, layer by layer: yields each ``SiteMap`` as soon as it is whole.

        For answers that are too large to be held at once. Of several sequences each site has a
        map for each, in their order. Other arguments are those of ``attention``. ``timeout`` is
        the time in seconds for all of it, the caller's own work between maps included.
        """
        asked = requests.read_asked(sequence)
        request = requests.attention_request(model, asked, **options)
        reader = partial(AttentionReader, asked, return_errors=False, keep_maps=False)
        return self._site_maps(Looking("ExtractAttention", request, reader), timeout)

    def influence(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
        *,
        measures: Sequence[InfluenceMeasure] = ("occlusion",),
        target: InfluenceTarget | str | int | None = None,
        output_positions: Sequence[int] | int | None = None,
        input_positions: Sequence[int] | int | None = None,
        replacements: int | None = None,
        replacement_tokens: Sequence[int] | None = None,
        directions: int | None = None,
        exact: bool = False,
        by_distance: bool = False,
        version: str = "",
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> OneInfluence:
        """How much an answer depends on each position, with one meaning for every architecture.

        Occlusion is how far the target moves when a position is replaced: what the answer
        depends on. Jacobian is the norm of the derivative by a position's embedding: the gradient
        path, which may fade where the answer still depends on the position. Both as values, and
        as shares of their row; what lies below the floor is rounding, and not known.

        ``target`` is an output's name, the number of one element of the first output, such as a
        class, or an ``InfluenceTarget``; None: the norm of the first output. ``output_positions``
        are the rows where it has positions, ``input_positions`` the columns, all of them by
        default. At each position so many ``replacements`` are tried, known tokens chosen by the
        server, or ``replacement_tokens``. ``directions`` is how many random ones estimate the
        Jacobian; ``exact`` is without any, where the model allows. ``by_distance`` summarises over
        all sequences.

        Raises ``NotInModel`` for models that cannot be asked this, and ``InvalidInput`` for what
        would take too long. A bad sequence in a list raises its error, with ``index`` set, or
        with ``return_errors`` has it in ``sequences`` and no map.
        """
        asked = requests.read_asked(sequence)
        request = requests.influence_request(
            model,
            version,
            asked,
            measures=measures,
            target=target,
            output_positions=output_positions,
            input_positions=input_positions,
            replacements=replacements,
            replacement_tokens=replacement_tokens,
            directions=directions,
            exact=exact,
            by_distance=by_distance,
        )
        read = partial(read_influence, asked=asked, return_errors=return_errors)
        return self._ask(Operation("sequences", "MeasureInfluence", request, read), timeout)

    def gates(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
        *,
        layers: Sequence[int] | int | None = None,
        quantiles: Sequence[float] | None = None,
        full: bool = False,
        version: str = "",
        timeout: float | None = None,
        return_errors: bool = False,
    ) -> OneGates:
        """Gates of LSTM and GRU layers at every step.

        ``layers`` are numbers counted from the input (negative: from the end), all by default.
        Each gate has the mean over its units and ``quantiles``, 0.1, 0.5 and 0.9 by default; with
        ``full`` every unit's values, too. The products of forget (or update) gates from the first
        step on are among them.

        Raises ``NotInModel`` for models without gates. A bad sequence in a list raises its error,
        with ``index`` set, or with ``return_errors`` has it in ``sequences`` and no readings.
        """
        asked = requests.read_asked(sequence)
        request = requests.gates_request(
            model, version, asked, layers=layers, quantiles=quantiles, full=full
        )
        reader = partial(GateReader, asked, return_errors=return_errors)
        gates: OneGates = self._gather(Looking("ReadGates", request, reader), timeout)
        return gates

    @abstractmethod
    def _ask(self, operation: Operation[Influence], timeout: float | None) -> OneInfluence: ...

    @abstractmethod
    def _gather(self, looking: Looking[Any], timeout: float | None) -> Any: ...

    @abstractmethod
    def _site_maps(self, looking: Looking[AttentionReader], timeout: float | None) -> SiteMaps: ...
