"""Inputs of which a TorchScript file tells nothing, found in a model as it is served."""

from pathlib import Path

import pytest
import torch
from tests.support.torchscript_modules import HIDDEN, TOKENS, WIDTH, Continued, Packed, made, quiet
from torch import Tensor, nn

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.torchscript import TorchScriptBackend
from seqlens.graphs.anatomy import InputRole, ModelAnatomy, OutputRole


def anatomy_of(folder: Path, module: nn.Module, *example: Tensor) -> ModelAnatomy:
    file = folder / "model.pt"
    with quiet():
        torch.jit.save(made(module, *example), file)
    return TorchScriptBackend().load(file, LoadOptions(device=Device("cpu"))).anatomy


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_states_that_callers_give_are_found(
    tmp_path: Path, traced: bool, bidirectional: bool
) -> None:
    """Their rank and size stand in the layer that starts from them, not in the signature."""
    example = (TOKENS, *(torch.zeros(2 + 2 * bidirectional, len(TOKENS), HIDDEN) for _ in range(2)))
    module = Continued(bidirectional)
    anatomy = anatomy_of(tmp_path, module, *(example if traced else ()))
    roles = [i.role for i in anatomy.inputs]
    assert roles == [InputRole.SEQUENCE, InputRole.STATE, InputRole.STATE]
    assert [i.state_output for i in anatomy.inputs] == [None, "output_1", "output_2"]
    assert {i.batch_axis for i in anatomy.inputs[1:]} == {1}


def test_lengths_of_packed_time_major_features(tmp_path: Path) -> None:
    """Layers of packed sequences check neither widths nor which axis is the batch."""
    anatomy = anatomy_of(tmp_path, Packed())
    x, lengths = anatomy.inputs
    assert (x.shape, x.role, x.batch_axis) == ((-1, -1, WIDTH), InputRole.SEQUENCE, 1)
    assert (lengths.role, lengths.batch_axis) == (InputRole.LENGTHS, 0)
    assert [(o.role, o.time_axes) for o in anatomy.outputs] == [(OutputRole.PER_STEP, (0,))]


def test_dense_layers_alone_take_no_sequences(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    anatomy = anatomy_of(tmp_path, dense)
    assert not anatomy.has_time
    assert [i.shape for i in anatomy.inputs] == [(-1, 5)]
