import dataclasses

import pytest

from seqlens.backends.base import Capabilities, Device
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.scheduling.strategy import Strategy, decide

TOKENS = InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1)
SEQUENCE_MODEL = ModelAnatomy(
    inputs=(TOKENS,),
    outputs=(OutputAnatomy("logits", "FP32", (-1, 4), OutputRole.PER_SEQUENCE, 0),),
    architecture=Architecture.TRANSFORMER,
    evidence=(),
    sequential_depth="O(1)",
)
CPU = Capabilities(Device("cpu"), concurrent_runs=True)


def with_tokens(**changes):
    tokens = dataclasses.replace(TOKENS, **changes)
    return dataclasses.replace(SEQUENCE_MODEL, inputs=(tokens,))


@pytest.mark.parametrize(
    ("repeat", "equal_length", "padded", "strategy", "reason"),
    [
        (0, 0, 3e-7, Strategy.BY_LENGTH, "batched and alone differ by 3e-07 at most"),
        (0, 0, 1e-5, Strategy.BY_LENGTH, "allowed 1e-05"),
        (0, 0, 4.8, Strategy.EQUAL_LENGTH, "right padding changes answers by 4.8"),
        (0, 0, float("nan"), Strategy.EQUAL_LENGTH, "right padding changes answers by nan"),
        (0, 0, None, Strategy.EQUAL_LENGTH, "padding was not tested"),
        (0, 0.3, 0, Strategy.ALONE, "batch mates change answers by 0.3"),
        (0, None, None, Strategy.ALONE, "not tested whether batch mates change"),
        (0.5, 0, 0, Strategy.ALONE, "running again changes answers by 0.5"),
        (None, 0, 0, Strategy.BY_LENGTH, "near lengths share a batch"),
    ],
)
def test_measured_errors_decide(repeat, equal_length, padded, strategy, reason):
    decision = decide(
        SEQUENCE_MODEL,
        CPU,
        allowed=1e-5,
        repeat_error=repeat,
        equal_length_error=equal_length,
        padded_error=padded,
    )
    assert decision.strategy is strategy
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("anatomy", "capabilities", "strategy", "reason"),
    [
        (with_tokens(time_axis=None), CPU, Strategy.WHOLE, "no input has a time axis"),
        (with_tokens(role=InputRole.OTHER), CPU, Strategy.WHOLE, "no input has a time axis"),
        (with_tokens(shape=(-1,), batch_axis=None, time_axis=0), CPU, Strategy.ALONE, "no batch"),
        (with_tokens(shape=(1, -1)), CPU, Strategy.ALONE, "exported with size 1"),
        (
            SEQUENCE_MODEL,
            dataclasses.replace(CPU, keeps_state=True),
            Strategy.ALONE,
            "keeps state between calls",
        ),
    ],
)
def test_what_cannot_be_batched_is_not_whatever_was_measured(
    anatomy, capabilities, strategy, reason
):
    decision = decide(
        anatomy, capabilities, allowed=1, repeat_error=0, equal_length_error=0, padded_error=0
    )
    assert decision.strategy is strategy
    assert reason in decision.reason
