import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from seqlens.backends.plugins import backend_for, find_all
from seqlens.errors import ModelRejected

PLUGIN = Path(__file__).parents[2] / "examples" / "backend_plugin"


def install(folder: Path, name: str, value: str) -> None:
    """Lay down the metadata that pip would write for a package with one backend."""
    metadata = folder / f"plugin_{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(f"[seqlens.backends]\n{name} = {value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_built_in_backends_are_found() -> None:
    assert {"onnxruntime", "torchscript"} <= find_all().working.keys()


@pytest.mark.parametrize(
    ("file", "name"), [("model.pt", "torchscript"), ("a/b/model.ONNX", "onnxruntime")]
)
def test_the_ending_of_a_file_decides(file: str, name: str) -> None:
    assert backend_for(Path(file)).name == name


def test_a_name_goes_before_the_ending() -> None:
    assert backend_for(Path("model.onnx"), "torchscript").name == "torchscript"


def test_the_example_plugin_is_found_once_installed(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGIN)
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["seqlens.backends"].items()
    install(site, name, value)
    assert backend_for(Path("model.npz")).name == name


def test_unknown_endings_and_names_are_answered_with_what_is_known() -> None:
    with pytest.raises(ModelRejected, match=r"model\.xyz.*onnxruntime \(\.onnx.*torchscript"):
        backend_for(Path("model.xyz"))
    with pytest.raises(ModelRejected, match=r"'tensorflow'.*onnxruntime"):
        backend_for(Path("model.onnx"), "tensorflow")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_library_that_is_missing", "a_library_that_is_missing"),
        ("class Backend:\n    pass", "is not a backend"),
    ],
)
def test_a_broken_plugin_is_reported_and_stops_nobody(site: Path, source: str, reason: str) -> None:
    module = f"broken_plugin_{len(source)}"
    (site / f"{module}.py").write_text(source)
    install(site, "broken", f"{module}:Backend")
    found = find_all()
    assert "torchscript" in found.working
    assert reason in found.broken["broken"]
    with pytest.raises(ModelRejected, match=r"broken cannot be used"):
        backend_for(Path("model.xyz"))


def test_finding_backends_does_not_import_torch() -> None:
    program = (
        "import sys; from seqlens.backends.plugins import find_all; found = find_all().working; "
        "sys.exit('torch' in sys.modules or 'torchscript' not in found)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
