"""Exports the trained models as a model repository: `python -m seqlens_zoo.export`.

Each model is exported in a process of its own, because one export can leave marks on the next
(torch.onnx.export has frozen the sequence axis of a second LSTM), and is then compared with
eager PyTorch. The command fails when one differs, or when one of its axes is not dynamic.
"""

import argparse
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.random import Generator

from seqlens_zoo.antecedent import VOCABULARY
from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.formats import FORMATS, ExportError, FormatName, Runner
from seqlens_zoo.weights import WEIGHTS, load_body, reference, save_text_files

CHECKED_LENGTHS: Final = (33, 1, 7, 200, 2)


@dataclass(frozen=True, slots=True)
class Export:
    """One model in one format."""

    body: BodyName
    format: FormatName

    @property
    def name(self) -> str:
        """The model's name in the repository, such as `lstm-onnx`."""
        return f"{self.body}-{self.format}"


EXPORTS: Final = tuple(Export(body, form) for form in FORMATS for body in BODY_NAMES)


def export(wanted: Export, repository: Path, weights_dir: Path = WEIGHTS) -> float:
    """Write `<name>/1/model.onnx` or `model.pt`, `tokenizer.json` and `labels.txt`.

    Returns the largest difference of a logit from eager PyTorch. Raises ExportError when it is
    too large or an axis is fixed (the model file is then not written), and WeightsNotFoundError.
    """
    form = FORMATS[wanted.format]
    version = repository / wanted.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    unchecked = version / f"{form.file}.unchecked"
    try:
        form.write(load_body(wanted.body, weights_dir), unchecked)
        difference = largest_difference(form.load(unchecked), wanted.body, weights_dir)
        if not difference <= form.tolerance:
            raise ExportError(
                f"{wanted.name}: differs from eager PyTorch by {difference:.1e}, "
                f"expected at most {form.tolerance:.0e}"
            )
        save_text_files(version.parent)
        # In one move, so that a server that watches the folder never sees half a model.
        unchecked.replace(version / form.file)
    finally:
        unchecked.unlink(missing_ok=True)
    return difference


def largest_difference(run: Runner, body: BodyName, weights_dir: Path = WEIGHTS) -> float:
    """Compare an export with eager PyTorch, which sees each sequence alone and unpadded.

    The export gets each sequence alone, and all of them in one batch, padded with random words.
    """
    rng = np.random.default_rng(0)
    sequences = [_random_words(rng, length) for length in CHECKED_LENGTHS]
    batch = _random_words(rng, (len(sequences), max(CHECKED_LENGTHS)))
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence

    expected = reference(body, [sequence.tolist() for sequence in sequences], weights_dir)
    together = run(batch, np.array(CHECKED_LENGTHS))
    alone = [run(sequence[None], np.array([len(sequence)])) for sequence in sequences]
    return float(np.abs(np.stack((together, np.concatenate(alone))) - expected).max())


def _random_words(rng: Generator, shape: int | tuple[int, int]) -> np.ndarray:
    return rng.integers(2, len(VOCABULARY), shape)


def main() -> None:
    """Export all six models, two at a time, and say how exact they are."""
    parser = argparse.ArgumentParser(description="Export the example models.")
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
            for wanted in EXPORTS
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
