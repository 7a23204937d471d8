from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st
from tests.support.numpy_models import anatomy

from seqlens.datatypes import NUMPY_TYPES
from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import InputAnatomy, InputRole, OutputAnatomy, OutputRole
from seqlens.graphs.signature import Signature, StatedTensor, stated_names
from seqlens.repository.folder import FoundModel
from seqlens.repository.signature import check_signature
from seqlens.repository.stated import Stated, read_stated
from seqlens.repository.triton import TritonConfig, from_triton, parse_triton_json, read_triton
from seqlens_wire.pb import model_config_pb2 as pb

SERVED_FIELDS = {
    "name", "platform", "backend", "version_policy", "max_batch_size", "input", "output",
    "instance_group", "default_model_filename", "dynamic_batching",
}  # fmt: skip
REFUSED_FIELDS = {"ensemble_scheduling", "model_transaction_policy"}


def read(folder: Path, text: str) -> pb.ModelConfig:
    path = folder / "config.pbtxt"
    path.write_text(text)
    config = read_triton(path)
    assert config is not None
    return config


def mapped(text: str, name: str = "m") -> TritonConfig:
    return from_triton(text_format.Parse(text, pb.ModelConfig()), name=name)


def stated(
    folder: Path, files: Mapping[str, str], override: pb.ModelConfig | None = None
) -> Stated:
    for name, text in files.items():
        (folder / name).write_text(text)
    return read_stated(FoundModel("m", folder), override=override)


def test_where_there_is_no_file_nothing_is_stated(tmp_path: Path) -> None:
    assert read_triton(tmp_path / "config.pbtxt") is None
    assert stated(tmp_path, {}) == Stated(stated(tmp_path, {"config.pbtxt": ""}).config)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "name: 'm'\nmax_batch_sise: 8",
            "config.pbtxt line 2: ModelConfig has no field 'max_batch_sise'; did you mean "
            "'max_batch_size'?",
        ),
        (
            "input [\n {name: 'x'\n dimms: [3]} ]",
            "config.pbtxt line 3: ModelInput has no field 'dimms'; did you mean 'dims'?",
        ),
        ("max_batch_size: many", "config.pbtxt line 1: Couldn't parse integer: many"),
        ("input {data_type: TYPE_INT}", 'Enum type "DataType" has no value named TYPE_INT'),
        ("name: 'a'\nname: 'b'", "config.pbtxt line 2: "),
        ("input [ {", "config.pbtxt line 1: "),
        (
            "dynamic_batching {}\nsequence_batching {}",
            'another member of oneof "scheduling_choice"',
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_line_and_field(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ModelRejected) as refused:
        read(tmp_path, text)
    assert reason in str(refused.value)
    assert "seqlens.inference" not in str(refused.value)


@given(
    st.binary(max_size=200)
    | st.text("{}[]:,'\" \n#<>adimnputmxbch_size123-", max_size=120).map(str.encode)
)
def test_no_file_does_more_than_be_rejected(tmp_path_factory: Any, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "config.pbtxt"
    path.write_bytes(text)
    with suppress(ModelRejected):
        config = read_triton(path)
        assert config is not None
        from_triton(config, name=config.name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: 'other'", "name is 'other', but the model's folder is called 'm'"),
        ("backend: 'python'", "backend 'python' is not served; served are onnxruntime, pytorch"),
        ("platform: 'tensorrt_plan'", "platform 'tensorrt_plan' is not served"),
        ("platform: 'ensemble' ensemble_scheduling {}", "ensembles are not served"),
        ("model_transaction_policy {decoupled: true}", "decoupled"),
        ("max_batch_size: -1", "max_batch_size is -1"),
        ("input [{name: 'x'}, {name: 'x'}]", "input 'x' is declared twice"),
        ("output [{data_type: TYPE_FP32}]", "output 0 has no name"),
    ],
)
def test_what_is_not_served_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(ModelRejected, match=r"^config\.pbtxt: ") as refused:
        mapped(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("name: 'm'", {}),
        ("backend: 'onnxruntime'", {"backend": "onnxruntime"}),
        ("platform: 'onnxruntime_onnx'", {"backend": "onnxruntime"}),
        ("backend: 'pytorch'", {"backend": "torchscript"}),
        ("platform: 'pytorch_libtorch'", {"backend": "torchscript"}),
        ("default_model_filename: 'net.onnx'", {"file": "net.onnx"}),
        ("max_batch_size: 8", {"scheduler": {"max_batch_sequences": 8}}),
        ("output {name: 'y' label_filename: 'words.txt'}", {"labels": "words.txt"}),
        ("version_policy {all {}}", {"version_policy": "all"}),
        ("version_policy {latest {num_versions: 2}}", {"version_policy": {"latest": 2}}),
        ("version_policy {specific {versions: [1, 3]}}", {"version_policy": {"specific": [1, 3]}}),
        ("instance_group {kind: KIND_CPU}", {"device": "cpu"}),
        ("instance_group {kind: KIND_GPU}", {"device": "cuda"}),
        ("instance_group {kind: KIND_GPU gpus: [1]}", {"device": "cuda:1"}),
        ("instance_group {count: 1}", {}),
        (
            "dynamic_batching {default_priority_level: 2 default_queue_policy "
            "{default_timeout_microseconds: 250000 max_queue_size: 9}}",
            {
                "scheduler": {
                    "max_waiting_sequences": 9,
                    "default_timeout_seconds": 0.25,
                    "default_priority": 2,
                }
            },
        ),
    ],
)
def test_what_has_a_counterpart_becomes_a_key(text: str, keys: dict[str, Any]) -> None:
    assert mapped(text).keys == keys


def test_everything_that_clients_send_dims_for_becomes_a_signature() -> None:
    found = mapped(
        "max_batch_size: 4 input [{name: 'ids' data_type: TYPE_INT64 dims: [-1]}, {name: 'lengths'"
        " data_type: TYPE_INT64 dims: [1] reshape {shape: []}}, {name: 'names' data_type: "
        "TYPE_STRING dims: [2]}] output [{name: 'y' dims: [3] label_filename: 'l.txt'}]"
    )
    assert found.signature == Signature(
        inputs=(
            StatedTensor("ids", "INT64", (-1, -1)),
            StatedTensor("lengths", "INT64", (-1,)),
            StatedTensor("names", "BYTES", (-1, 2)),
        ),
        outputs=(StatedTensor("y", None, (-1, 3), "l.txt"),),
        batched=True,
    )
    assert found.notes == ()


def test_without_a_batch_size_dims_are_whole_shapes() -> None:
    found = mapped("input {name: 'x' dims: [-1, 8]} output {name: 'y'}")
    assert found.signature is not None
    assert found.signature.inputs == (StatedTensor("x", None, (-1, 8)),)
    assert found.signature.outputs == (StatedTensor("y"),)
    assert not found.signature.batched


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "instance_group {count: 4}",
            "config.pbtxt: instance_group count 4 has no counterpart: lanes are shared by all "
            "models",
        ),
        ("instance_group [{kind: KIND_GPU gpus: [0, 1]}]", "runs on the first"),
        ("instance_group {kind: KIND_MODEL}", "KIND_MODEL has no counterpart"),
        ("instance_group {host_policy: 'numa'}", "host_policy has no counterpart"),
        ("sequence_batching {}", "the server keeps no state between requests"),
        ("dynamic_batching {preferred_batch_size: [4]}", "preferred_batch_size"),
        ("dynamic_batching {max_queue_delay_microseconds: 5}", "no work waits for a timer"),
        ("dynamic_batching {preserve_ordering: true}", "preserve_ordering"),
        ("dynamic_batching {priority_levels: 3}", "1 is the highest"),
        ("dynamic_batching {priority_queue_policy {key: 1}}", "priority_queue_policy"),
        ("dynamic_batching {default_queue_policy {timeout_action: DELAY}}", "DELAY"),
        ("dynamic_batching {default_queue_policy {allow_timeout_override: true}}", "override"),
        ("input {name: 'x' dims: [4] reshape {shape: [2, 2]}}", "[2, 2] for each row, instead"),
        ("input {name: 'x' allow_ragged_batch: true}", "input 'x': allow_ragged_batch"),
        ("output {name: 'y' is_shape_tensor: true}", "output 'y': layouts of TensorRT"),
        ("output [{name: 'y' label_filename: 'a'}, {name: 'z' label_filename: 'b'}]", "only a"),
        ("model_warmup {name: 'w'}", "each load proves and measures"),
        ("response_cache {enable: true}", "response_cache"),
        ("parameters {key: 'k'}", "parameters has no counterpart"),
    ],
)
def test_what_has_no_counterpart_is_noted_and_nothing_else_is(text: str, note: str) -> None:
    (found,) = mapped(text).notes
    assert found.startswith("config.pbtxt: ")
    assert note in found


def test_every_field_is_served_refused_or_noted() -> None:
    for field in pb.ModelConfig.DESCRIPTOR.fields:
        if field.name in SERVED_FIELDS | REFUSED_FIELDS:
            continue
        config = pb.ModelConfig()
        value = getattr(config, field.name)
        if field.name == "response_cache":
            config.response_cache.enable = True
        elif field.message_type and field.message_type.GetOptions().map_entry:
            json_format.ParseDict({field.name: {"k": _blank(field)}}, config)
        elif field.message_type and field.is_repeated:
            value.add()
        elif field.message_type:
            value.SetInParent()
        else:
            setattr(config, field.name, "text")
        assert len(from_triton(config, name="m").notes) == 1, field.name


def _blank(field: Any) -> Any:
    return {} if field.message_type.fields_by_name["value"].message_type else "text"


NAMES = st.text("abcxyz_01", min_size=1, max_size=6)
TENSORS = st.lists(
    st.tuples(
        NAMES,
        st.sampled_from(sorted(NUMPY_TYPES)),
        st.lists(st.integers(-1, 9), min_size=1, max_size=4),
    ),
    max_size=3,
    unique_by=lambda tensor: tensor[0],
)


@given(TENSORS, TENSORS, st.integers(0, 64), st.booleans())
def test_tensors_come_through_text_and_json_alike(
    inputs: list[Any], outputs: list[Any], rows: int, as_json: bool
) -> None:
    config = pb.ModelConfig(name="m", max_batch_size=rows)
    for tensors, field in ((inputs, config.input), (outputs, config.output)):
        for name, datatype, dims in tensors:
            kind = "STRING" if datatype == "BYTES" else datatype
            field.add(name=name, data_type=pb.DataType.Value(f"TYPE_{kind}"), dims=dims)
    if as_json:
        again = parse_triton_json(json_format.MessageToJson(config), "request")
    else:
        again = text_format.Parse(text_format.MessageToString(config), pb.ModelConfig())
    signature = from_triton(again, name="m").signature
    assert (signature is None) == (not inputs and not outputs and not rows)
    if signature is not None:
        batch = [-1] if rows else []
        assert [(t.name, t.datatype, list(t.shape or ())) for t in signature.inputs] == [
            (name, datatype, batch + dims) for name, datatype, dims in inputs
        ]
        assert [t.name for t in signature.outputs] == [name for name, _, _ in outputs]


@pytest.mark.parametrize("text", ["{", '{"max_batch_sise": 1}', '{"input": 3}', "[]", '"x"'])
def test_bad_json_is_told_with_its_source(text: str) -> None:
    with pytest.raises(ModelRejected, match=r"^request: "):
        parse_triton_json(text, "request")


def test_model_yaml_wins_key_by_key_and_that_is_noted(tmp_path: Path) -> None:
    found = stated(
        tmp_path,
        {
            "config.pbtxt": "max_batch_size: 8 version_policy {all {}} instance_group "
            "{kind: KIND_CPU} dynamic_batching {default_queue_policy {max_queue_size: 5}}",
            "model.yaml": "version_policy: {latest: 1}\nscheduler: {max_batch_sequences: 4}\n"
            "device: cpu",
        },
    )
    assert found.config.chosen((1, 2)) == (2,)
    assert found.config.scheduler.max_batch_sequences == 4
    assert found.config.scheduler.max_waiting_sequences == 5
    assert found.notes == (
        "config.pbtxt: model.yaml wins for version_policy, scheduler.max_batch_sequences",
    )


def test_a_load_request_brings_a_configuration_above_both_files(tmp_path: Path) -> None:
    files = {"config.pbtxt": "name: 'other'", "model.yaml": "labels: [a]\ndevice: cpu"}
    override = parse_triton_json(
        '{"max_batch_size": 2, "output": [{"name": "y", "label_filename": "l.txt"}]}', "request"
    )
    found = stated(tmp_path, files, override)
    assert (found.config.labels, found.config.device) == ("l.txt", "cpu")
    assert found.notes == ("model.yaml: config of the load request wins for labels",)


@pytest.mark.parametrize(
    "text",
    [
        "version_policy {specific {versions: [0]}}",
        "output {name: 'y' label_filename: '../../etc/passwd'}",
        "default_model_filename: '/etc/passwd'",
        "instance_group {kind: KIND_GPU gpus: [-3]}",
    ],
)
def test_values_out_of_range_are_told_of_this_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelRejected, match=r"^config\.pbtxt: "):
        stated(tmp_path, {"config.pbtxt": text})


@pytest.mark.parametrize(
    ("own", "declared", "names"),
    [
        (["a", "b"], ["INPUT__1", "INPUT__0"], {"a": "INPUT__0", "b": "INPUT__1"}),
        (["a", "b"], ["b", "a"], {"a": "a", "b": "b"}),
        (["a", "b"], ["x", "y"], {"a": "x", "b": "y"}),
        (["a", "b"], ["a"], {"a": "a"}),
        (["output_0"], ["OUTPUT__0"], {"output_0": "OUTPUT__0"}),
        (["x__1", "y"], ["x__1"], {"x__1": "x__1"}),
    ],
)
def test_declared_names_stand_for_arguments(
    own: list[str], declared: list[str], names: dict[str, str]
) -> None:
    assert stated_names(own, [StatedTensor(name) for name in declared]) == names


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (["INPUT__2"], "'INPUT__2' stands for nothing in the file, which has a, b"),
        (["x", "y", "z"], "'z' stands for nothing"),
        (["a", "INPUT__0"], "'a' and 'INPUT__0' both stand for 'a'"),
    ],
)
def test_names_that_stand_for_nothing_are_rejected(declared: list[str], reason: str) -> None:
    with pytest.raises(ModelRejected, match=reason):
        stated_names(["a", "b"], [StatedTensor(name) for name in declared])


FOUND = anatomy(
    inputs=(
        InputAnatomy("x", "FP32", (-1, -1, 8), InputRole.SEQUENCE, 0, 1),
        InputAnatomy("mask", "BOOL", (-1, -1), InputRole.MASK, 0, 1),
        InputAnatomy("rate", "INT64", (-1,), InputRole.OTHER, 0),
        InputAnatomy("added", "INT64", (-1,), InputRole.LENGTHS, 0, added_by_server=True),
    ),
    outputs=(OutputAnatomy("y", "FP32", (-1, 3), OutputRole.PER_SEQUENCE, 0),),
)
X, RATE, Y = (
    StatedTensor("x", "FP32", (-1, -1, 8)),
    StatedTensor("rate", "INT64", (-1,)),
    StatedTensor("y", "FP32", (-1, 3)),
)


@pytest.mark.parametrize(
    "signature",
    [
        Signature((X, RATE), (Y,), batched=True),
        Signature((X, RATE), (Y,)),
        Signature(batched=True),
        Signature((StatedTensor("x", shape=(-1, 64, 8)), StatedTensor("rate"))),
        Signature(outputs=(StatedTensor("y", shape=(-1, -1)),)),
    ],
)
def test_a_signature_that_the_file_has_passes(signature: Signature) -> None:
    check_signature(signature, FOUND)


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        (Signature((StatedTensor("z"),)), "input 'z' is not in the file, which has x, mask, rate"),
        (Signature(outputs=(StatedTensor("x"),)), "output 'x' is not in the file, which has y"),
        (Signature((X,)), "input 'rate' of the file is not declared"),
        (Signature((StatedTensor("x", "FP16"),)), "'x': data_type is FP16, but the file has FP32"),
        (
            Signature((StatedTensor("x", shape=(-1, -1, 9)),), batched=True),
            r"'x': dims are \[-1, 9\], but the file has \[-1, 8\] behind the batch axis",
        ),
        (Signature((StatedTensor("x", shape=(-1, -1, -1)),)), r"dims are \[-1, -1, -1\]"),
        (Signature((StatedTensor("x", shape=(-1, 8)),)), r"dims are \[-1, 8\], but the file has"),
        (Signature(outputs=(StatedTensor("y", shape=(-1, 4)),)), r"but the file has \[-1, 3\]"),
    ],
)
def test_a_difference_is_told_with_both_sides(signature: Signature, reason: str) -> None:
    with pytest.raises(ModelRejected, match=rf"^config\.pbtxt: .*{reason}"):
        check_signature(signature, FOUND)


def test_a_batch_that_is_not_first_is_told() -> None:
    inputs = (InputAnatomy("x", "FP32", (-1, -1, 8), InputRole.SEQUENCE, 1, 0),)
    with pytest.raises(ModelRejected, match="the batch as axis 1: set max_batch_size to 0"):
        check_signature(Signature(batched=True), anatomy(inputs=inputs))
