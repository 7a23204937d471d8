from dataclasses import replace

import pytest
import torch

from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.tasks import ANTECEDENT, TASK_NAMES, TASKS
from seqlens_zoo.train import Training, train

SMALL = replace(ANTECEDENT.settings["transformer"], steps=6, tokens_per_step=64, warmup_steps=2)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASK_NAMES)
def test_stopped_training_goes_on_as_if_it_had_not_been(task):
    whole, first, second = (Training(task, "transformer", SMALL) for _ in range(3))
    losses = [whole.advance() for _ in range(6)]
    before = [first.advance() for _ in range(3)]
    second.restore(first.state())
    assert before + [second.advance() for _ in range(3)] == losses


def test_checkpoint_of_other_settings_is_refused():
    state = Training(ANTECEDENT, "lstm", SMALL).state()
    other = Training(ANTECEDENT, "lstm", replace(SMALL, learning_rate=1.0))
    with pytest.raises(ValueError, match="--checkpoints"):
        other.restore(state)


def test_finished_training_is_read_from_its_checkpoint(tmp_path):
    training = Training(ANTECEDENT, "transformer", SMALL)
    for _ in range(6):
        training.advance()
    (tmp_path / "antecedent").mkdir()
    torch.save(training.state(), tmp_path / "antecedent" / "transformer.pt")
    model = train(ANTECEDENT, "transformer", SMALL, tmp_path)
    assert torch.equal(model.head.weight, training.model.head.weight)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASK_NAMES)
@pytest.mark.parametrize("body", BODY_NAMES)
def test_learning_rate_rises_and_falls_to_nothing(task, body):
    settings = task.settings[body]
    rates = [settings.rate(step) for step in range(settings.steps + 1)]
    assert rates[0] == pytest.approx(1 / settings.warmup_steps)
    assert max(rates) == 1
    assert rates[-1] == 0
