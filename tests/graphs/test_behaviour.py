"""What inputs mean is told from what they do."""

import onnxruntime
import pytest
import torch
from tests.support.onnx_models import VOCABULARY, masked
from torch import Tensor, nn

from seqlens.graphs.anatomy import AnatomyOverrides, InputRole
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy


class Blanked(nn.Module):
    """A bidirectional encoder that zeroes the answers of padding, and hides it from nothing."""

    def __init__(self, marks: str) -> None:
        super().__init__()
        self.marks = marks
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.layer = nn.GRU(4, 5, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.layer(self.embedding(tokens))
        real = mask if self.marks == "real" else ~mask
        return states * real.unsqueeze(-1).to(states.dtype), torch.tanh(last[0])


@pytest.mark.parametrize("marks", ["real", "padding"])
def test_a_mask_that_only_blanks_out_answers_is_read_the_right_way_round(marks: str) -> None:
    torch.manual_seed(0)
    model = masked(Blanked(marks), torch.bool, ["states", "last"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = ["states", "last"]
    anatomy = find_anatomy(
        read_onnx(model),
        lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True)),
        AnatomyOverrides(),
    )
    mask = anatomy.input("mask")
    assert mask is not None
    assert (mask.role, mask.mask_marks) == (InputRole.MASK, marks)
    assert any("change the answer" in finding for finding in anatomy.findings)
