"""Where vectors are looked up in graphs of many forms, and that adding to them is what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from tests.support import onnx_models as models
from tests.support.onnx_opened import OpenedOnnx, open_onnx

from seqlens.backends.tapped import Look
from seqlens.errors import NotInModel
from seqlens.sequences import Array

ROWS, WIDTH = 11, 6


def table(dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(dtype)


def summed(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], value: str = "v"
) -> ModelProto:
    """Ids [batch, time] looked up by the nodes, and the tanh of their vectors, summed."""
    rest = [
        helper.make_node("Cast", [value], ["single"], to=models.FLOAT),
        helper.make_node("Tanh", ["single"], ["bent"]),
        helper.make_node("ReduceMean", ["bent"], ["y"], axes=[1], keepdims=0),
    ]
    return models.built(
        [*nodes, *rest],
        {"ids": (models.INT64, ["b", "t"])},
        {"y": (models.FLOAT, ["b", WIDTH])},
        constants,
    )


def plain(dtype: Any = np.float32) -> ModelProto:
    return summed([helper.make_node("Gather", ["table", "ids"], ["v"])], {"table": table(dtype)})


def rounded() -> ModelProto:
    """A table of int8, turned into floats behind the look-up."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["small"]),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["v"]),
    ]
    constants = {
        "table": np.round(table() * 40).astype(np.int8),
        "scale": np.array(0.025, np.float32),
        "zero": np.array(0, np.int8),
    }
    return summed(nodes, constants)


def dequantized() -> ModelProto:
    """A table of int8, turned into floats in front of the look-up."""
    nodes = [
        helper.make_node("DequantizeLinear", ["small", "scale"], ["table"]),
        helper.make_node("Gather", ["table", "ids"], ["v"]),
    ]
    small = np.round(table() * 40).astype(np.int8)
    return summed(nodes, {"small": small, "scale": np.array(0.025, np.float32)})


def turned() -> ModelProto:
    """Ids that are cast, cut to the table and turned first."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["short"], to=TensorProto.INT32),
        helper.make_node("Transpose", ["short"], ["across"], perm=[1, 0]),
        helper.make_node("Gather", ["table", "across"], ["first"]),
        helper.make_node("Transpose", ["first"], ["v"], perm=[1, 0, 2]),
    ]
    return summed(nodes, {"table": table()})


def normed() -> ModelProto:
    """The fused look-up, sum and norm of BERT."""
    node = helper.make_node(
        "EmbedLayerNormalization",
        ["small", "", "table", "places", "", "gamma", "beta"],
        ["v", "mask"],
        domain="com.microsoft",
    )
    cast = helper.make_node("Cast", ["ids"], ["small"], to=TensorProto.INT32)
    constants = {
        "table": table(),
        "places": np.tile(table() / 3, (4, 1)),
        "gamma": np.linspace(0.5, 1.5, WIDTH).astype(np.float32),
        "beta": np.zeros(WIDTH, np.float32),
    }
    return summed([cast, node], constants)


MODELS = {
    "plain": plain,
    "half": lambda: plain(np.float16),
    "rounded": rounded,
    "dequantized": dequantized,
    "turned": turned,
    "normed": normed,
}


@pytest.fixture(params=list(MODELS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> OpenedOnnx:
    return open_onnx(MODELS[request.param](), tmp_path)


def vectors(opened: OpenedOnnx, ids: Array) -> Array:
    embedding = opened.see({"ids": ids}, Look(embedding=True)).embedding
    assert embedding is not None
    return embedding


IDS = np.array([[1, 2, 3, 10], [4, 4, 0, 5]])


def test_vectors_are_rows_of_the_table(opened: OpenedOnnx) -> None:
    found = vectors(opened, IDS)
    if found.shape[:2] != IDS.shape:
        found = found.swapaxes(0, 1)
    half = found.dtype == np.float16
    exact = found.astype(np.float64) - table()[IDS]
    assert np.abs(exact).max() <= (2e-3 if half else 0.0126)  # an int8 step is 0.025
    np.testing.assert_array_equal(found[1, 0], found[1, 1])


def test_adding_nothing_changes_not_a_bit(opened: OpenedOnnx) -> None:
    delta = np.zeros_like(vectors(opened, IDS))
    moved = opened.see({"ids": IDS}, Look(delta=delta)).outputs
    np.testing.assert_array_equal(moved["y"], opened.engine.run({"ids": IDS})["y"])


def test_adding_the_difference_to_other_tokens_gives_their_answer(opened: OpenedOnnx) -> None:
    other = (IDS + 3) % ROWS
    delta = vectors(opened, other) - vectors(opened, IDS)
    seen = opened.see({"ids": IDS}, Look(delta=delta, embedding=True))
    expected = opened.engine.run({"ids": other})["y"]
    half = delta.dtype == np.float16
    np.testing.assert_allclose(seen.outputs["y"], expected, atol=2e-3 if half else 1e-5)
    assert seen.embedding is not None
    np.testing.assert_array_equal(seen.embedding, vectors(opened, IDS))  # as looked up


def test_a_lookup_in_a_branch_is_told_to_be_none(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("inside", models.FLOAT, None)
    gather = helper.make_node("Gather", ["table", "ids"], ["inside"])
    graphs = {
        f"{side}_branch": helper.make_graph([gather], side, [], [value])
        for side in ("then", "else")
    }
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("", 9, [], [True])),
        helper.make_node("If", ["flag"], ["v"], **graphs),
    ]
    opened = open_onnx(summed(nodes, {"table": table()}), tmp_path)
    for look in (Look(embedding=True), Look(delta=np.zeros((2, 4, WIDTH), np.float32))):
        with pytest.raises(NotInModel, match="main graph"):
            opened.see({"ids": IDS}, look)
