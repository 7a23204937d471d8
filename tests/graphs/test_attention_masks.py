"""Masks of one row for all queries, which ONNX Runtime's kernel refuses, are given all rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from tests.support.onnx_taps import run

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx_engine import load
from seqlens.backends.tapped import Look
from seqlens.graphs.attention_masks import MASKS_SPREAD, repair_attention_masks
from seqlens.sequences import Array

BATCH, HEADS, LENGTH, SIZE = 2, 2, 5, 3
PADDED = np.arange(LENGTH) >= np.array([[LENGTH], [3]])  # [batch, keys]


def parsed(text: str, opset: int = 23) -> ModelProto:
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>'
    model = onnx.parser.parse_model(head + text)
    onnx.checker.check_model(model)
    return model


def drawn(*shape: int) -> Array:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def attended(x: Array, mask: Array) -> Array:
    """Attention of x [batch, heads, time, size] to itself in float64."""
    scores = np.where(mask, x.astype(np.float64) @ x.swapaxes(2, 3) / np.sqrt(x.shape[-1]), -np.inf)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True) @ x)


def attention(mask: str, opset: int = 23, x: str = "b, 2, t, 3") -> ModelProto:
    return parsed(
        f"masked (float[{x}] x, bool[{mask}] mask) => (float[{x}] y) {{"
        " y = Attention(x, x, x, mask) }",
        opset,
    )


X = drawn(BATCH, HEADS, LENGTH, SIZE)


@pytest.mark.parametrize("opset", [23, 24])
def test_a_padding_mask_is_refused_as_exported_and_runs_repaired(opset: int) -> None:
    model = attention("b, 1, 1, t", opset)
    inputs = {"x": X, "mask": ~PADDED[:, None, None]}
    with pytest.raises(Exception, match="inconsistent q_sequence_length"):
        run(model, inputs)
    repaired = repair_attention_masks(model)
    assert repaired is not None
    expected = attended(X, inputs["mask"])
    np.testing.assert_allclose(run(repaired, inputs)["y"], expected, atol=1e-6)


@pytest.mark.parametrize("mask", ["1, t", "1, 1, 1, t", "b, 2, 1, t"])
def test_masks_of_any_rank_are_spread(mask: str) -> None:
    repaired = repair_attention_masks(attention(mask))
    assert repaired is not None
    shape = [{"b": BATCH, "t": LENGTH}.get(size) or int(size) for size in mask.split(", ")]
    given = np.broadcast_to(~PADDED[1], shape)
    found = run(repaired, {"x": X, "mask": given})["y"]
    np.testing.assert_allclose(found, attended(X, given), atol=1e-6)


def test_heads_that_are_joined_in_one_axis() -> None:
    model = parsed(
        """joined (float[b, t, 6] x, bool[b, 1, 1, t] mask) => (float[b, t, 6] y) {
            y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x, mask)
        }"""
    )
    repaired = repair_attention_masks(model)
    assert repaired is not None
    mask = ~PADDED[:, None, None]
    joined = X.transpose(0, 2, 1, 3).reshape(BATCH, LENGTH, -1)
    expected = attended(X, mask).transpose(0, 2, 1, 3).reshape(BATCH, LENGTH, -1)
    found = run(repaired, {"x": joined, "mask": mask})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_mask_of_unknown_shape_keeps_the_rows_that_it_has() -> None:
    """Nothing is known of the shape: what comes out of the reshape is seen in a run only."""
    model = parsed(
        """unknown (float[b, 2, t, 3] x, bool[n] flat, int64[r] shape) => (float[b, 2, t, 3] y) {
            mask = Reshape(flat, shape)
            y = Attention(x, x, x, mask)
        }"""
    )
    repaired = repair_attention_masks(model)
    assert repaired is not None
    causal = np.tri(LENGTH, dtype=bool)
    for mask in (causal, causal & ~PADDED[:, None, None], ~PADDED[:, None, None]):
        inputs = {"x": X, "flat": mask.ravel(), "shape": np.array(mask.shape)}
        found = run(repaired, inputs)["y"]
        np.testing.assert_allclose(found, attended(X, mask), atol=1e-6)


def test_masks_in_a_branch_and_in_a_local_function() -> None:
    model = parsed(
        """branched (float[b, 2, t, 3] x, bool[b, 1, 1, t] mask, bool flag)
            => (float[b, 2, t, 3] y) {
            y = If(flag) <
                then_branch = yes () => (float[b, 2, t, 3] a) { a = own.attend(x, mask) },
                else_branch = no () => (float[b, 2, t, 3] c) { c = Attention(x, x, x, mask) }
            >
        }
        <domain: "own", opset_import: ["" : 23]> attend (x, mask) => (y) {
            y = Attention(x, x, x, mask)
        }"""
    )
    repaired = repair_attention_masks(model)
    assert repaired is not None
    mask = ~PADDED[:, None, None]
    for flag in (True, False):
        found = run(repaired, {"x": X, "mask": mask, "flag": np.array(flag)})["y"]
        np.testing.assert_allclose(found, attended(X, mask), atol=1e-6)


@pytest.mark.parametrize("mask", ["t, t", "b, 1, t, t", "b, 1, 5, t"])
def test_masks_that_have_all_rows_are_left_alone(mask: str) -> None:
    assert repair_attention_masks(attention(mask)) is None


def test_a_repaired_model_is_not_repaired_again() -> None:
    repaired = repair_attention_masks(attention("b, 1, 1, t"))
    assert repaired is not None
    assert repair_attention_masks(repaired) is None


@pytest.mark.parametrize(
    "text",
    [
        "none (float[b, 2, t, 3] x) => (float[b, 2, t, 3] y) { y = Attention(x, x, x) }",
        "other (float[b, 2, t, 3] x) => (float[b, 2, t, 3] y) { y = Relu(x) }",
    ],
)
def test_models_without_such_masks_are_left_alone(text: str) -> None:
    assert repair_attention_masks(parsed(text)) is None


SERVED = """served (int64[batch, time] tokens, bool[batch, time] mask)
    => (float[batch, time, 3] y) {
    ids = Identity(tokens)
    word = Gather(table, ids)
    axis = Constant<value = int64[1] {1}>()
    axes = Constant<value = int64[2] {1, 2}>()
    x = Unsqueeze(word, axis)
    wide = Unsqueeze(mask, axes)
    mixed = Attention(x, x, x, wide)
    y = Squeeze(mixed, axis)
}"""


def served_model(folder: Path) -> Path:
    head = '<ir_version: 10, opset_import: ["" : 23]>'
    model = onnx.parser.parse_model(head + SERVED)
    model.graph.initializer.append(onnx.numpy_helper.from_array(drawn(11, 3), "table"))
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def test_such_a_model_is_served_and_opened_and_says_what_was_done(tmp_path: Path) -> None:
    path, options = served_model(tmp_path), LoadOptions(Device("cpu"))
    engine = load(path, options)
    assert MASKS_SPREAD in engine.anatomy.findings
    tokens = np.random.default_rng(0).integers(0, 11, (BATCH, LENGTH))
    inputs = {"tokens": tokens, "mask": ~PADDED}
    x = drawn(11, 3)[tokens][:, None]
    expected = attended(x, inputs["mask"][:, None, None])[:, 0]
    answer = engine.run(inputs)["y"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)

    again = load(path, replace(options, anatomy=engine.anatomy))  # as from the cache
    np.testing.assert_array_equal(again.run(inputs)["y"], answer)
    assert again.anatomy == engine.anatomy
    tapped = again.tapped()
    assert tapped is not None
    (tap,) = tapped.taps
    seen = tapped.run(inputs, Look((tap.site.name,)))
    np.testing.assert_array_equal(seen.outputs["y"], answer)
    np.testing.assert_array_equal(seen.weights[tap.site.name][1, ..., 3:], 0)
    np.testing.assert_allclose(seen.weights[tap.site.name].sum(-1), 1, atol=1e-6)
