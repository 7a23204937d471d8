from contextlib import suppress
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_models import anatomy

from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import Architecture, InputAnatomy, InputRole
from seqlens.repository.config import (
    ModelConfig,
    SchedulerConfig,
    check_defaults,
    check_names,
    config_of,
    parse_keys,
    read_keys,
)
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import SchedulerSettings

EVERYTHING = b"""
backend: onnxruntime
device: cuda:1
version_policy: {specific: [3, 1]}
inputs:
  tokens: {role: sequence, batch_axis: 1, time_axis: 0, vocabulary_size: 10, shape: [-1, 4]}
  mask: {role: mask, mask_marks: padding}
  kinds: {default: 1}
outputs: {y: {role: per_step, time_axis: 0}}
architecture: lstm
max_length: 512
tolerance: 1e-3
labels: [no, "yes"]
tokenizer: words.json
strategy: equal_length
scheduler: {max_batch_tokens: 64, max_age_seconds: 0.5}
"""


def parsed(text: bytes) -> ModelConfig:
    return config_of(parse_keys(text, "model.yaml"), "model.yaml")


def test_everything_is_read() -> None:
    config = parsed(EVERYTHING)
    overrides = config.overrides()
    assert overrides.inputs["mask"].role is InputRole.MASK
    assert overrides.inputs["mask"].batch_axis is None
    assert overrides.inputs["tokens"].shape == (-1, 4)
    assert overrides.inputs["kinds"].default == 1
    assert overrides.outputs["y"].time_axis == 0
    assert (overrides.architecture, overrides.max_length) == (Architecture.LSTM, 512)
    assert (config.tolerance, config.labels) == (0.001, ("no", "yes"))
    assert config.strategy is Strategy.EQUAL_LENGTH


def test_scheduler_settings_left_out_are_the_servers() -> None:
    settings = SchedulerSettings(max_batch_sequences=7)
    own = parsed(EVERYTHING).scheduler_settings(settings)
    assert own == SchedulerSettings(max_batch_sequences=7, max_batch_tokens=64, max_age_seconds=0.5)


def test_every_scheduler_setting_can_be_stated() -> None:
    assert {f.name for f in fields(SchedulerSettings)} == set(SchedulerConfig.__struct_fields__)


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"{}"])
def test_an_empty_file_states_nothing(text: bytes) -> None:
    assert parsed(text) == ModelConfig()


def test_a_file_that_is_not_there_states_nothing(tmp_path) -> None:
    assert read_keys(tmp_path / "model.yaml") == {}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"bakend: x", ["'bakend'", "did you mean 'backend'?"]),
        (b"inputs: {tokens: {rol: mask}}", ["'rol' in inputs", "did you mean 'role'?"]),
        (b"outputs: {y: {time_axes: 1}}", ["'time_axes' in outputs", "'time_axis'"]),
        (b"version_policy: {latst: 1}", ["'latst' in version_policy", "'latest'"]),
        (b"scheduler: {max_batch_token: 1}", ["in scheduler", "'max_batch_tokens'"]),
        (b"zzz: 1", ["'zzz'; known: backend, file, device"]),
        (b"inputs: {tokens: {role: masc}}", ["'masc'", "inputs", "expected sequence, lengths"]),
        (b"outputs: {y: {role: mask}}", ["'mask'", "outputs", "expected per_sequence, per_step"]),
        (b"inputs: {tokens: {datatype: INT46}}", ["'INT46'", "expected one of BOOL"]),
        (b"inputs: {x: {batch_axis: 1, time_axis: 1}}", ["both be axis 1"]),
        (b"strategy: fast", ["'fast'", "expected by_length, equal_length"]),
        (b"version_policy: newest", ["'newest'", "{latest: N}"]),
        (b"version_policy: {}", ["either latest or specific"]),
        (b"version_policy: {latest: 1, specific: [1]}", ["either latest or specific"]),
        (b"max_length: 0", ["max_length", ">= 1"]),
        (b"max_length: true", ["max_length", "bool"]),
        (b"tolerance: .nan", ["tolerance"]),
        (b"device: gpu", ["'gpu'", "cuda:N"]),
        (b"labels: ../secret", ["'../secret'", "not the name of a file"]),
        (b"tokenizer: /etc/passwd", ["not the name of a file"]),
        (b"tokenizer: '..'", ["not the name of a file"]),
        (b"- 1", ["Expected `object`"]),
        (b"a: [", ["not YAML", "line 1"]),
        (b"2001-99-99", ["not YAML"]),
        (b"\xff\xfe\x00", ["not YAML"]),
        (b"!!python/object/apply:os.system [ls]", ["not YAML"]),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(text: bytes, parts: list[str]) -> None:
    with pytest.raises(ModelRejected) as refused:
        parsed(text)
    message = str(refused.value)
    assert message.startswith("model.yaml")
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("number", ["1e-3", "1.0E-3", "0.001", "+1e-3"])
def test_numbers_with_an_exponent_are_numbers(number: str) -> None:
    assert parsed(f"tolerance: {number}".encode()).tolerance == 0.001


def test_tensors_that_the_model_lacks_are_refused_with_the_likeliest() -> None:
    config = parsed(b"inputs: {token: {role: sequence}}")
    with pytest.raises(ModelRejected, match=r"'token'.*did you mean 'tokens'.*tokens, lengths"):
        check_names(config, anatomy())
    check_names(parsed(b"outputs: {y: {role: other}}"), anatomy())


@pytest.mark.parametrize(
    ("role", "part"),
    [
        (InputRole.LENGTHS, "its role is lengths"),
        (InputRole.SEQUENCE, "every sequence input has a default"),
    ],
)
def test_a_default_must_leave_a_sequence_to_give(role: InputRole, part: str) -> None:
    one = InputAnatomy("ids", "INT64", (-1, -1), role, 0, 1, default=0)
    with pytest.raises(ModelRejected, match=part):
        check_defaults(replace(anatomy(), inputs=(one,)))
    main = InputAnatomy("main", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1)
    beside = replace(one, role=InputRole.SEQUENCE)
    check_defaults(replace(anatomy(), inputs=(main, beside)))


@given(versions=st.sets(st.integers(1, 99), max_size=8), latest=st.integers(1, 5))
def test_latest_takes_the_highest(versions: set[int], latest: int) -> None:
    config = parsed(f"version_policy: {{latest: {latest}}}".encode())
    chosen = config.chosen(tuple(versions))
    assert list(chosen) == sorted(versions)[-latest:]
    assert config.missing(tuple(versions)) == ()


@given(versions=st.sets(st.integers(1, 9)), wanted=st.sets(st.integers(1, 9), min_size=1))
def test_specific_takes_those_named_and_tells_what_is_missing(
    versions: set[int], wanted: set[int]
) -> None:
    text = f"version_policy: {{specific: {sorted(wanted)}}}".encode()
    config = parsed(text)
    assert set(config.chosen(tuple(versions))) == versions & wanted
    assert set(config.missing(tuple(versions))) == wanted - versions


def test_all_takes_all() -> None:
    assert parsed(b"version_policy: all").chosen((2, 10, 1)) == (1, 2, 10)


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda t: t.encode())))
def test_no_text_does_more_than_be_refused(text: bytes) -> None:
    with suppress(ModelRejected):
        assert isinstance(parsed(text), ModelConfig)
