"""Weights of fused kernels, against numpy, against onnx's own cases, and against PyTorch."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper
from onnx.backend.test.case.node import attention as attention_cases
from onnx.reference.ops.op_attention import _compute_attention
from tests.support import attention_table
from tests.support import onnx_models as models
from tests.support.onnx_taps import run, tapped

from seqlens.errors import NotInModel
from seqlens.graphs.fused_product import open_product
from seqlens.graphs.taps import read_taps, tap_model
from seqlens.sequences import Array

BATCH, LENGTH, HEADS, SIZE = 2, 5, 3, 4
WIDTH = HEADS * SIZE
HALF, SINGLE = 2e-3, 1e-5  # tolerances of FP16 and FP32


@dataclass(frozen=True)
class Case:
    """One node with inputs."""

    name: str
    node: NodeProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    opset: int = 24

    @property
    def model(self) -> ModelProto:
        named = [self.inputs.items(), self.outputs.items()]
        values = [
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in each
            ]
            for each in named
        ]
        graph = helper.make_graph([self.node], self.name, *values)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def product_errors(model: ModelProto, inputs: Mapping[str, Array]) -> list[float]:
    graphs = [open_product(model, tap.site.name) for tap in read_taps(model).taps]
    return [graph.error(run(graph.model, inputs)) for graph in graphs if graph is not None]


def onnx_cases() -> Iterator[Case]:
    """The test cases of onnx for its Attention operator."""
    made: list[Case] = []

    def keep(
        node: NodeProto, inputs: Sequence[Array], outputs: Sequence[Array], name: str, **more: Any
    ) -> None:
        given, gives = (filter(None, names) for names in (node.input, node.output))
        opsets = [each.version for each in more.get("opset_imports", ())]
        known = [dict(zip(*each, strict=True)) for each in ((given, inputs), (gives, outputs))]
        made.append(Case(name, node, *known, *opsets))

    plain = attention_cases.expect
    attention_cases.expect = keep  # collecting them the official way makes those of all operators
    try:
        for name, make in inspect.getmembers(attention_cases.Attention, inspect.isfunction):
            if name.startswith("export"):
                make()
    finally:
        attention_cases.expect = plain
    yield from (case for case in made if "bf16" not in case.name)  # no CPU kernel adds BF16


def reference_weights(case: Case) -> Array:
    given = [case.inputs.get(name) if name else None for name in case.node.input]
    attributes = {a.name: helper.get_attribute_value(a) for a in case.node.attribute}
    attributes["qk_matmul_output_mode"] = 3
    found: Array = _compute_attention(*given, **attributes)[3]
    return found


Errors = dict[tuple[str, str, str, int], float]


@pytest.fixture(scope="module")
def largest_errors() -> Iterator[Errors]:
    """By model, form, operator and number of maps: goes into the table of the docs."""
    found: Errors = {}
    yield found
    for (model, form, operator, maps), error in found.items():
        attention_table.record(model, form, {operator}, maps, error)


def note(errors: Errors, key: tuple[str, str, str, int], found: Array, expected: Array) -> None:
    error = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    errors[key] = max(errors.get(key, 0.0), error)


def by_hand(operator: str) -> tuple[str, str, str, int]:
    return f"one {operator}", "com.microsoft, by hand", f"com.microsoft.{operator}", 1


REFUSED_BY_RUNTIME = {"test_attention_4d_diff_heads_mask4d_padded_kv"}  # a mask of fewer keys


@pytest.mark.parametrize("case", list(onnx_cases()), ids=lambda case: case.name)
def test_weights_of_the_cases_of_onnx_are_those_of_its_reference(
    case: Case, largest_errors: Errors
) -> None:
    if case.name in REFUSED_BY_RUNTIME:
        with pytest.raises(Exception, match="attn_mask"):
            run(case.model, case.inputs)
        return
    half = any(array.dtype == np.float16 for array in case.inputs.values())
    (weights,) = tapped(case.model, case.inputs)
    expected, form = reference_weights(case), "FP16" if half else "FP32"
    note(largest_errors, ("onnx's cases of Attention", form, "Attention", 1), weights, expected)
    np.testing.assert_allclose(weights.astype(np.float64), expected, atol=HALF if half else SINGLE)
    assert product_errors(case.model, case.inputs)[0] < (HALF if half else SINGLE)


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    whole: Array = powers / powers.sum(-1, keepdims=True)
    return whole


def split(array: Array, heads: int = HEADS) -> Array:
    """[batch, positions, width] as [batch, heads, positions, size], in float64."""
    batch, length, width = array.shape
    parts = array.reshape(batch, length, heads, width // heads)
    return parts.swapaxes(1, 2).astype(np.float64)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def microsoft(
    operator: str, inputs: dict[str, Array], places: Sequence[str], outputs: int = 1, **more: Any
) -> Case:
    node = helper.make_node(
        operator,
        [name if name in inputs else "" for name in places],
        [f"y{index}" for index in range(outputs)],
        name="attention",
        domain="com.microsoft",
        **more,
    )
    half = inputs[places[0]].dtype
    shapes: dict[str, Array] = {
        f"y{i}": np.zeros((1,) * (3 + (i > 0)), half) for i in range(outputs)
    }
    return Case(operator, node, inputs, shapes)


def free(case: Case) -> ModelProto:
    """The case's model with outputs of any shape."""
    model = case.model
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


ATTENTION = ["input", "weights", "bias", "mask", "past", "attention_bias"]
MASKS: dict[str, Array | None] = {
    "none": None,
    "lengths": np.array([5, 3], np.int32),
    "ends and starts": np.array([5, 4, 0, 1], np.int32),
    "mask": np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], np.int32),
}


def visible(mask: Array | None) -> Array:
    """Which keys may be seen, [batch, 1, 1, keys]."""
    if mask is None:
        return np.ones((BATCH, 1, 1, LENGTH), bool)
    if mask.ndim == 2:
        return mask[:, None, None] > 0
    ends, starts = mask[:BATCH], mask[BATCH:] if len(mask) > BATCH else np.zeros(BATCH)
    places = np.arange(LENGTH)
    inside = (places < ends[:, None]) & (places >= starts[:, None])
    return inside[:, None, None]


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_attention_of_microsoft_is_recomputed_beside_the_kernel(
    mask: str, causal: bool, dtype: Any, largest_errors: Errors
) -> None:
    """In halves without the kernel, of which there is none for the CPU."""
    inputs = {
        "input": normal(BATCH, LENGTH, 7, dtype=dtype),
        "weights": normal(7, 3 * WIDTH, seed=1, dtype=dtype) / 4,
        "bias": normal(3 * WIDTH, seed=2, dtype=dtype),
        "attention_bias": normal(1, HEADS, LENGTH, LENGTH, seed=3, dtype=dtype),
    }
    if (given := MASKS[mask]) is not None:
        inputs["mask"] = given
    case = microsoft("Attention", inputs, ATTENTION, num_heads=HEADS, unidirectional=int(causal))
    half = dtype == np.float16
    (weights,) = [branch_alone(free(case), inputs)] if half else tapped(free(case), inputs)
    both = inputs["input"].astype(np.float64) @ inputs["weights"] + inputs["bias"]
    query, key, _ = (split(part) for part in np.split(both, 3, -1))
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(SIZE)
    scores += inputs["attention_bias"] + np.where(visible(given), 0, -1e4)
    if causal:
        scores = np.where(np.tril(np.ones((LENGTH, LENGTH), bool)), scores, -1e30)
    if not half:
        note(largest_errors, by_hand("Attention"), weights, softmax(scores))
    np.testing.assert_allclose(weights, softmax(scores), atol=HALF if half else SINGLE)
    assert weights.dtype == dtype
    assert half or product_errors(free(case), inputs)[0] < SINGLE
    (tap,) = read_taps(free(case)).taps
    assert (tap.measured, tap.replaceable) == (False, False)
    assert "recomputed" in tap.note


def branch_alone(model: ModelProto, inputs: Mapping[str, Array]) -> Array:
    """The weights of a graph from which the kernel itself was taken."""
    graph = tap_model(model, ["attention"])
    kernel = next(node for node in graph.model.graph.node if node.op_type == "Attention")
    graph.model.graph.node.remove(kernel)
    del graph.model.graph.output[0]
    return run(graph.model, inputs)[graph.outputs["attention"]]


def test_other_widths_scale_and_mask_value_are_respected() -> None:
    inputs = {
        "input": normal(BATCH, LENGTH, 7),
        "weights": normal(7, 2 * WIDTH + HEADS * 2, seed=1),
        "bias": normal(2 * WIDTH + HEADS * 2, seed=2),
        "mask": np.array([4, 2], np.int32),
    }
    case = microsoft(
        "Attention",
        inputs,
        ATTENTION,
        num_heads=HEADS,
        qkv_hidden_sizes=[WIDTH, WIDTH, HEADS * 2],
        scale=0.25,
        mask_filter_value=-1.0,
    )
    (weights,) = tapped(free(case), inputs)
    both = inputs["input"].astype(np.float64) @ inputs["weights"] + inputs["bias"]
    query, key = (split(part) for part in np.split(both[..., : 2 * WIDTH], 2, -1))
    scores = query @ key.swapaxes(-1, -2) * 0.25
    np.testing.assert_allclose(
        weights, softmax(np.where(visible(inputs["mask"]), scores, scores - 1)), atol=SINGLE
    )
    assert product_errors(free(case), inputs)[0] < SINGLE


MULTI_HEAD = ["query", "key", "value", "bias", "mask", "attention_bias", "past_key", "past_value"]


@pytest.mark.parametrize("more", ["nothing", "mask", "attention_bias", "bias", "causal", "past"])
def test_multi_head_attention_gives_its_scores(more: str, largest_errors: Errors) -> None:
    """Cross-attention of 5 queries over 5 keys, and over 3 earlier ones with a cache."""
    shape = (BATCH, LENGTH, WIDTH)
    inputs = {name: normal(*shape, seed=s) for s, name in enumerate(MULTI_HEAD[:3])}
    extra = {
        "mask": {"mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)},
        "attention_bias": {"attention_bias": normal(BATCH, HEADS, LENGTH, LENGTH, seed=4)},
        "bias": {"bias": normal(3 * WIDTH, seed=5)},
        "past": {
            "past_key": normal(BATCH, HEADS, 3, SIZE, seed=6),
            "past_value": normal(BATCH, HEADS, 3, SIZE, seed=7),
        },
    }.get(more, {})
    inputs |= extra
    case = microsoft(
        "MultiHeadAttention",
        inputs,
        MULTI_HEAD,
        outputs=3 if more == "past" else 1,
        num_heads=HEADS,
        unidirectional=int(more == "causal"),
    )
    (weights,) = tapped(free(case), inputs)
    bias = np.split(inputs.get("bias", np.zeros(3 * WIDTH)), 3)
    query, key = (split(inputs[n] + b) for n, b in zip(MULTI_HEAD[:2], bias[:2], strict=True))
    if more == "past":
        key = np.concatenate([inputs["past_key"], key], 2)
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(SIZE) + inputs.get("attention_bias", 0)
    seen: Array = np.tril(np.ones((LENGTH, LENGTH), bool)) if more == "causal" else np.ones(1, bool)
    if more == "mask":
        seen = inputs["mask"][:, None, None] > 0
    expected = softmax(np.where(seen, scores, -1e4))
    note(largest_errors, by_hand("MultiHeadAttention"), weights, expected)
    np.testing.assert_allclose(weights, expected, atol=SINGLE)
    assert product_errors(free(case), inputs)[0] < SINGLE
    assert "scores" in read_taps(free(case)).taps[0].note


GROUPED = ["query", "key", "value", "past_key", "past_value", "lengths", "total"]


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
def test_grouped_heads_give_their_weights(past: int, packed: bool, largest_errors: Errors) -> None:
    """Four query heads over two key heads of size 8, causal, with and without a cache."""
    heads, groups, size, fresh = 4, 2, 8, 1 if past else LENGTH
    parts = [normal(BATCH, fresh, n * size, seed=n) for n in (heads, groups, 1 + groups)]
    parts[2] = parts[2][..., size:]
    whole = past + fresh
    inputs = {
        **(
            {"query": np.concatenate(parts, -1)}
            if packed
            else dict(zip(GROUPED, parts, strict=False))
        ),
        "past_key": normal(BATCH, groups, past, size, seed=8),
        "past_value": normal(BATCH, groups, past, size, seed=9),
        "lengths": np.full(BATCH, whole - 1, np.int32),
        "total": np.array(whole, np.int32),
    }
    case = microsoft(
        "GroupQueryAttention", inputs, GROUPED, 3, num_heads=heads, kv_num_heads=groups
    )
    (weights,) = tapped(free(case), inputs)
    key = np.concatenate([inputs["past_key"], split(parts[1], groups)], 2)
    scores = split(parts[0], heads) @ np.repeat(key, 2, 1).swapaxes(-1, -2) / math.sqrt(size)
    seen = np.tril(np.ones((whole, whole), bool))[-fresh:]
    expected = softmax(np.where(seen, scores, -1e9))
    note(largest_errors, by_hand("GroupQueryAttention"), weights, expected)
    np.testing.assert_allclose(weights, expected, atol=SINGLE)
    assert product_errors(free(case), inputs)[0] < SINGLE
    assert read_taps(free(case)).taps[0].measured


@pytest.mark.parametrize(
    ("operator", "places", "more", "reason"),
    [
        ("PackedAttention", 5, {}, "packed"),
        ("PackedMultiHeadAttention", 6, {}, "packed"),
        ("PagedAttention", 8, {}, "cache"),
        ("QAttention", 5, {}, "int8"),
        ("QOrderedAttention", 5, {}, "int8"),
        ("DecoderMaskedMultiHeadAttention", 3, {}, "cache"),
        ("DecoderMaskedSelfAttention", 3, {}, "cache"),
        ("DecoderAttention", 5, {}, "cache"),
        ("LongformerAttention", 7, {}, "window"),
        ("SparseAttention", 9, {}, "blocks"),
        ("MultiHeadAttention", 1, {}, "packed in one tensor"),
        ("MultiHeadAttention", 2, {}, "packed in one tensor"),
        ("Attention", 5, {}, "earlier steps"),
        ("Attention", 3, {"do_rotary": 1}, "positions"),
        ("Attention", 3, {}, "width of its heads"),
    ],
)
def test_kernels_that_cannot_be_tapped_are_named_with_the_reason(
    operator: str, places: int, more: dict[str, int], reason: str
) -> None:
    names = [f"in{index}" for index in range(places)]
    node = helper.make_node(
        operator, names, ["y"], name="site", domain="com.microsoft", num_heads=HEADS, **more
    )
    shapes = {name: (models.FLOAT, ["b", "t", "w"]) for name in names}
    model = models.built([node], shapes, {"y": (models.FLOAT, ["b", "t", "w"])})
    reading = read_taps(model)
    assert reading.taps == ()
    assert reason in reading.untapped[0].reason
    assert operator in reading.untapped[0].reason
    with pytest.raises(NotInModel, match=reason):
        tap_model(model, ["site"])


@pytest.mark.parametrize("rank", [3, 4])
def test_masks_of_more_axes_are_refused(rank: int) -> None:
    inputs = {
        "input": normal(1, 2, WIDTH),
        "weights": normal(WIDTH, 3 * WIDTH),
        "bias": normal(3 * WIDTH),
        "mask": np.ones((1, 2, 2, 2)[:rank], np.int32),
    }
    case = microsoft("Attention", inputs, ATTENTION, num_heads=HEADS)
    assert f"its mask has {rank} axes" in read_taps(case.model).untapped[0].reason


def test_the_weights_of_a_kernel_cannot_be_replaced() -> None:
    case = next(onnx_cases())
    (tap,) = read_taps(case.model).taps
    assert not tap.replaceable
    with pytest.raises(NotInModel, match="one kernel"):
        tap_model(case.model, [], replaced=[tap.site.name])


def test_a_kernel_in_a_branch_is_tapped_too() -> None:
    case = next(onnx_cases())
    shape = {n: (models.FLOAT, a.shape) for n, a in {**case.inputs, **case.outputs}.items()}
    value = helper.make_tensor_value_info("Y", *shape["Y"])
    branches = {
        "then_branch": helper.make_graph([case.node], "kernel", [], [value]),
        "else_branch": helper.make_graph(
            [helper.make_node("Identity", ["Q"], ["Y"])], "plain", [], [value]
        ),
    }
    node = helper.make_node("If", ["flag"], ["out"], **branches)
    inputs = {"flag": (onnx.TensorProto.BOOL, []), **{n: shape[n] for n in case.inputs}}
    model = models.built([node], inputs, {"out": shape["Y"]}, opset=24)
    model.ir_version = 10
    (weights,) = tapped(model, {**case.inputs, "flag": np.array(True)})
    np.testing.assert_allclose(weights, reference_weights(case), atol=SINGLE)


class Bert(torch.nn.Module):
    """Two layers written the way that ONNX Runtime's optimizer knows as BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30, 16)
        self.places = torch.nn.Embedding(40, 16)
        self.kinds = torch.nn.Embedding(2, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.layers = torch.nn.ModuleList(BertLayer() for _ in range(2))

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        places = torch.arange(40).unsqueeze(0)[:, : input_ids.shape[1]]
        x = self.words(input_ids) + self.kinds(token_type_ids) + self.places(places)
        x, mask = self.norm(x), (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        weights = []
        for layer in self.layers:
            x, each = layer(x, mask)
            weights.append(each)
        return (x, *weights) if self.training else x


class BertLayer(torch.nn.Module):
    """Post-norm attention of four heads and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (torch.nn.Linear(16, 16) for _ in range(4))
        self.first, self.second = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)
        self.wide, self.narrow = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)

    def split(self, x: Any) -> Any:
        return x.view(x.size(0), x.size(1), 4, 4).permute(0, 2, 1, 3)

    def forward(self, x: Any, mask: Any) -> Any:
        query, key, value = (self.split(part(x)) for part in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(4) + mask
        weights = torch.softmax(scores, -1)
        mixed = torch.matmul(weights, value).permute(0, 2, 1, 3).contiguous()
        x = self.first(self.out(mixed.view(x.size(0), x.size(1), 16)) + x)
        wide = torch.nn.functional.gelu(self.wide(x))
        return self.second(self.narrow(wide) + x), weights


BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@pytest.fixture(scope="module")
def bert() -> Bert:
    torch.manual_seed(0)
    return Bert().eval()


@pytest.fixture(scope="module")
def optimized(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelProto]:
    """The model after ONNX Runtime's optimizer for transformers."""
    ids = torch.ones(2, 6, dtype=torch.int64)
    path = tmp_path_factory.mktemp("bert") / "bert.onnx"
    onnx.save(models.export(bert, [ids] * 3, list(BERT_INPUTS), opset=14), path)

    def optimize(*, multi_head: bool) -> ModelProto:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from onnxruntime.transformers.fusion_options import FusionOptions
            from onnxruntime.transformers.optimizer import optimize_model

            options = FusionOptions("bert")
            options.use_multi_head_attention = multi_head
            made = optimize_model(
                str(path), "bert", num_heads=4, hidden_size=16, optimization_options=options
            )
        model: ModelProto = made.model
        return model

    return optimize


@pytest.mark.parametrize("multi_head", [False, True], ids=["Attention", "MultiHeadAttention"])
def test_what_the_optimizer_of_onnx_runtime_fused_is_as_in_pytorch(
    bert: Bert, optimized: Callable[..., ModelProto], multi_head: bool, largest_errors: Errors
) -> None:
    model = optimized(multi_head=multi_head)
    operator = "MultiHeadAttention" if multi_head else "Attention"
    sites = read_taps(model).taps
    assert [tap.site.operator for tap in sites] == [f"com.microsoft.{operator}"] * 2
    ids = np.random.default_rng(0).integers(0, 30, (3, 9))
    mask = (np.arange(9) < np.array([[9], [6], [2]])).astype(np.int64)
    inputs = dict(zip(BERT_INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
    bert.train()  # gives the weights as well; nothing in it drops out
    with torch.no_grad():
        expected = bert(*(torch.from_numpy(array) for array in inputs.values()))[1:]
    bert.eval()
    key = ("BERT, 2 layers", f"legacy 14, optimized to {operator}", sites[0].site.operator, 2)
    for weights, reference in zip(tapped(model, inputs), expected, strict=True):
        note(largest_errors, key, weights, reference.numpy())
        np.testing.assert_allclose(weights, reference.numpy(), atol=SINGLE)
    assert max(product_errors(model, inputs)) < SINGLE
