"""Commands, options and where their values come from: flags, environment, file, defaults."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Env, Yaml

from seqlens import __version__
from seqlens.cli.asking import LOCAL_SERVER, Connection, FileFormat, FileQuestion, Question
from seqlens.cli.insight_commands import attention, gates, influence
from seqlens.cli.standard_input import lines
from seqlens.errors import SeqLensError
from seqlens.settings import InvalidSetting, ServerSettings

# Commands import what they need when they run: help and version answer at once.

app = App(
    name="seqlens",
    help="Inference server for sequence models: RNN, LSTM and Transformer, without padding.",
    version=__version__,
    help_epilogue="Every option is also read from the environment: --grpc-port as "
    "SEQLENS_GRPC_PORT. Flags win over the environment, the environment over the file.",
)


@app.command
def serve(*, settings: Annotated[ServerSettings, Parameter(name="*")]) -> int:
    """Serve a repository of exported models over gRPC and REST.

    Prints one line to standard output when it is ready: `ready rest=HOST:PORT grpc=HOST:PORT
    metrics=HOST:PORT models=N`. Logs go to standard error. SIGTERM and SIGINT let calls in
    progress finish.
    """
    from seqlens.cli.logs import configure_logs
    from seqlens.server import CannotListen, serve_until_stopped

    configure_logs()
    try:
        serve_until_stopped(settings)
    except CannotListen as error:
        print(f"seqlens: {error}", file=sys.stderr)
        return 1
    return 0


@app.command
def inspect(path: Path, *, json: bool = False) -> None:
    """Show what is found in an exported model, and why.

    Parameters
    ----------
    path
        Model file, or folder of a model.
    json
        Print JSON for programs instead of text for people.
    """
    from seqlens.cli.inspection import show_anatomy

    show_anatomy(path, as_json=json)


@app.command
def verify(path: Path, *, json: bool = False) -> None:
    """Prove that batching changes no answer of a model, or show by how much it does.

    A model in which batch mates or padding leak is served all the same, and batched less; what
    is printed says how and why.

    Parameters
    ----------
    path
        Model file, or folder of a model.
    json
        Print JSON for programs instead of text for people. An error that is null was not tried;
        "inf" stands for answers that are not finite or change their shape.
    """
    from seqlens.cli.verification import show_proof

    show_proof(path, as_json=json)


@app.command
def infer(
    model: str,
    *texts: str,
    source: Annotated[Path | None, Parameter(name="--input")] = None,
    output: Path | None = None,
    file_format: Annotated[FileFormat | None, Parameter(name="--format")] = None,
    input_column: str = "input",
    output_column: str = "output",
    restart: Annotated[bool, Parameter(negative=())] = False,
    labels: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    version: str = "",
    timeout: float | None = None,
    priority: int = 0,
    connection: Annotated[Connection, Parameter(name="*")] = LOCAL_SERVER,
) -> int:
    """Ask a running server for answers to texts, or to all rows of a file.

    Prints a table on a terminal and lines of JSON elsewhere. Exit code 1 says that at least one
    sequence has an error in place of an answer.

    Parameters
    ----------
    model
        Name of the model.
    texts
        One text for each sequence; without any, lines are read from standard input.
    source
        File of sequences, instead of texts: JSON lines, CSV or Parquet.
    output
        File for the answers; NAME.answers.SUFFIX beside the input by default. If it is there
        and unfinished, the job goes on where it stopped.
    file_format
        Format of both files, where their suffixes do not tell.
    input_column
        Column or field of the sequences.
    output_column
        Column or field for the answers.
    restart
        Start the file anew, over whatever is there.
    labels
        Give the best label and its score instead of numbers.
    json
        Print lines of JSON on a terminal, too.
    version
        Version of the model; the server chooses by default.
    timeout
        Seconds for each sequence; 30 by default.
    priority
        1 goes first, larger numbers later, 0 is the server's default.
    """
    from seqlens.cli.inference import process_file, show_answers

    question = Question(model, version, timeout, priority, labels, json)
    if source is None and (output or restart):
        raise InvalidSetting("--output and --restart: got no --input, expected a file of sequences")
    if source is None:
        return show_answers(connection, question, texts or lines(sys.stdin))
    if texts:
        raise InvalidSetting("--input: got texts beside it, expected one of them")
    columns = (input_column, output_column)
    files = FileQuestion(source, output, file_format, *columns, restart)
    return process_file(connection, question, files)


for _look in (attention, influence, gates):
    app.command(_look)


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(env_var="SEQLENS_CONFIG")] = None,
) -> int | None:
    """Run a command.

    Parameters
    ----------
    config
        YAML file with settings, named as the options are.
    """
    sources: list[Env | Yaml] = [Env("SEQLENS_", command=False)]
    if config is not None:
        sources.append(Yaml(config, must_exist=True, use_commands_as_keys=False))
    app.config = sources
    result: int | None = app(tokens, result_action="return_value")
    return result


def run(arguments: Sequence[str]) -> None:
    """Run the command line and exit with the command's code."""
    try:
        sys.exit(app.meta(arguments, result_action="return_value"))
    except (SeqLensError, InvalidSetting) as error:
        sys.exit(f"seqlens: {error}")
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python would complain again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
