"""SeqLens and tritonclient in one process: all messages of a process share one pool."""

import subprocess
import sys

import pytest

OURS = "from seqlens_wire.pb import open_inference_pb2, open_inference_pb2_grpc as ours"
THEIRS = "from tritonclient.grpc import service_pb2, service_pb2_grpc as theirs"


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours", "theirs"])
def test_both_load_whoever_comes_first(order: tuple[str, str]) -> None:
    use = "assert open_inference_pb2.ModelInferRequest is not service_pb2.ModelInferRequest"
    code = "\n".join((*order, use))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_wire_loads_neither_server_nor_client_nor_frameworks() -> None:
    code = """
import sys
import seqlens_wire.contents, seqlens_wire.errors, seqlens_wire.ragged, seqlens_wire.services
unwanted = {"seqlens", "seqlens_client", "torch", "onnxruntime", "starlette", "ml_dtypes"}
assert not unwanted & sys.modules.keys(), unwanted & sys.modules.keys()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
