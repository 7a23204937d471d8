"""What tritonclient asks and sets beside inference: models, statistics, traces and logs."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from tests.conftest import RunningServer
from tests.dropin.conftest import CHANGING_MODEL as MODEL
from tests.dropin.triton_client import KINDS, TritonClient, connected
from tritonclient.utils import InferenceServerException

TOKENS = np.array([[2, 3, 4]])


@pytest.fixture(params=KINDS)
async def triton(
    request: pytest.FixtureRequest, changing_server: RunningServer
) -> AsyncIterator[TritonClient]:
    async with connected(request.param, changing_server) as client:
        yield client


async def states(triton: TritonClient) -> dict[str, tuple[str, str]]:
    """State and reason of each model."""
    index = await triton.told("get_model_repository_index")
    models = index if triton.over_http else index["models"]
    return {one["name"]: (one["state"], one.get("reason", "")) for one in models}


async def test_a_model_is_unloaded_and_loaded(triton: TritonClient) -> None:
    assert await states(triton) == {MODEL: ("READY", "")}
    await triton.call("unload_model", MODEL)
    state, reason = (await states(triton))[MODEL]
    assert state == "UNAVAILABLE"
    assert reason
    assert not await triton.call("is_model_ready", MODEL)
    with pytest.raises(InferenceServerException) as caught:
        await triton.call("infer", MODEL, triton.tensors(tokens=TOKENS))
    assert caught.value.status() == triton.status("UNAVAILABLE", 503)
    await triton.call("load_model", MODEL)
    assert await states(triton) == {MODEL: ("READY", "")}
    result = await triton.call("infer", MODEL, triton.tensors(tokens=TOKENS))
    assert result.as_numpy("logits").shape == (1, 40)


async def test_unknown_models_are_not_found(triton: TritonClient) -> None:
    for call in ("load_model", "unload_model", "get_model_metadata", "get_model_config"):
        with pytest.raises(InferenceServerException, match="'nowhere'") as caught:
            await triton.call(call, "nowhere")
        assert caught.value.status() == triton.status("NOT_FOUND", 404)


async def test_files_of_models_are_not_taken_unless_allowed(triton: TritonClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await triton.call("load_model", MODEL, config="{}", files={"file:1/model.onnx": b"x"})
    assert caught.value.status() == triton.status("PERMISSION_DENIED", 403)
    assert await states(triton) == {MODEL: ("READY", "")}


async def test_metadata_and_configuration(triton: TritonClient) -> None:
    server = await triton.told("get_server_metadata")
    assert server["name"] == "seqlens"
    assert {"statistics", "system_shared_memory", "trace", "logging"} <= {*server["extensions"]}
    metadata = await triton.told("get_model_metadata", MODEL)
    assert metadata["versions"] == ["1"]
    tensors = {
        tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]])
        for tensor in metadata["inputs"] + metadata["outputs"]
    }
    assert tensors == {
        "tokens": ("INT64", [-1, -1]),
        "lengths": ("INT64", [-1, 1]),
        "logits": ("FP32", [-1, 40]),
    }
    told = await triton.told("get_model_config", MODEL)
    config = told if triton.over_http else told["config"]
    assert config["name"] == MODEL
    assert config["max_batch_size"] > 0
    assert {one["name"]: one.get("optional", False) for one in config["input"]} == {
        "tokens": False,
        "lengths": True,
    }


async def counts(triton: TritonClient, model: str) -> tuple[int, int, int]:
    """Requests that succeeded and failed, and rows answered."""
    [told] = (await triton.told("get_inference_statistics", model))["model_stats"]
    stats = told["inference_stats"]
    found = (stats["success"].get("count", 0), stats["fail"].get("count", 0))
    return int(found[0]), int(found[1]), int(told.get("inference_count", 0))


async def test_statistics_count_what_was_asked(triton: TritonClient) -> None:
    before = await counts(triton, MODEL)
    rows = np.array([[2, 3], [4, 5], [6, 7]])
    await triton.call("infer", MODEL, triton.tensors(tokens=rows))
    with pytest.raises(InferenceServerException):
        await triton.call("infer", MODEL, triton.tensors(tokens=rows * -1))
    after = await counts(triton, MODEL)
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1, 3]


@pytest.fixture
def traced(changing_server: RunningServer) -> Callable[[], list[str]]:
    """What has been traced in this test: ids of requests, once there are two."""
    traces = changing_server.log.with_name("traces.json")
    traces.unlink(missing_ok=True)

    def ids() -> list[str]:
        for _ in range(100):
            with suppress(FileNotFoundError, json.JSONDecodeError):  # written by a thread
                found = [one["request_id"] for one in json.loads(traces.read_text())]
                if len(found) > 1:
                    return found
            time.sleep(0.05)
        raise AssertionError("two requests have not been traced")

    return ids


async def test_traces_are_switched_on_for_a_model_and_off(
    triton: TritonClient, traced: Callable[[], list[str]]
) -> None:
    def read(told: Any) -> dict[str, list[str]]:
        if triton.over_http:  # one value as a text, several as a list
            return {name: [v] if isinstance(v, str) else v for name, v in told.items()}
        return {name: setting["value"] for name, setting in told["settings"].items()}

    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    told = await triton.told("update_trace_settings", model_name=MODEL, settings=settings)
    assert read(told)["trace_level"] == ["TIMESTAMPS"]
    assert read(await triton.told("get_trace_settings"))["trace_level"] == ["OFF"]
    try:
        for request_id in ("one", "two", "three"):
            tensors = triton.tensors(tokens=TOKENS)
            await triton.call("infer", MODEL, tensors, request_id=request_id)
    finally:
        cleared = {"trace_level": None, "trace_rate": None, "trace_count": None}
        told = await triton.told("update_trace_settings", model_name=MODEL, settings=cleared)
    assert read(told)["trace_level"] == ["OFF"]
    assert traced() == ["one", "two"]
    with pytest.raises(InferenceServerException, match="trace_level") as caught:
        await triton.call("update_trace_settings", settings={"trace_level": ["LOUD"]})
    assert caught.value.status() == triton.status("INVALID_ARGUMENT", 400)


async def test_log_settings_are_shown_and_set(triton: TritonClient) -> None:
    def read(told: Any) -> dict[str, Any]:
        if triton.over_http:
            return dict(told)
        return {name: next(iter(one.values())) for name, one in told["settings"].items()}

    before = read(await triton.told("get_log_settings"))
    assert before["log_info"] is True
    changed = read(await triton.told("update_log_settings", {"log_info": False}))
    assert changed == before | {"log_info": False}
    assert read(await triton.told("update_log_settings", {"log_info": True})) == before
    with pytest.raises(InferenceServerException, match="log_shout") as caught:
        await triton.call("update_log_settings", {"log_shout": True})
    assert caught.value.status() == triton.status("INVALID_ARGUMENT", 400)
