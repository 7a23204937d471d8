"""``model.yaml``: what a user states about a model. It only ever overrides what was found."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml

from seqlens.backends.devices import parse_device
from seqlens.datatypes import NUMPY_TYPES
from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import (
    AnatomyOverrides,
    Architecture,
    InputOverride,
    InputRole,
    Marks,
    ModelAnatomy,
    OutputOverride,
    OutputRole,
)
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import SchedulerSettings

Positive = Annotated[int, msgspec.Meta(ge=1)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0)]
Axis = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=-1)]


class InputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is stated about one input."""

    role: InputRole | None = None
    datatype: str | None = None
    shape: tuple[Size, ...] | None = None
    batch_axis: Axis | None = None
    time_axis: Axis | None = None
    vocabulary_size: Positive | None = None
    mask_marks: Marks | None = None
    default: Annotated[int, msgspec.Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if self.datatype is not None and self.datatype not in NUMPY_TYPES:
            known = ", ".join(NUMPY_TYPES)
            raise ValueError(f"unknown datatype {self.datatype!r}; expected one of {known}")
        if self.batch_axis is not None and self.batch_axis == self.time_axis:
            raise ValueError(f"batch and time cannot both be axis {self.batch_axis}")


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is stated about one output."""

    role: OutputRole | None = None
    batch_axis: Axis | None = None
    time_axis: Axis | None = None


class VersionChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest versions, or those named."""

    latest: Positive | None = None
    specific: tuple[Positive, ...] | None = None

    def __post_init__(self) -> None:
        if (self.latest is None) == (self.specific is None):
            raise ValueError("expected either latest or specific")


class SchedulerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scheduler settings of this model; what is left out is as for all models."""

    max_waiting_tokens: Positive | None = None
    max_waiting_sequences: Positive | None = None
    max_batch_tokens: Positive | None = None
    max_batch_sequences: Positive | None = None
    ageing_tokens_per_second: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max_age_seconds: PositiveNumber | None = None
    default_timeout_seconds: PositiveNumber | None = None
    default_priority: Positive | None = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``model.yaml``. An empty file, or none, leaves everything as it is found.

    ``tolerance`` is the largest absolute difference between batched and alone that may pass.
    ``strategy`` may batch less than the proof allows, never more. ``labels`` is a file beside
    model.yaml with one label a line, or the labels themselves; ``tokenizer`` a file. ``file`` is
    the name of the model file in the folder of its version.
    """

    backend: str | None = None
    file: str | None = None
    device: str | None = None
    version_policy: Literal["all"] | VersionChoice = VersionChoice(latest=1)
    inputs: dict[str, InputConfig] = {}
    outputs: dict[str, OutputConfig] = {}
    architecture: Architecture | None = None
    max_length: Positive | None = None
    tolerance: PositiveNumber | None = None
    labels: str | tuple[str, ...] | None = None
    tokenizer: str | None = None
    strategy: Strategy | None = None
    scheduler: SchedulerConfig = SchedulerConfig()

    def __post_init__(self) -> None:
        if self.device is not None:
            parse_device(self.device)
        for name in (self.labels, self.tokenizer, self.file):
            if isinstance(name, str) and (name in ("", ".", "..") or _PATH_PART.search(name)):
                raise ValueError(f"{name!r} is not the name of a file in the model's folder")

    def overrides(self) -> AnatomyOverrides:
        """What is stated about the graph."""
        return AnatomyOverrides(
            inputs={n: InputOverride(**_given(c)) for n, c in self.inputs.items()},
            outputs={n: OutputOverride(**_given(c)) for n, c in self.outputs.items()},
            architecture=self.architecture,
            max_length=self.max_length,
        )

    def scheduler_settings(self, default: SchedulerSettings) -> SchedulerSettings:
        """The scheduler settings of this model."""
        return replace(default, **_given(self.scheduler))

    def chosen(self, versions: tuple[int, ...]) -> tuple[int, ...]:
        """The versions to load, ascending."""
        policy, ascending = self.version_policy, tuple(sorted(versions))
        if isinstance(policy, str):
            return ascending
        if policy.specific is not None:
            return tuple(v for v in ascending if v in policy.specific)
        return ascending[-(policy.latest or 1) :]

    def missing(self, versions: tuple[int, ...]) -> tuple[int, ...]:
        """Versions that are asked for by number but are not there."""
        policy = self.version_policy
        asked = () if isinstance(policy, str) else policy.specific or ()
        return tuple(v for v in asked if v not in versions)


@dataclass(frozen=True, slots=True)
class _Place:
    """A mapping of the file: its path as msgspec writes it, and what may stand in it."""

    path: str
    struct: type[msgspec.Struct]


_PLACES = (
    _Place("$", ModelConfig),
    _Place("$.inputs[...]", InputConfig),
    _Place("$.outputs[...]", OutputConfig),
    _Place("$.version_policy", VersionChoice),
    _Place("$.scheduler", SchedulerConfig),
)
_WORDS: dict[str, tuple[str, ...]] = {
    "inputs[...].role": tuple(InputRole),
    "outputs[...].role": tuple(OutputRole),
    "architecture": tuple(Architecture),
    "strategy": tuple(Strategy),
    "inputs[...].mask_marks": get_args(Marks),
    "version_policy": ("all", "{latest: N}", "{specific: [N, ...]}"),
}
_PATH_PART = re.compile(r"[/\\\x00]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*?)`(?: - at `(?P<path>.*)`)?$")


class _Loader(yaml.SafeLoader):
    """YAML 1.2 where 1.1 surprises: 1e-3 is a number, and labels may be called yes and no."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, [*"-+0123456789"])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]
)


def read_keys(path: Path) -> dict[str, Any]:
    """Read ``model.yaml`` as its keys; a file that is not there states nothing.

    Raises ``ModelRejected`` naming the file, the key, and for an unknown key the likeliest one
    meant.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error
    return parse_keys(text, path.name)


def parse_keys(text: bytes, name: str) -> dict[str, Any]:
    """Parse the text of a ``model.yaml``; ``name`` is the file's, for errors."""
    try:
        stated = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # Beside its own errors the parser lets those of dates and numbers through.
        detail = " ".join(str(error).split())
        raise ModelRejected(f"{name} is not YAML: {detail}") from error
    keys: dict[str, Any] = {} if stated is None else stated
    config_of(keys, name)
    return keys


def config_of(keys: Mapping[str, Any], name: str) -> ModelConfig:
    """What these keys state; ``name`` is that of their file. Raises ``ModelRejected``."""
    try:
        return msgspec.convert(keys, ModelConfig)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ModelRejected(f"{name}: {_explained(str(error))}") from error


def check_names(config: ModelConfig, anatomy: ModelAnatomy) -> None:
    """Raise ``ModelRejected`` if the file states something about a tensor that is not there."""
    for kind, stated, there in (
        ("inputs", config.inputs, [i.name for i in anatomy.inputs]),
        ("outputs", config.outputs, [o.name for o in anatomy.outputs]),
    ):
        for name in stated:
            if name not in there:
                known = ", ".join(there)
                raise ModelRejected(
                    f"model.yaml: {kind} names {name!r}, which the model does not have"
                    f"{_meant(name, there)}; known: {known}"
                )


def check_defaults(anatomy: ModelAnatomy) -> None:
    """Raise ``ModelRejected`` where a default has no meaning or leaves no sequence to give."""
    for one in anatomy.inputs:
        if one.default is not None and one.role is not InputRole.SEQUENCE:
            raise ModelRejected(
                f"model.yaml: input {one.name!r} has a default, but its role is {one.role.value}; "
                "expected a sequence"
            )
    if anatomy.sequence_inputs and all(i.default is not None for i in anatomy.sequence_inputs):
        raise ModelRejected(
            "model.yaml: every sequence input has a default; expected one without, which tells "
            "how long a sequence is"
        )


def _explained(message: str) -> str:
    unknown = _UNKNOWN.match(message)
    if unknown is None:
        return message.replace("`$.", "`") + _choices(message)
    key, path = unknown["key"], unknown["path"] or "$"
    struct = next((place.struct for place in _PLACES if place.path == path), ModelConfig)
    known = list(struct.__struct_fields__)
    where = "" if path == "$" else f" in {path.removeprefix('$.').replace('[...]', '')}"
    return f"unknown key {key!r}{where}{_meant(key, known)}; known: {', '.join(known)}"


def _choices(message: str) -> str:
    """What could stand where a word is wrong."""
    key = re.search(r"Invalid enum value .* at `\$\.(.+)`$", message)
    words = _WORDS.get(key[1], ()) if key else ()
    return f"; expected {', '.join(words)}" if words else ""


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _given(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that the file states."""
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}
