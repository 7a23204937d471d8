"""The contract suite on the backends that come with SeqLens and on the example plug-in."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.contract import BackendContract, Subject
from tests.support.torchscript_modules import (
    LENGTHS,
    TOKENS,
    Counter,
    Encoder,
    Recurrent,
    made,
    quiet,
)

from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.torchscript import TorchScriptBackend

PLUGIN = Path(__file__).parents[2] / "examples" / "backend_plugin"


def torchscript(path: Path, module: Any) -> Subject:
    with quiet():
        torch.jit.save(module, path)
    return Subject(TorchScriptBackend(), path)


class TestExportedOnnx(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        dynamic = {"tokens": {0: "batch", 1: "sequence"}, "lengths": {0: "batch"}}
        with quiet():
            torch.onnx.export(
                Recurrent("GRU").eval(),
                (TOKENS, LENGTHS),
                path,
                dynamo=False,
                opset_version=17,
                input_names=list(dynamic),
                output_names=["logits"],
                dynamic_axes={**dynamic, "logits": {0: "batch"}},
            )
        return Subject(OnnxBackend(), path)


class TestScriptedRecurrent(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        with quiet():
            module = made(Recurrent("LSTM", bidirectional=True))
        return torchscript(tmp_path_factory.mktemp("lstm") / "model.pt", module)


class TestTracedTransformer(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        with quiet():
            module = made(Encoder(), TOKENS, LENGTHS)
        return torchscript(tmp_path_factory.mktemp("transformer") / "model.pt", module)


class TestStatefulModule(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        with quiet():
            module = made(Counter())
        return torchscript(tmp_path_factory.mktemp("counter") / "model.pt", module)


class TestNumpyPlugin(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        sys.path.insert(0, str(PLUGIN))
        try:
            from seqlens_numpy.backend import NumpyBackend
        finally:
            sys.path.remove(str(PLUGIN))
        random = np.random.default_rng(0)
        path = tmp_path_factory.mktemp("elman") / "model.npz"
        np.savez(
            path,
            embedding=random.standard_normal((11, 4)),
            input_weight=random.standard_normal((6, 4)),
            recurrent_weight=random.standard_normal((6, 6)) / 3,
            bias=random.standard_normal(6),
            output_weight=random.standard_normal((3, 6)),
        )
        return Subject(NumpyBackend(), path)
