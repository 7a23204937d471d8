"""Attention is found where weights meet data, and nowhere else."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from tests.support.onnx_models import (
    FLOAT,
    VOCABULARY,
    WIDTH,
    AdditivePooling,
    Transformer,
    built,
    export,
    masked,
)
from torch import Tensor, nn

from seqlens.graphs.anatomy import AttentionSite
from seqlens.graphs.onnx_graph import read_onnx


def sites(model: ModelProto) -> tuple[AttentionSite, ...]:
    return read_onnx(model).attention_sites


def test_self_attention_of_every_layer_but_not_the_class_softmax() -> None:
    found = sites(masked(Transformer(), torch.int64))
    assert [(s.layer, s.kind, s.operator, s.heads) for s in found] == [
        (0, "self", "Softmax", 3),
        (1, "self", "Softmax", 3),
    ]


@pytest.mark.parametrize(("query", "kind"), [(True, "additive"), (False, "pooling")])
def test_attention_over_a_recurrent_net(query: bool, kind: str) -> None:
    tokens = torch.ones(2, 6, dtype=torch.int64)
    (site,) = sites(export(AdditivePooling(query=query), [tokens], ["tokens"]))
    assert site.kind == kind
    assert site.confidence < 1


class Einsum(nn.Module):
    """Attention by einsum, with a softmax written out as exp / sum."""

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        scores = torch.einsum("btd,bsd->bts", x, memory)
        exponential = torch.exp(scores)
        weights = exponential / exponential.sum(-1, keepdim=True)
        return torch.einsum("bts,bsd->btd", weights, memory)


def test_cross_attention_by_einsum_with_a_written_out_softmax() -> None:
    x, memory = torch.randn(2, 4, WIDTH), torch.randn(2, 6, WIDTH)
    axes = {"x": {0: "b", 1: "t"}, "memory": {0: "b", 1: "s"}}
    (site,) = sites(export(Einsum(), [x, memory], ["x", "memory"], axes))
    assert (site.kind, site.operator) == ("cross", "Div")


class SoftEmbedding(nn.Module):
    """A softmax that weighs constants: no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.table = nn.Linear(WIDTH, VOCABULARY), nn.Linear(VOCABULARY, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(torch.softmax(self.scores(x), -1))


class Experts(nn.Module):
    """A gate that weighs three experts, each of which depends on the input: no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.gate(x), -1)
        answers = torch.stack([expert(x) for expert in self.experts], -1)
        return (answers * weights.unsqueeze(-2)).sum(-1)


@pytest.mark.parametrize("module", [SoftEmbedding, Experts])
def test_other_softmaxes_are_left_alone(module: type[nn.Module]) -> None:
    assert sites(export(module(), [torch.randn(2, 6, WIDTH)], ["x"])) == ()


@pytest.mark.parametrize(
    ("operator", "domain", "inputs", "attributes", "kind", "heads"),
    [
        ("Attention", "com.microsoft", ["x", "w", "b"], {"num_heads": 4}, "self", 4),
        ("MultiHeadAttention", "com.microsoft", ["x", "x", "x"], {"num_heads": 4}, "self", 4),
        ("MultiHeadAttention", "com.microsoft", ["x", "m", "m"], {"num_heads": 4}, "cross", 4),
        (
            "GroupQueryAttention",
            "com.microsoft",
            ["x", "x", "x", "", "", "n", "n"],
            {"num_heads": 4, "kv_num_heads": 2},
            "self",
            4,
        ),
        (
            "Attention",
            "",
            ["x", "x", "x"],
            {"q_num_heads": 4, "kv_num_heads": 4},
            "self",
            4,
        ),
    ],
)
def test_fused_operators_are_known_by_name(
    operator: str,
    domain: str,
    inputs: list[str],
    attributes: dict[str, Any],
    kind: str,
    heads: int,
) -> None:
    node = helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)
    constants = {
        "w": np.zeros((WIDTH, 3 * WIDTH), np.float32),
        "b": np.zeros(3 * WIDTH, np.float32),
        "n": np.zeros(1, np.int32),
    }
    shape = ["b", "t", WIDTH]
    model = built(
        [node], {"x": (FLOAT, shape), "m": (FLOAT, shape)}, {"y": (FLOAT, shape)}, constants, 23
    )
    (site,) = sites(model)
    assert (site.kind, site.heads) == (kind, heads)
    assert site.operator == (f"{domain}.{operator}" if domain else operator)


def test_a_site_inside_a_branch_is_counted_once() -> None:
    def body(name: str) -> Any:
        nodes = [
            helper.make_node("MatMul", ["x", "turned"], [f"{name}_s"]),
            helper.make_node("Softmax", [f"{name}_s"], [f"{name}_w"], axis=-1),
            helper.make_node("MatMul", [f"{name}_w", "x"], [f"{name}_y"]),
        ]
        result = helper.make_tensor_value_info(f"{name}_y", FLOAT, None)
        return helper.make_graph(nodes, name, [], [result])

    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("If", ["flag"], ["y"], then_branch=body("a"), else_branch=body("b")),
    ]
    inputs: dict[str, Any] = {"x": (FLOAT, ["b", "t", WIDTH]), "flag": (9, [])}
    (site,) = sites(built(nodes, inputs, {"y": (FLOAT, None)}))
    assert site.kind == "self"
