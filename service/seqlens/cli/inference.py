"""``seqlens infer``: answers of a running server, for people, for pipes, or from file to file."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens.cli.asking import Connection, FileQuestion, Question
from seqlens.cli.connecting import run_with_client
from seqlens_client import Client, Result, SeqLensError, to_row

Answered = Iterator[tuple[str, Result | SeqLensError]]


def show_answers(connection: Connection, question: Question, texts: Iterable[str]) -> int:
    """Print an answer for each text; returns 1 if any has an error.

    People at a terminal get a table; programs get lines of JSON, each as soon as it is ready.
    """
    as_table = sys.stdout.isatty() and not question.json

    def show(client: Client) -> int:
        labels = client.describe(question.model, version=question.version).labels
        answers = _ask(client, question, texts)
        if as_table:
            return _print_table(question.model, answers, labels)
        return _print_lines(answers, labels if question.labels else ())

    return run_with_client(connection, show)


def process_file(connection: Connection, question: Question, files: FileQuestion) -> int:
    """Answer a file's rows into another file; returns 1 if any row there has an error."""

    def process(client: Client) -> int:
        summary = client.process_file(
            question.model,
            files.source,
            files.destination,
            file_format=files.file_format,
            input_column=files.input_column,
            output_column=files.output_column,
            version=question.version,
            labels=question.labels,
            timeout=question.timeout,
            priority=question.priority,
            restart=files.restart,
        )
        print(
            f"{summary.destination}: {summary.rows:,} rows, {summary.errors:,} with errors, "
            f"{summary.resumed_from:,} from before, {summary.seconds:.1f} s",
            file=sys.stderr,
        )
        return int(summary.errors > 0)

    return run_with_client(
        connection, process, if_stopped="; the same command goes on where this one stopped"
    )


def _ask(client: Client, question: Question, texts: Iterable[str]) -> Answered:
    """Each text with its answer, in order, without waiting for the last text."""
    asked: deque[str] = deque()

    def noted() -> Iterator[str]:
        for text in texts:
            asked.append(text)
            yield text

    for outcome in client.stream(
        question.model,
        noted(),
        version=question.version,
        timeout=question.timeout,
        priority=question.priority,
        return_errors=True,
    ):
        yield asked.popleft(), outcome


def _print_lines(answers: Answered, labels: tuple[str, ...]) -> int:
    any_error = False
    for text, outcome in answers:
        any_error |= isinstance(outcome, SeqLensError)
        row = {"input": text, **to_row(outcome, labels)}
        print(json.dumps(row, ensure_ascii=False), flush=True)
    return int(any_error)


def _print_table(model: str, answers: Answered, labels: tuple[str, ...]) -> int:
    any_error = False
    table = Table("text", "length", "answer", "queue ms", "compute ms", title=Text(model))
    for text, outcome in answers:
        any_error |= isinstance(outcome, SeqLensError)
        # Brackets in a text, a label or an error are no markup of ours.
        table.add_row(*map(Text, (text, *_cells(outcome, labels))))
    Console().print(table)
    return int(any_error)


def _cells(outcome: Result | SeqLensError, labels: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(outcome, SeqLensError):
        return "", f"error: {outcome.message}", "", ""
    return (
        str(outcome.length),
        _answer(outcome, labels),
        f"{outcome.queue_seconds * 1e3:.2f}",
        f"{outcome.compute_seconds * 1e3:.2f}",
    )


def _answer(outcome: Result, labels: tuple[str, ...]) -> str:
    """The best class with its probability; the shape of anything that is not class scores."""
    row = to_row(outcome, labels)
    if isinstance(row["output"], str) and row["score"] is not None:
        return f"{row['output']} ({row['score']:.1%})"
    return "; ".join(
        f"{name}: {array.dtype} {list(array.shape)}" for name, array in outcome.outputs.items()
    )
