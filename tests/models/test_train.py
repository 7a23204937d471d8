from dataclasses import replace

import pytest
import torch

from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.train import SETTINGS, Training, train

SMALL = replace(SETTINGS["transformer"], steps=6, tokens_per_step=64, warmup_steps=2)


def test_stopped_training_goes_on_as_if_it_had_not_been():
    whole, first, second = (Training("transformer", SMALL) for _ in range(3))
    losses = [whole.advance() for _ in range(6)]
    before = [first.advance() for _ in range(3)]
    second.restore(first.state())
    assert before + [second.advance() for _ in range(3)] == losses


def test_checkpoint_of_other_settings_is_refused():
    state = Training("lstm", SMALL).state()
    other = Training("lstm", replace(SMALL, learning_rate=1.0))
    with pytest.raises(ValueError, match="--checkpoints"):
        other.restore(state)


def test_finished_training_is_read_from_its_checkpoint(tmp_path):
    training = Training("transformer", SMALL)
    for _ in range(6):
        training.advance()
    torch.save(training.state(), tmp_path / "transformer.pt")
    model = train("transformer", SMALL, tmp_path)
    assert torch.equal(model.head.weight, training.model.head.weight)


@pytest.mark.parametrize("body", BODY_NAMES)
def test_learning_rate_rises_and_falls_to_nothing(body):
    settings = SETTINGS[body]
    rates = [settings.rate(step) for step in range(settings.steps + 1)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == 1
    assert rates[-1] == 0
