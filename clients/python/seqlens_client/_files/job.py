"""A model run over a file: the rows go through one stream, the answers into the destination."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seqlens_client._answers import Outcome
from seqlens_client._descriptions import ModelDescription
from seqlens_client._errors import (
    Cancelled,
    ModelNotFound,
    NotAuthenticated,
    NotOffered,
    NotPermitted,
    SeqLensError,
    Unavailable,
    invalid,
)
from seqlens_client._exchange import Exchange
from seqlens_client._files import parquet
from seqlens_client._files.answers import AnswerForm, Csv, JsonLines, Written, read_answers
from seqlens_client._files.identity import Fingerprint, claimed, fingerprint, identity
from seqlens_client._files.outbox import Outbox, Settled
from seqlens_client._files.progress import Progress, start_progress
from seqlens_client._files.request import FileRequest
from seqlens_client._files.rows import header_of, read_rows
from seqlens_client._operations import Selection
from seqlens_client._rows import ERROR, answer_columns, to_row
from seqlens_client._sequences import Prepared, in_messages

# No fault of the row that meets them: the job stops, and goes on when it is started again.
FAULTS_OF_THE_JOB = (
    Cancelled, ModelNotFound, NotAuthenticated, NotOffered, NotPermitted, Unavailable,
)  # fmt: skip

RunExchange = Callable[[Exchange, Iterator[list[Prepared]]], Iterator[tuple[int, Outcome]]]


@dataclass(frozen=True, slots=True)
class FileSummary:
    """What became of a file."""

    destination: Path
    rows: int  # in the destination, all in all
    errors: int  # rows among them with an error
    resumed_from: int  # rows that were there when this run began
    seconds: float  # that this run took


class FileJob:
    """One run of a model over a file."""

    def __init__(
        self,
        request: FileRequest,
        model: ModelDescription,
        run_exchange: RunExchange,
        is_closed: Callable[[], bool],
    ) -> None:
        if request.labels and not model.labels:
            raise invalid("labels", f"{model.name}, which has none", "a model with labels")
        self._request, self._model = request, model
        self._run_exchange, self._is_closed = run_exchange, is_closed
        self._labels = model.labels if request.labels else ()
        self._answer_columns = list(answer_columns(request.output_column, self._labels))
        self._form = self._choose_form()

    def run(self) -> FileSummary:
        """Answer the rows that have no answer yet. Raises what stops the job."""
        started, request = time.monotonic(), self._request
        source = fingerprint(request.source, self._is_closed)
        with claimed(request, identity(request, self._model, source)) as file:
            if request.is_complete:
                before = now = self._count_complete()
            else:
                before = self._form.written(file)
                now = self._answer(file, before, source)
            if request.rows_path != request.destination:
                if not request.is_complete:
                    self._make_parquet()
                request.rows_path.unlink()
        seconds = time.monotonic() - started
        return FileSummary(request.destination, now.rows, now.errors, before.rows, seconds)

    def _choose_form(self) -> AnswerForm:
        request = self._request
        header = header_of(request.source, request.source_format, request.input_column)
        if request.destination_format != "csv":
            return JsonLines()
        kept = [name for name in header if name not in self._answer_columns]
        return Csv([*kept, *self._answer_columns])

    def _answer(self, file: BinaryIO, before: Written, source: Fingerprint) -> Written:
        """Add the rows that are missing."""
        file.seek(before.size)
        file.truncate()
        if not before.size:
            file.write(self._form.head())
        progress = start_progress(
            self._request.progress,
            total=self._count_source(source),
            done=before.rows,
            title=self._request.source.name,
        )
        writer = _Writer(file, self._line, self._stops, progress, before)
        outbox = Outbox(writer.write)
        try:
            for number, outcome in self._run_exchange(
                self._exchange(), self._messages(outbox, before.rows)
            ):
                outbox.settle(number, outcome)
        finally:
            outbox.close()
            progress.close()
        return writer.written

    def _exchange(self) -> Exchange:
        request = self._request
        # The version that was described: all rows are answered by the same one.
        selection = Selection(request.model, self._model.version, request.outputs, request.priority)
        return Exchange(
            selection,
            window=request.window,
            keep_order=False,
            return_errors=True,
            timeout=request.timeout,
        )

    def _messages(self, outbox: Outbox, skip: int) -> Iterator[list[Prepared]]:
        limit = self._exchange().group_limit
        return in_messages(self._sequences(outbox, skip), limit)

    def _sequences(self, outbox: Outbox, skip: int) -> Iterator[Prepared | None]:
        """What is to be sent; None before there is a wait for the answers to what was."""
        request = self._request
        for row in read_rows(request.source, request.source_format, request.input_column, skip):
            if outbox.full:
                yield None
            if not outbox.wait_for_room():
                return
            outbox.add(row)
            if isinstance(row.sequence, Prepared):
                yield row.sequence

    def _line(self, columns: Mapping[str, Any], outcome: Outcome) -> bytes:
        answer = to_row(outcome, self._labels, self._request.output_column)
        if self._request.rows_path != self._request.destination:
            return self._form.row(answer)  # the source's columns are added at the end
        return self._form.row({**columns, **answer})

    def _stops(self, outcome: Outcome) -> bool:
        kinds = SeqLensError if self._request.stop_at_error else FAULTS_OF_THE_JOB
        return isinstance(outcome, kinds)

    def _count_source(self, source: Fingerprint) -> int | None:
        if self._request.source_format == "parquet":
            return parquet.row_count(self._request.source)
        # A cell of a CSV may have several lines.
        return source.lines if self._request.source_format == "jsonl" else None

    def _count_complete(self) -> Written:
        path = self._request.destination
        return Written(parquet.row_count(path), parquet.count_filled(path, ERROR), 0)

    def _make_parquet(self) -> None:
        request = self._request
        known = request.source if request.source_format == "parquet" else None
        parquet.write(request.unfinished_path, self._joined, known, self._answer_columns)
        request.unfinished_path.replace(request.destination)

    def _joined(self) -> Iterator[dict[str, Any]]:
        """The source's columns, and the answers that were kept beside it."""
        request = self._request
        rows = read_rows(request.source, request.source_format, request.input_column, 0)
        for row, answer in zip(rows, read_answers(request.rows_path), strict=True):
            yield {**row.columns, **answer}


class _Writer:
    """Adds rows to a file, in step with the count of them."""

    def __init__(
        self,
        file: BinaryIO,
        line: Callable[[Mapping[str, Any], Outcome], bytes],
        stops: Callable[[Outcome], bool],
        progress: Progress,
        written: Written,
    ) -> None:
        self._file, self._line, self._stops = file, line, stops
        self._progress, self.written = progress, written

    def write(self, settled: Sequence[Settled]) -> None:
        """Write rows up to the first that stops the job, and raise that one's error."""
        stop = next((i for i, (_, outcome) in enumerate(settled) if self._stops(outcome)), None)
        done = settled[:stop]
        for row, outcome in done:
            self._file.write(self._line(row.columns, outcome))
        # What is flushed outlives this process, however it ends.
        self._file.flush()
        self._progress.update(len(done))
        errors = sum(isinstance(outcome, SeqLensError) for _, outcome in done)
        before = self.written
        self.written = Written(before.rows + len(done), before.errors + errors, before.size)
        if stop is not None:
            outcome = settled[stop][1]
            assert isinstance(outcome, SeqLensError)
            raise outcome.at(self.written.rows)
