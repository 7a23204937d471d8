"""Control messages of the Open Inference Protocol as JSON, and JSON as such messages.

The forms are those of the reference server, which are not always those of the messages: its
64-bit numbers are numbers, and its settings and lists stand bare.
"""

from base64 import b64encode
from typing import Annotated, Any

import msgspec
import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from seqlens.api.rest.json_text import read_json
from seqlens_wire.pb import open_inference_pb2 as pb

Json = dict[str, Any]

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class _Index(msgspec.Struct):
    ready: bool = False


class _Control(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] | None = None


class _Region(msgspec.Struct):
    key: str
    byte_size: _Natural
    offset: _Natural = 0


_INDEX = msgspec.json.Decoder(_Index)
_CONTROL = msgspec.json.Decoder(_Control)
_PARAMETER = msgspec.json.Decoder(bool | _Int64 | str)
_REGION = msgspec.json.Decoder(_Region)
_SETTINGS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TRACE_SETTING = msgspec.json.Decoder(_Int64 | str | list[_Int64 | str] | None)
_LOG_SETTING = msgspec.json.Decoder(bool | _Uint32 | str)


def plain(message: Message) -> Json:
    """A message as JSON of the same names, made of plain values.

    All numbers, texts, lists and maps are there, unset ones with their defaults; messages and
    the members of a oneof only where they are set. Enums go by name, bytes as base64.
    """
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _one(entry, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_one(field, one) for one in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return float(str(np.float32(value)))  # 0.1, not the 0.10000000149011612 that it is as FP64
    return value


def metadata(response: pb.ModelMetadataResponse) -> Json:
    """``properties`` only where there are any: the reference server does not know them."""
    written = plain(response)
    if not written["properties"]:
        del written["properties"]
    return written


def statistics(response: pb.ModelStatisticsResponse) -> Json:
    """All counts and times are there: clients read them without asking."""
    written = plain(response)
    for model in written["model_stats"]:
        _fill(model.setdefault("inference_stats", {}), pb.InferStatistics)
        for batch in model["batch_stats"]:
            _fill(batch, pb.InferBatchStatistics)
    return written


def _fill(durations: Json, kind: type[Message]) -> None:
    for field in kind.DESCRIPTOR.fields:
        durations.setdefault(field.name, plain(pb.StatisticDuration()))


def index(response: pb.RepositoryIndexResponse) -> list[Json]:
    """A bare list; models of which no version is known have none."""
    models = [plain(model) for model in response.models]
    return [{name: text for name, text in m.items() if text or name != "version"} for m in models]


def regions(response: pb.SystemSharedMemoryStatusResponse) -> list[Json]:
    """A bare list."""
    return [plain(response.regions[name]) for name in sorted(response.regions)]


def trace_settings(response: pb.TraceSettingResponse) -> Json:
    """Texts by name; only the levels are a list."""
    values = {name: list(setting.value) for name, setting in sorted(response.settings.items())}
    return {
        name: value if name == "trace_level" else ",".join(value) for name, value in values.items()
    }


def log_settings(response: pb.LogSettingsResponse) -> Json:
    """Values by name."""
    return {
        name: next(iter(plain(setting).values()), None)
        for name, setting in sorted(response.settings.items())
    }


def read_index(repository: str, text: bytes) -> pb.RepositoryIndexRequest:
    """Of a body that may be empty. Raises ``InvalidRequest``, as all that follow."""
    ready = read_json(_INDEX, text or b"{}").ready
    return pb.RepositoryIndexRequest(repository_name=repository, ready=ready)


def read_load(repository: str, model: str, text: bytes) -> pb.RepositoryModelLoadRequest:
    """Of a body that may be empty. Parameters ``file:...`` stay texts in base64."""
    return pb.RepositoryModelLoadRequest(
        repository_name=repository, model_name=model, parameters=_parameters(text)
    )


def read_unload(repository: str, model: str, text: bytes) -> pb.RepositoryModelUnloadRequest:
    """Of a body that may be empty."""
    return pb.RepositoryModelUnloadRequest(
        repository_name=repository, model_name=model, parameters=_parameters(text)
    )


def read_region(name: str, text: bytes) -> pb.SystemSharedMemoryRegisterRequest:
    """The region to be registered under a name."""
    region = read_json(_REGION, text)
    return pb.SystemSharedMemoryRegisterRequest(
        name=name, key=region.key, offset=region.offset, byte_size=region.byte_size
    )


def read_trace_settings(model: str, text: bytes) -> pb.TraceSettingRequest:
    """Texts, numbers or lists of them by name; null for what holds without the setting."""
    request = pb.TraceSettingRequest(model_name=model)
    for name, raw in read_json(_SETTINGS, text).items():
        value = read_json(_TRACE_SETTING, bytes(raw), name)
        setting = request.settings[name]
        if value is not None:
            setting.value.extend(map(str, value if isinstance(value, list) else [value]))
    return request


def read_log_settings(text: bytes) -> pb.LogSettingsRequest:
    """Truth values, numbers and texts by name."""
    request = pb.LogSettingsRequest()
    for name, raw in read_json(_SETTINGS, text).items():
        value, setting = read_json(_LOG_SETTING, bytes(raw), name), request.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int):
            setting.uint32_param = value
        else:
            setting.string_param = value
    return request


def _parameters(text: bytes) -> dict[str, pb.ModelRepositoryParameter]:
    raw = read_json(_CONTROL, text or b"{}").parameters or {}
    return {name: _parameter(name, bytes(value)) for name, value in raw.items()}


def _parameter(name: str, text: bytes) -> pb.ModelRepositoryParameter:
    value = read_json(_PARAMETER, text, f"parameters.{name}")
    if isinstance(value, bool):
        return pb.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int):
        return pb.ModelRepositoryParameter(int64_param=value)
    return pb.ModelRepositoryParameter(string_param=value)
