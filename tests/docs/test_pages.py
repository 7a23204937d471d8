"""The pages name every call and every key, and no others."""

import re
from pathlib import Path

import pytest

from seqlens.cli.app import app
from seqlens.repository.config import InputConfig, ModelConfig, OutputConfig, config_of, read_keys
from seqlens_wire.pb import model_config_pb2, open_inference_pb2, sequences_pb2

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
SERVICES = [
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    sequences_pb2.DESCRIPTOR.services_by_name["SequenceService"],
]


def quoted(page: str) -> set[str]:
    return set(re.findall(r"`([A-Za-z_]+)`", (REFERENCE / page).read_text()))


@pytest.mark.parametrize(
    "call", [method.name for service in SERVICES for method in service.methods]
)
def test_call_is_documented(call: str) -> None:
    assert call in quoted("grpc.md")


def test_commands_and_their_arguments_are_documented() -> None:
    page = (REFERENCE / "cli.md").read_text()
    for name in (name for name in app if not name.startswith("-")):
        section = page.split(f"## seqlens {name}\n")[1].split("\n## ")[0]
        if name == "serve":  # its options are the settings, which have a page of their own
            continue
        for argument in app[name].assemble_argument_collection():
            option = argument.names[0]
            if option == "*":  # stands for options that follow, each with a name of its own
                continue
            placeholder = option.strip("-").upper().removesuffix("S")
            assert option in section or placeholder in section, (name, option)


def test_keys_of_model_yaml_are_documented() -> None:
    keys = {key for of in (ModelConfig, InputConfig, OutputConfig) for key in of.__struct_fields__}
    assert keys <= quoted("model-yaml.md")


def test_fields_of_config_pbtxt_are_documented() -> None:
    page = (REFERENCE.parent / "guide" / "triton-repository.md").read_text()
    fields = [field.name for field in model_config_pb2.ModelConfig.DESCRIPTOR.fields]
    assert [name for name in fields if f"`{name}`" not in page] == []


def test_example_of_model_yaml_is_valid(tmp_path: Path) -> None:
    page = (REFERENCE / "model-yaml.md").read_text()
    path = tmp_path / "model.yaml"
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    read = config_of(read_keys(path), path.name)
    assert read.max_length == 512
    assert read.inputs["ids"].vocabulary_size == 30522
