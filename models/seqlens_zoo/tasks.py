"""The tasks of the example models: what is the same in all that train, export or measure them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from tokenizers import Tokenizer
from torch import nn

from seqlens_zoo import antecedent, ledger
from seqlens_zoo.antecedent.batches import AntecedentLessons
from seqlens_zoo.bodies import BodyName, SequenceClassifier, SequenceTagger
from seqlens_zoo.ledger.batches import LedgerLessons
from seqlens_zoo.lessons import Lessons

TaskName = Literal["antecedent", "ledger"]
TASK_NAMES: Final[tuple[TaskName, ...]] = get_args(TaskName)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How one body is trained."""

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    tokens_per_step: int = 2_560
    gradient_clip: float = 1.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Share of `learning_rate` at a step: up in the warm-up, level, to 0 in the last 40 %."""
        rising = (step + 1) / self.warmup_steps
        falling = (self.steps - step) / (0.4 * self.steps)
        return min(1.0, rising, falling)


@dataclass(frozen=True, slots=True)
class Task:
    """One task."""

    name: TaskName
    prefix: str  # of its models' names
    vocabulary: tuple[str, ...]  # words, in the order of the token ids
    labels: tuple[str, ...]  # classes, in the order of the logits
    axes: Mapping[str, Mapping[int, str]]  # dynamic axes of each input and of `logits`
    model: Callable[..., nn.Module]  # called with a body's name, and the sizes of both lists
    lessons: Callable[[], Lessons]
    tokenizer: Callable[[], Tokenizer]
    settings: Mapping[BodyName, TrainingSettings]
    tolerance: float  # largest difference of an exported model's logit from eager PyTorch

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs: `tokens`, and `lengths` where it takes them."""
        return tuple(name for name in self.axes if name != "logits")

    def new_model(self, body: BodyName) -> nn.Module:
        """An untrained model; torch's global seed decides its parameters."""
        return self.model(body, vocabulary=len(self.vocabulary), labels=len(self.labels))

    def model_name(self, body: BodyName, form: str) -> str:
        """The model's name in a repository, such as `lstm-onnx` or `ledger-lstm-onnx`."""
        return f"{self.prefix}{body}-{form}"

    def save_text_files(self, folder: Path) -> None:
        """Write `tokenizer.json` and `labels.txt` (a label a line, as the logits)."""
        self.tokenizer().save(str(folder / "tokenizer.json"))
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in self.labels))


ANTECEDENT: Final = Task(
    name="antecedent",
    prefix="",
    vocabulary=antecedent.VOCABULARY,
    labels=antecedent.LABELS,
    axes={
        "tokens": {0: "batch", 1: "sequence"},
        "lengths": {0: "batch"},
        "logits": {0: "batch"},
    },
    model=SequenceClassifier,
    lessons=AntecedentLessons,
    tokenizer=antecedent.tokenizer,
    settings={
        "rnn": TrainingSettings(steps=2_000, learning_rate=1e-3),
        "lstm": TrainingSettings(steps=2_000, learning_rate=3e-3),
        "transformer": TrainingSettings(steps=400, learning_rate=1e-3),
    },
    tolerance=1e-5,
)

LEDGER: Final = Task(
    name="ledger",
    prefix="ledger-",
    vocabulary=ledger.VOCABULARY,
    labels=ledger.LABELS,
    axes={"tokens": {0: "batch", 1: "sequence"}, "logits": {0: "batch", 1: "sequence"}},
    model=SequenceTagger,
    lessons=LedgerLessons,
    tokenizer=ledger.tokenizer,
    settings={
        "rnn": TrainingSettings(steps=2_000, learning_rate=1e-3, warmup_steps=50),
        "lstm": TrainingSettings(steps=4_000, learning_rate=3e-3, warmup_steps=50),
        "transformer": TrainingSettings(steps=500, learning_rate=2e-3, warmup_steps=50),
    },
    tolerance=5e-5,  # logits go up to 20, at every step of the recurrent nets
)

TASKS: Final[dict[TaskName, Task]] = {task.name: task for task in (ANTECEDENT, LEDGER)}
