"""Exports the models of a task as a repository: `python -m seqlens_zoo.export [--task TASK]`.

Each model is exported in a process of its own, because one export can leave marks on the next
(torch.onnx.export has frozen the sequence axis of a second LSTM), and is then compared with
eager PyTorch. The command fails when one differs, or when one of its axes is not dynamic.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.formats import FORMATS, ExportError, FormatName, Runner
from seqlens_zoo.tasks import TASK_NAMES, TASKS, Task, TaskName
from seqlens_zoo.weights import WEIGHTS, load_body, references

CHECKED_LENGTHS: Final = (33, 1, 7, 200, 2)


@dataclass(frozen=True, slots=True)
class Export:
    """One model in one format."""

    task_name: TaskName
    body: BodyName
    format: FormatName

    @property
    def task(self) -> Task:
        """The model's task."""
        return TASKS[self.task_name]

    @property
    def name(self) -> str:
        """The model's name in the repository, such as `lstm-onnx`."""
        return self.task.model_name(self.body, self.format)


EXPORTS: Final = {
    task: tuple(Export(task, body, form) for form in FORMATS for body in BODY_NAMES)
    for task in TASK_NAMES
}


def export(wanted: Export, repository: Path, weights_dir: Path = WEIGHTS) -> float:
    """Write `<name>/1/model.onnx` or `model.pt`, `tokenizer.json` and `labels.txt`.

    Returns the largest difference of a logit from eager PyTorch. Raises ExportError when it is
    too large or an axis is fixed (the model file is then not written), and WeightsNotFoundError.
    """
    form, task = FORMATS[wanted.format], wanted.task
    version = repository / wanted.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    unchecked = version / f"{form.file}.unchecked"
    try:
        form.write(task, load_body(wanted.body, task.name, weights_dir), unchecked)
        run = form.load(task, unchecked)
        difference = largest_difference(run, task, wanted.body, weights_dir)
        if not difference <= task.tolerance:
            raise ExportError(
                f"{wanted.name}: differs from eager PyTorch by {difference:.1e}, "
                f"expected at most {task.tolerance:.0e}"
            )
        task.save_text_files(version.parent)
        # In one move, so that a server that watches the folder never sees half a model.
        unchecked.replace(version / form.file)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def largest_difference(
    run: Runner, task: Task, body: BodyName, weights_dir: Path = WEIGHTS
) -> float:
    """Compare an export with eager PyTorch, which sees each sequence alone and unpadded.

    The export gets each sequence alone, and all of them in one batch, padded with random words.
    """
    rng = np.random.default_rng(0)
    sequences = [_random_words(rng, task, length) for length in CHECKED_LENGTHS]
    batch = _random_words(rng, task, (len(sequences), max(CHECKED_LENGTHS)))
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence

    expected = references(task, body, [sequence.tolist() for sequence in sequences], weights_dir)
    together = _call(run, task, batch, CHECKED_LENGTHS)
    differences = []
    for row, sequence, answer in zip(together, sequences, expected, strict=True):
        alone = _call(run, task, sequence[None], [len(sequence)])[0]
        real = row[: len(sequence)] if answer.ndim == 2 else row
        differences.append(np.abs(np.stack((real, alone)) - answer).max())
    return float(max(differences))


def _call(
    run: Runner, task: Task, tokens: NDArray[np.int64], lengths: Sequence[int]
) -> NDArray[np.float32]:
    given = {"tokens": tokens, "lengths": np.array(lengths)}
    return run(*(given[name] for name in task.inputs))


def _random_words(rng: Generator, task: Task, shape: int | tuple[int, int]) -> NDArray[np.int64]:
    return rng.integers(2, len(task.vocabulary), shape)


def main() -> None:
    """Export the six models of a task, two at a time, and say how exact they are."""
    parser = argparse.ArgumentParser(description="Export the example models.")
    parser.add_argument("--task", choices=TASK_NAMES, default="antecedent")
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to read from")
    options = parser.parse_args()

    pool = ProcessPoolExecutor(
        max_workers=2,
        mp_context=get_context("spawn"),
        max_tasks_per_child=1,
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
    with pool:
        running = {
            wanted: pool.submit(export, wanted, options.repository, options.weights)
            for wanted in EXPORTS[options.task]
        }
        failed = [wanted for wanted, future in running.items() if not _report(wanted, future)]
    sys.exit(1 if failed else 0)


def _report(wanted: Export, future: Future[float]) -> bool:
    """Wait for an export and print its outcome; False when it failed."""
    try:
        difference = future.result()
    except (ExportError, OSError) as error:
        print(f"{wanted.name}: FAILED: {error}", file=sys.stderr)
        return False
    print(f"{wanted.name}: exported, within {difference:.1e} of eager PyTorch", flush=True)
    return True


if __name__ == "__main__":
    main()
