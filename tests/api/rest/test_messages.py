"""Control messages as JSON, with protobuf's own writer as the other side."""

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.rest import messages
from seqlens.errors import InvalidRequest
from seqlens_wire.pb import model_config_pb2
from seqlens_wire.pb import open_inference_pb2 as pb

INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(codec="utf-8"))


def numbers(value: Any) -> Any:
    """The same JSON with protobuf's texts for 64-bit numbers as numbers."""
    if isinstance(value, dict):
        return {key: numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [numbers(one) for one in value]
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return value


def by_protobuf(message: Message) -> Any:
    return numbers(
        json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )


def config() -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=32, platform="onnx")
    config.input.add(name="x", data_type="TYPE_INT64", dims=[-1, 2**40], optional=True)
    config.output.add(name="y", data_type="TYPE_FP32", dims=[40])
    config.instance_group.add(kind="KIND_CPU", count=2, gpus=[0, 1])
    config.sequence_batching.direct.minimum_slot_utilization = 0.1
    config.parameters["strategy"].string_value = "by_length"
    config.optimization.cuda.graph_spec.add().input["x"].dim.append(7)
    priority = config.dynamic_batching.priority_queue_policy[2**63]
    priority.timeout_action = model_config_pb2.ModelQueuePolicy.DELAY
    config.version_policy.latest.num_versions = 1
    return config


def test_configuration_is_written_as_protobuf_does_but_for_numbers() -> None:
    assert messages.plain(config()) == by_protobuf(config())
    assert messages.plain(config())["input"][0]["dims"] == [-1, 2**40]
    empty = model_config_pb2.ModelConfig()
    assert messages.plain(empty) == by_protobuf(empty)
    assert messages.plain(empty)["max_batch_size"] == 0


@given(TEXT, UINT64, UINT64)
def test_numbers_stay_numbers_up_to_64_bits(name: str, count: int, ns: int) -> None:
    message = pb.ModelStatistics(name=name, last_inference=count)
    message.inference_stats.success.ns = ns
    written = messages.plain(message)
    assert written["name"] == name
    assert written["last_inference"] == count
    assert written["inference_stats"] == {"success": {"count": 0, "ns": ns}}


def test_only_the_set_member_of_a_oneof_is_written() -> None:
    parameter = pb.ModelRepositoryParameter(bytes_param=b"\x00\xff")
    assert messages.plain(parameter) == {"bytes_param": "AP8="} == by_protobuf(parameter)
    assert messages.plain(pb.ModelRepositoryParameter(bool_param=False)) == {"bool_param": False}
    assert messages.plain(pb.ModelRepositoryParameter()) == {}


def test_an_enum_value_of_a_later_version_is_written_as_its_number() -> None:
    message = model_config_pb2.ModelInput(data_type=99)  # type: ignore[arg-type]
    assert messages.plain(message)["data_type"] == 99


def test_statistics_have_all_durations() -> None:
    response = pb.ModelStatisticsResponse()
    response.model_stats.add(name="m").batch_stats.add(batch_size=2).compute_infer.ns = 5
    (model,) = messages.statistics(response)["model_stats"]
    zero = {"count": 0, "ns": 0}
    assert model["inference_stats"] == {
        field.name: zero for field in pb.InferStatistics.DESCRIPTOR.fields
    }
    assert model["batch_stats"] == [
        {"batch_size": 2}
        | {"compute_input": zero, "compute_infer": {"count": 0, "ns": 5}, "compute_output": zero}
    ]


def test_metadata_has_no_empty_properties() -> None:
    response = pb.ModelMetadataResponse(name="m", versions=["1"], platform="onnx")
    response.inputs.add(name="x", datatype="INT64", shape=[-1])
    assert messages.metadata(response) == {
        "name": "m",
        "versions": ["1"],
        "platform": "onnx",
        "inputs": [{"name": "x", "datatype": "INT64", "shape": [-1]}],
        "outputs": [],
    }
    response.properties["architecture"] = "rnn"
    assert messages.metadata(response)["properties"] == {"architecture": "rnn"}


def test_lists_stand_bare() -> None:
    index = pb.RepositoryIndexResponse()
    index.models.add(name="a", version="1", state="READY")
    index.models.add(name="b", state="UNAVAILABLE", reason="no file")
    assert messages.index(index) == [
        {"name": "a", "version": "1", "state": "READY", "reason": ""},
        {"name": "b", "state": "UNAVAILABLE", "reason": "no file"},
    ]
    status = pb.SystemSharedMemoryStatusResponse()
    region = status.regions["r"]
    region.name, region.key, region.byte_size = "r", "/k", 2**40
    assert messages.regions(status) == [{"name": "r", "key": "/k", "offset": 0, "byte_size": 2**40}]


def test_settings_stand_bare() -> None:
    trace = pb.TraceSettingResponse()
    trace.settings["trace_level"].value.extend(["TIMESTAMPS", "TENSORS"])
    trace.settings["trace_rate"].value.append("1000")
    trace.settings["trace_file"].SetInParent()
    assert messages.trace_settings(trace) == {
        "trace_level": ["TIMESTAMPS", "TENSORS"],
        "trace_rate": "1000",
        "trace_file": "",
    }
    log = pb.LogSettingsResponse()
    log.settings["log_info"].bool_param = False
    log.settings["log_verbose_level"].uint32_param = 0
    log.settings["log_format"].string_param = "default"
    assert messages.log_settings(log) == {
        "log_info": False,
        "log_verbose_level": 0,
        "log_format": "default",
    }


def test_index_takes_a_body_or_none() -> None:
    assert messages.read_index("", b"") == pb.RepositoryIndexRequest()
    assert messages.read_index("r", b'{"ready":true,"more":1}') == pb.RepositoryIndexRequest(
        repository_name="r", ready=True
    )


def test_load_takes_parameters_of_all_kinds() -> None:
    body = b'{"parameters":{"config":"{}","unload_dependents":true,"n":-5,"file:1/m.onnx":"AP8="}}'
    request = messages.read_load("r", "m", body)
    assert (request.repository_name, request.model_name) == ("r", "m")
    assert request.parameters["config"].string_param == "{}"
    assert request.parameters["unload_dependents"].bool_param is True
    assert request.parameters["n"].int64_param == -5
    assert request.parameters["file:1/m.onnx"].string_param == "AP8="
    assert messages.read_load("", "m", b"") == pb.RepositoryModelLoadRequest(model_name="m")
    unload = messages.read_unload("", "m", b'{"parameters":{"unload_dependents":false}}')
    assert unload.model_name == "m"
    assert unload.parameters["unload_dependents"].WhichOneof("parameter_choice") == "bool_param"


def test_trace_settings_are_texts_numbers_lists_or_null() -> None:
    text = b'{"trace_level":["TIMESTAMPS"],"trace_rate":"5","trace_count":-1,"log_frequency":null}'
    request = messages.read_trace_settings("m", text)
    assert request.model_name == "m"
    values = {name: list(setting.value) for name, setting in request.settings.items()}
    assert values == {
        "trace_level": ["TIMESTAMPS"],
        "trace_rate": ["5"],
        "trace_count": ["-1"],
        "log_frequency": [],
    }


def test_log_settings_keep_their_kinds() -> None:
    text = b'{"log_info":false,"log_verbose_level":1,"log_file":""}'
    kinds = {
        name: setting.WhichOneof("parameter_choice")
        for name, setting in messages.read_log_settings(text).settings.items()
    }
    assert kinds == {
        "log_info": "bool_param",
        "log_verbose_level": "uint32_param",
        "log_file": "string_param",
    }


@pytest.mark.parametrize(
    ("read", "text", "field"),
    [
        ("index", b"null", "body"),
        ("index", b"[]", "body"),
        ("index", b'{"ready":1}', "ready"),
        ("load", b'{"parameters":[]}', "parameters"),
        ("load", b'{"parameters":{"config":{}}}', "parameters.config"),
        ("load", b'{"parameters":{"n":9223372036854775808}}', "parameters.n"),
        ("region", b"", "body"),
        ("region", b"{}", "key"),
        ("region", b'{"key":"k"}', "byte_size"),
        ("region", b'{"key":"k","byte_size":-1}', "byte_size"),
        ("region", b'{"key":"k","byte_size":1,"offset":18446744073709551616}', "offset"),
        ("trace", b"", "body"),
        ("trace", b'{"trace_rate":{}}', "trace_rate"),
        ("trace", b'{"trace_level":[null]}', "trace_level[0]"),
        ("log", b'{"log_info":null}', "log_info"),
        ("log", b'{"log_verbose_level":4294967296}', "log_verbose_level"),
        ("log", b"[" * 100_000, "body"),
        ("log", b'{"a":"\xff"}', "body"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(read: str, text: bytes, field: str) -> None:
    readers = {
        "index": lambda: messages.read_index("", text),
        "load": lambda: messages.read_load("", "m", text),
        "region": lambda: messages.read_region("r", text),
        "trace": lambda: messages.read_trace_settings("", text),
        "log": lambda: messages.read_log_settings(text),
    }
    with pytest.raises(InvalidRequest) as caught:
        readers[read]()
    assert caught.value.field == field
