import torch
from tests.support.torchscript_modules import Counter, Encoder, exported
from torch import Tensor, nn

from seqlens.graphs.torchscript_flow import Flow
from seqlens.graphs.torchscript_graph import read_torchscript
from seqlens.graphs.torchscript_state import kept_attributes


class Normalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features)


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.memory = torch.zeros(1)

    def forward(self, features: Tensor) -> Tensor:
        last = self.memory
        self.memory = features
        return features + last.sum()


def test_attributes_set_or_changed_in_place_are_kept() -> None:
    assert set(kept_attributes(Flow(exported(Counter())))) == {"calls", "total"}
    assert kept_attributes(Flow(exported(Remembering()))) == ("memory",)


def test_what_only_training_writes_is_not_kept() -> None:
    assert kept_attributes(Flow(exported(Normalized()))) == ()
    assert kept_attributes(Flow(exported(Encoder()))) == ()


def test_kept_state_is_told_to_people() -> None:
    assert any("keeps state" in f for f in read_torchscript(exported(Counter())).findings)
