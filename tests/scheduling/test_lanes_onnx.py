"""The lanes with a real ONNX Runtime session shared by all of them."""

import asyncio

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.padding import pad, unpad
from seqlens.scheduling.strategy import Strategy
from seqlens.sequences import InputSequence

HIDDEN, VOCABULARY = 8, 50


def gru_tagger():
    """tokens [batch, sequence], lengths [batch] -> states [batch, sequence, hidden], last."""
    draw = np.random.default_rng(3)
    weights = {
        "table": draw.standard_normal((VOCABULARY, 4)),
        "w": draw.standard_normal((1, 3 * HIDDEN, 4)),
        "r": draw.standard_normal((1, 3 * HIDDEN, HIDDEN)) / 3,
    }
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["lengths"], ["counts"], to=TensorProto.INT32),
        helper.make_node(
            "GRU",
            ["time_first", "w", "r", "", "counts"],
            ["all", "final"],
            hidden_size=HIDDEN,
        ),
        helper.make_node("Squeeze", ["all", "one"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["states"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["final", "zero"], ["last"]),
    ]
    constants = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    constants += [numpy_helper.from_array(np.array([v]), n) for n, v in (("zero", 0), ("one", 1))]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tagger",
        [
            value("tokens", TensorProto.INT64, ["batch", "sequence"]),
            value("lengths", TensorProto.INT64, ["batch"]),
        ],
        [
            value("states", TensorProto.FLOAT, ["batch", "sequence", HIDDEN]),
            value("last", TensorProto.FLOAT, ["batch", HIDDEN]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("tagger") / "model.onnx"
    onnx.save(gru_tagger(), path)
    engine = OnnxBackend().load(path, LoadOptions(device=Device("cpu")))
    yield engine
    engine.close()


async def test_two_lanes_answer_every_sequence_as_it_would_be_alone(running, served, engine):
    draw = np.random.default_rng(5)
    sequences = [
        InputSequence({"tokens": draw.integers(1, VOCABULARY, length)}, int(length))
        for length in draw.integers(1, 40, 200)
    ]
    async with running(lanes=2) as arbiter:
        queue = arbiter.add(served(engine, Strategy.BY_LENGTH))
        answers = await asyncio.gather(*queue.submit_all(sequences))
    assert max(answer.batch_size for answer in answers) > 4
    for sequence, answer in zip(sequences, answers, strict=True):
        outputs = engine.run(pad(engine.anatomy, [sequence]))
        (alone,) = unpad(engine.anatomy, outputs, [sequence.length])
        assert answer.outputs["states"].shape == (sequence.length, HIDDEN)
        for name, expected in alone.items():
            np.testing.assert_allclose(answer.outputs[name], expected, atol=1e-6)
