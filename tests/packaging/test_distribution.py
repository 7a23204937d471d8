"""What is in the wheel, what it asks for, and what our pins cover."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"seqlens", "seqlens_client", "seqlens_wire", "seqlens_zoo"}
# Integrations that a user installs beside the server; development does not need them.
UNPINNED_EXTRAS = {"ray", "otel"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirement: str) -> str:
    return canonical(re.split(r"[\[<>=!;~ ]", requirement, maxsplit=1)[0])


def pins() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", "--wheel-dir", str(folder), str(ROOT)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("seqlens-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_every_module_and_type_marker(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    folders = ["service/seqlens", "clients/python/seqlens_client", "proto/python/seqlens_wire",
               "models/seqlens_zoo"]  # fmt: skip
    for folder in map(ROOT.joinpath, folders):
        modules = [path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.py")]
        assert modules
        assert set(modules) <= names
        assert f"{folder.name}/py.typed" in names


def test_the_wheel_holds_the_page_of_rest_and_all_of_its_parts(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "service" / "seqlens"
    files = [path for path in (folder / "web").rglob("*") if path.is_file()]
    assert {"index.html", "swagger-ui-bundle.js", "LICENSE"} <= {path.name for path in files}
    assert {path.relative_to(folder.parent).as_posix() for path in files} <= set(wheel.namelist())


def test_the_wheel_brings_licence_and_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "seqlens = seqlens.cli:main" in points
    assert "[seqlens.backends]" in points


def test_the_plain_install_is_the_light_client(metadata: Message) -> None:
    plain = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert {named(text) for text in plain} == {"grpcio", "numpy", "protobuf"}


def test_the_documented_extras_are_offered(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras == {"data", "plot", "server", "torchscript", "zoo", "ray", "otel", "dev"}


def test_pins_are_exact_sorted_and_free_of_addresses() -> None:
    for line in pins():
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", line), line
    assert pins() == sorted(pins(), key=str.lower)


def test_torch_is_pinned_without_a_build() -> None:
    (torch,) = (line for line in pins() if line.startswith("torch=="))
    assert "+" not in torch


def test_everything_that_we_ask_for_is_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"]]
    for extra in extras.keys() - UNPINNED_EXTRAS:
        asked += extras[extra]
    pinned = {named(line) for line in pins()}
    assert {named(text) for text in asked} - {"seqlens"} <= pinned


def test_the_models_of_the_tests_are_pinned_alike() -> None:
    lines = (ROOT / "tests" / "models-requirements.txt").read_text().splitlines()
    models = [line for line in lines if not line.startswith("#")]
    assert models
    assert set(models) <= set(pins())
