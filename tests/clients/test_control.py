"""Loading, unloading and statistics, against a real server."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqlens_client as sdk


@pytest.fixture(scope="module")
def own_target(
    repository: Path, serve_for_module: Callable[..., Any], tmp_path_factory: Any
) -> str:
    """A server of one model, which tests may unload."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(repository / "rnn-onnx", folder / "rnn-onnx")
    return str(serve_for_module(folder, "--remote-control").grpc)


async def test_models_are_unloaded_and_loaded(face: Any, own_target: str) -> None:
    client = face(own_target, timeout=60)
    await client.unload("rnn-onnx")
    assert not await client.ready("rnn-onnx")
    with pytest.raises(sdk.SeqLensError) as caught:
        await client.infer("rnn-onnx", [1])
    assert isinstance(caught.value, sdk.Unavailable | sdk.ModelNotFound)
    await client.load("rnn-onnx")
    assert (await client.infer("rnn-onnx", [1, 2])).length == 2
    with pytest.raises(sdk.ModelNotFound):
        await client.load("nobody")
    await client.close()


async def test_statistics_count_what_was_done(face: Any, own_target: str) -> None:
    client = face(own_target)
    (before,) = await client.statistics("rnn-onnx")
    await client.infer("rnn-onnx", [[1, 2], [3], [4]])
    (after,) = await client.statistics("rnn-onnx", version="1")
    assert (after.name, after.version) == ("rnn-onnx", "1")
    assert after.inference_count == before.inference_count + 3
    assert after.execution_count > before.execution_count
    assert after.success.count > before.success.count
    assert 0 < after.success.mean_seconds < 60
    assert 1 <= after.mean_batch_size <= 3
    assert after.last_inference is not None
    assert sum(batch.compute_infer.count for batch in after.batches) == after.execution_count
    assert [model.name for model in await client.statistics()] == ["rnn-onnx"]
    with pytest.raises(sdk.ModelNotFound):
        await client.statistics("nobody")
    await client.close()


def test_nothing_divided_by_nothing_is_nothing() -> None:
    never = sdk.Times(0, 0.0)
    statistics = sdk.ModelStatistics("m", "1", None, 0, 0, *[never] * 6, batches=())
    assert (never.mean_seconds, statistics.mean_batch_size) == (0, 0)


async def test_what_a_server_does_not_have_is_said_so(client: Any) -> None:
    with pytest.raises(sdk.NotOffered):
        await client.load("echo")
