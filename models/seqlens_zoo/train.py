"""Trains the example models: `python -m seqlens_zoo.train [--task TASK] [--body BODY]`.

Each step's texts come from the seed and the number of the step, so a training that was stopped
goes on from its last checkpoint as if nothing had happened. On one machine the same command
gives the same weights; another processor rounds differently and gives slightly other ones.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from seqlens_zoo.bodies import BODY_NAMES, BodyName
from seqlens_zoo.lessons import NO_ANSWER, Batch
from seqlens_zoo.tasks import TASK_NAMES, TASKS, Task, TrainingSettings
from seqlens_zoo.weights import WEIGHTS, save_body

CHECKPOINT_EVERY_STEPS: Final = 100


class Training:
    """One body in training: its model, its optimizer, its lessons and the number of steps done."""

    def __init__(self, task: Task, body: BodyName, settings: TrainingSettings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.model = task.new_model(body)
        self.lessons = task.lessons()
        self.optimizer = AdamW(self.model.parameters(), lr=settings.learning_rate)
        self.schedule = LambdaLR(self.optimizer, settings.rate)
        self.step = 0

    def advance(self) -> float:
        """Do one step and give its loss in nats."""
        rng = np.random.default_rng((self.settings.seed, self.step))
        progress = self.step / self.settings.steps
        loss = self._loss(self.lessons.batch(rng, self.settings.tokens_per_step, progress))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        nats = loss.item()
        self.lessons.note(nats)
        return nats

    def _loss(self, batch: Batch) -> torch.Tensor:
        logits = self.model(*batch.inputs).flatten(0, -2)
        return cross_entropy(logits, batch.answers.flatten(), ignore_index=NO_ANSWER)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {
            "settings": str(self.settings),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "lessons": self.lessons.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. Raises ValueError when it belongs to other settings."""
        if state["settings"] != str(self.settings):
            raise ValueError(
                f"the checkpoint is one of {state['settings']}, expected {self.settings}; remove "
                "it, or name another folder with --checkpoints"
            )
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.lessons.restore(state["lessons"])


def train(task: Task, body: BodyName, settings: TrainingSettings, checkpoints: Path) -> nn.Module:
    """Train one body to the end, from its checkpoint if there is one, and give its model."""
    checkpoint = checkpoints / task.name / f"{body}.pt"
    training = Training(task, body, settings)
    if checkpoint.is_file():
        training.restore(torch.load(checkpoint, weights_only=True))
    with tqdm(
        total=settings.steps, initial=training.step, desc=f"{task.name} {body}", unit="step"
    ) as bar:
        while training.step < settings.steps:
            loss = training.advance()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            if training.step % CHECKPOINT_EVERY_STEPS == 0:
                _write(training.state(), checkpoint)
    return training.model


def _write(state: dict[str, Any], checkpoint: Path) -> None:
    """Replace the checkpoint at once, so that a kill leaves the old one or the new one."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint.with_suffix(".tmp")
    torch.save(state, unfinished)
    unfinished.replace(checkpoint)


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the example models.")
    parser.add_argument("--task", choices=TASK_NAMES, default="antecedent")
    parser.add_argument("--body", choices=[*BODY_NAMES, "all"], default="all")
    parser.add_argument("--steps", type=int, help="instead of the task's own number")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to write to")
    parser.add_argument("--checkpoints", type=Path, default=Path("build/training"))
    options = parser.parse_args()

    task = TASKS[options.task]
    torch.set_num_threads(1)  # the nets are small: run two bodies side by side instead
    for body in BODY_NAMES if options.body == "all" else (options.body,):
        settings = task.settings[body]
        if options.steps is not None:
            settings = replace(settings, steps=options.steps)
        model = train(task, body, settings, options.checkpoints)
        save_body(task, body, model, options.weights)


if __name__ == "__main__":
    main()
