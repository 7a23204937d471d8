"""What a model is taught, batch by batch, whatever its task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final

from numpy.random import Generator
from torch import Tensor

NO_ANSWER: Final = -100  # at places that ask nothing; cross_entropy leaves it out


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of equal length, so nothing is padded."""

    inputs: tuple[Tensor, ...]  # of the model; first tokens, int64 [batch, sequence]
    answers: Tensor  # int64, places among the labels: [batch], or [batch, sequence] with NO_ANSWER


class Lessons(ABC):
    """Makes the batches of one training. What it remembers is kept with the checkpoint."""

    @abstractmethod
    def batch(self, rng: Generator, tokens: int, progress: float) -> Batch:
        """A batch of about `tokens` tokens; `progress` goes from 0 to 1 over the training."""

    @abstractmethod
    def note(self, loss: float) -> None:
        """Learn how the last batch went, in nats."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class SteadyLessons(Lessons):
    """Lessons that are the same from the first step to the last, and remember nothing."""

    def note(self, loss: float) -> None:
        """Change nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Change nothing."""
