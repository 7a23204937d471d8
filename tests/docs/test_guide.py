"""Every snippet of the guides runs against a real server of the example models.

Python blocks of a page share one namespace, ``sh`` blocks one folder, in the page's order.
``console`` blocks are for people only.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def snippets(page: Path, server: Any) -> list[tuple[str, str]]:
    text = page.read_text()
    for documented, real in (("127.0.0.1:8000", server.rest), ("127.0.0.1:8001", server.grpc)):
        text = text.replace(documented, real)
    return [(found[1], found[2]) for found in _BLOCK.finditer(text)]


def run_shell(block: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_snippets_run(
    page: Path, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for language, block in snippets(page, server):
        if language == "python":
            exec(compile(block, page.name, "exec"), namespace)
        elif language == "sh":
            run_shell(block, tmp_path)


def test_every_guide_is_linked_from_the_readme() -> None:
    readme = (GUIDE.parents[1] / "README.md").read_text()
    for page in GUIDE.glob("*.md"):
        assert f"docs/guide/{page.name}" in readme, page.name
