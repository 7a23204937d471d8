"""What both clients share: how they are set up, and the calls of many forms or arguments.

The overloads stand here once; the parameters of ``InferenceCalls`` are what a client gives back.
"""

# Keeps help(Client.infer) readable: it would spell out numpy's ArrayLike.
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

import grpc

from seqlens_client import _operations as operations
from seqlens_client._errors import invalid
from seqlens_client._exchange import LIST_WINDOW, Exchange
from seqlens_client._files.request import (
    FileFormat,
    FileRequest,
    default_destination,
    format_of,
)
from seqlens_client._operations import Operation, Selection
from seqlens_client._options import CallOptions, StreamingOptions
from seqlens_client._patience import deadline
from seqlens_client._sequences import ManySequences, OneSequence, Prepared, prepare_all
from seqlens_client._transport import MAX_MESSAGE_BYTES, ChannelSettings

One = TypeVar("One")
Many = TypeVar("Many")
ManyOrErrors = TypeVar("ManyOrErrors")
SequenceSource = TypeVar("SequenceSource")
Ordered = TypeVar("Ordered")
OrderedOrErrors = TypeVar("OrderedOrErrors")
Pairs = TypeVar("Pairs")
PairsOrErrors = TypeVar("PairsOrErrors")
Summary = TypeVar("Summary")


class InferenceCalls(
    ABC,
    Generic[
        One,
        Many,
        ManyOrErrors,
        SequenceSource,
        Ordered,
        OrderedOrErrors,
        Pairs,
        PairsOrErrors,
        Summary,
    ],
):
    """Calls that run sequences, the same for both clients but for what they give back."""

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        hedge_after: float | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._timeout = timeout
        self._hedge_after = math.inf if hedge_after is None else hedge_after
        self._settings = ChannelSettings(target, retries, max_message_bytes, credentials, token)
        self._closed = False
        self._connect()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._settings.target!r})"

    @overload
    def infer(
        self,
        model: str,
        sequence: OneSequence,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> One: ...
    @overload
    def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[False] = False,
        **options: Unpack[CallOptions],
    ) -> Many: ...
    @overload
    def infer(
        self,
        model: str,
        sequence: ManySequences,
        *,
        return_errors: Literal[True],
        **options: Unpack[CallOptions],
    ) -> ManyOrErrors: ...
    def infer(
        self,
        model: str,
        sequence: OneSequence | ManySequences,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        hedge_after: float | None = None,
        return_errors: bool = False,
    ) -> Any:
        """Run one sequence, or a list of them, each of its own length.

        One sequence is a text, a list of token ids or other numbers, an array whose first axis is
        time, or a mapping from input names to such arrays. A list of any of these, or a column of
        a pandas or polars table, gives a list of results in the same order; it travels in as few
        messages as is good for the server.

        ``outputs`` names those wanted (None: all); ``timeout`` is the time in seconds for the
        whole call (``math.inf``: no limit); ``priority`` 1 goes first, larger numbers later, 0 is
        the server's default. After ``hedge_after`` seconds without an answer the call is made a
        second time, and the first answer is taken (``math.inf``: never; lists that take more than
        one message are not hedged). A bad sequence in a list raises its error, with ``index`` set,
        as soon as it is known, or with ``return_errors`` takes its place in the list.
        """
        selection = Selection(model, version, outputs, priority)
        prepared = prepare_all(sequence)
        if isinstance(prepared, Prepared):
            return self._run(operations.process_one(selection, prepared), timeout, hedge_after)
        if len(prepared) == 1:  # in one message a call of its own is cheaper than a stream
            group = operations.process_group(selection, *prepared, return_errors=return_errors)
            return self._run(group, timeout, hedge_after)
        seconds = deadline(timeout, self._timeout)
        exchange = Exchange(
            selection,
            window=LIST_WINDOW,
            keep_order=False,
            return_errors=return_errors,
            timeout=seconds,
        )
        return self._infer_many(exchange, prepared, seconds)

    @overload
    def stream(
        self,
        model: str,
        sequences: SequenceSource,
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> Ordered: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: SequenceSource,
        *,
        keep_order: Literal[True] = True,
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> OrderedOrErrors: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: SequenceSource,
        *,
        keep_order: Literal[False],
        return_errors: Literal[False] = False,
        **options: Unpack[StreamingOptions],
    ) -> Pairs: ...
    @overload
    def stream(
        self,
        model: str,
        sequences: SequenceSource,
        *,
        keep_order: Literal[False],
        return_errors: Literal[True],
        **options: Unpack[StreamingOptions],
    ) -> PairsOrErrors: ...
    def stream(
        self,
        model: str,
        sequences: SequenceSource,
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        window: int = 64,
        keep_order: bool = True,
        return_errors: bool = False,
    ) -> Any:
        """Send sequences as they come and yield results as they come.

        ``sequences`` may be endless; it is read on another thread (by ``AsyncClient`` on the
        event loop, and may be an async iterable there), never more than ``window`` sequences
        ahead of the answers. Yields results in the order of the sequences, or with
        ``keep_order=False`` pairs of a sequence's index and its result, as soon as each is ready.

        ``timeout`` is the time in seconds for each sequence at the server; the stream itself may
        last as long as it likes. A bad sequence raises its error, which ends the stream, or with
        ``return_errors`` takes its place in it. Other arguments are as for ``infer``.
        """
        exchange = Exchange(
            Selection(model, version, outputs, priority),
            window=window,
            keep_order=keep_order,
            return_errors=return_errors,
            timeout=deadline(timeout, self._timeout),
        )
        return self._stream(exchange, sequences)

    def process_file(
        self,
        model: str,
        source: str | Path,
        destination: str | Path | None = None,
        *,
        file_format: FileFormat | None = None,
        input_column: str = "input",
        output_column: str = "output",
        version: str = "",
        outputs: Sequence[str] | None = None,
        labels: bool = False,
        timeout: float | None = None,
        priority: int = 0,
        window: int = LIST_WINDOW,
        stop_at_error: bool = False,
        restart: bool = False,
        progress: bool = True,
    ) -> Summary:
        """Run a model over all rows of a file; where it stopped, the same call goes on.

        Files are JSON lines (a sequence on each line, or an object with one in its field
        ``input``), CSV (a text or a JSON array in each cell of the column) or, with pyarrow,
        Parquet, as their suffixes or ``file_format`` say; ``destination`` may be of another format
        and is ``NAME.answers.SUFFIX`` unless named. A sequence is what ``infer`` takes: a text, a
        list of numbers or of vectors, or an object of inputs by name.

        The destination has the source's rows in their order, with the columns of ``to_row``
        added: ``output``, ``length``, ``error``, and with ``labels`` the best label and its
        ``score``. A row that cannot be answered has its ``error`` instead, or with
        ``stop_at_error`` raises it. Few rows are held in memory, however large the file.

        If the process is killed, only rows under way are lost: the same call goes on behind the
        last whole row, if ``DESTINATION.job`` says that source, model version and form are the
        same. With ``restart`` it starts anew, over whatever is there. ``progress`` shows a bar on
        a terminal where tqdm is installed. ``timeout`` is for each row at the server.

        Raises ``InvalidInput`` for a destination of another job, ``OSError`` for files that cannot
        be read or written, and errors that are not a row's, such as ``Unavailable``.
        """
        source = Path(source)
        target = default_destination(source) if destination is None else Path(destination)
        if source.resolve() == target.resolve():
            raise invalid("destination", "the source itself", "another file")
        return self._process_file(
            FileRequest(
                model=model,
                source=source,
                destination=target,
                source_format=format_of(source, file_format),
                destination_format=format_of(target, file_format),
                input_column=input_column,
                output_column=output_column,
                version=version,
                outputs=outputs,
                labels=labels,
                timeout=deadline(timeout, self._timeout),
                priority=priority,
                window=window,
                stop_at_error=stop_at_error,
                restart=restart,
                progress=progress,
            )
        )

    @abstractmethod
    def _process_file(self, request: FileRequest) -> Summary: ...

    @abstractmethod
    def _connect(self) -> None: ...

    @abstractmethod
    def _run(
        self, operation: Operation[Any], timeout: float | None, hedge_after: float | None = ...
    ) -> Any: ...

    @abstractmethod
    def _infer_many(
        self, exchange: Exchange, groups: list[list[Prepared]], seconds: float | None
    ) -> Any: ...

    @abstractmethod
    def _stream(self, exchange: Exchange, sequences: SequenceSource) -> Any: ...
