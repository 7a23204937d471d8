import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "proto" / "generate.py"


@pytest.fixture
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_checked_in_code_is_what_the_sources_give() -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_check_names_files_that_differ_are_missing_or_superfluous(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "TARGET", tmp_path)
    (tmp_path / "edited_pb2.py").write_bytes(b"edited by hand")
    (tmp_path / "forgotten_pb2.py").write_bytes(b"its source is gone")
    files = {"edited_pb2.py": b"generated", "missing_pb2.py": b"generated"}
    assert generate.differing(files) == ["edited_pb2.py", "forgotten_pb2.py", "missing_pb2.py"]


def test_another_compiler_is_refused(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "COMPILER", "0.0.1")
    with pytest.raises(SystemExit, match=r"expected 0\.0\.1"):
        generate.main(["--check"])
