"""The surface that users hold us to."""

import inspect
import subprocess
import sys
from importlib.resources import files

import pytest

import seqlens_client
from seqlens_client import AsyncClient, Client

SURFACE = {
    "AsyncClient",
    "AttentionMap",
    "AttentionMeasures",
    "AttentionProof",
    "AttentionSite",
    "BatchStatistics",
    "Cancelled",
    "Client",
    "CostPoint",
    "DeadlineExceeded",
    "FileSummary",
    "GateLayer",
    "GateReading",
    "Gates",
    "Influence",
    "InfluenceByDistance",
    "InfluenceMap",
    "InfluenceTarget",
    "InputAnatomy",
    "InsideSequence",
    "InvalidInput",
    "Limits",
    "ModelDescription",
    "ModelNotFound",
    "ModelStatistics",
    "ModelStatus",
    "NotAuthenticated",
    "NotInModel",
    "NotOffered",
    "NotPermitted",
    "OneSequence",
    "OutputAnatomy",
    "Overloaded",
    "ParameterGroup",
    "Proof",
    "RecurrentLayer",
    "Result",
    "SeqLensError",
    "ServerError",
    "SiteMap",
    "Times",
    "Unavailable",
    "tls",
    "to_frame",
    "to_row",
}


def test_the_surface_is_as_written_down() -> None:
    assert set(seqlens_client.__all__) == SURFACE
    public = {
        name
        for name, value in vars(seqlens_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == SURFACE


def test_types_are_offered_to_checkers() -> None:
    assert files("seqlens_client").joinpath("py.typed").is_file()


def test_importing_the_client_loads_no_server_no_framework_and_no_extra() -> None:
    code = """
import sys
import seqlens_client
heavy = {"seqlens", "torch", "onnxruntime", "onnx", "starlette", "msgspec", "tokenizers",
         "pandas", "pyarrow", "tqdm", "matplotlib"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_our_own_part_of_the_import_takes_a_moment() -> None:
    # Least of a few: other tests share the machine. Measured: 0.08 s on a busy machine.
    code = """
import time, grpc.aio, numpy, google.protobuf.message
started = time.process_time()
import seqlens_client
print(time.process_time() - started)
"""
    run = [sys.executable, "-c", code]
    seconds = min(float(subprocess.check_output(run)) for _ in range(3))
    assert seconds < 0.25


def methods(kind: type) -> dict[str, inspect.Signature]:
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name: inspect.signature(f) for name, f in members if not name.startswith("_")}


def test_both_clients_offer_the_same_methods_with_the_same_arguments() -> None:
    ours, theirs = methods(Client), methods(AsyncClient)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"stream"}:  # whose async twin takes async iterables as well
        assert ours[name].parameters == theirs[name].parameters
    assert list(ours["stream"].parameters) == list(theirs["stream"].parameters)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_method_says_what_it_does(kind: type) -> None:
    assert all(inspect.getdoc(getattr(kind, name)) for name in methods(kind))
