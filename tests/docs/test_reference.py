"""The reference pages say what the code says."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqlens import errors
from seqlens.settings import ServerSettings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def table_rows(page: str) -> dict[str, list[str]]:
    """First cell without quotes -> the other cells, of all tables of a page."""
    rows = {}
    for line in (REFERENCE / page).read_text().splitlines():
        if line.startswith("| `"):
            first, *others = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
            rows[first] = others
    return rows


def settings(of: type[Any] = ServerSettings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(of):
        if field.name in ("scheduler", "limits", "security"):
            yield from settings(field.default_factory, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.default


def shown(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return f"{default[0]} ... {default[-1]}"
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)


@pytest.mark.parametrize(("key", "default"), list(settings()))
def test_setting_is_documented_with_its_flag_variable_and_default(key: str, default: Any) -> None:
    flag, variable, documented, meaning = table_rows("settings.md")[key]
    assert flag == "--" + key.replace("_", "-")
    assert variable == "SEQLENS_" + key.replace(".", "_").upper()
    assert documented == shown(default)
    assert meaning


def test_no_setting_is_documented_that_does_not_exist() -> None:
    assert set(table_rows("settings.md")) == {key for key, _ in settings()}


def error_classes() -> list[type[errors.SeqLensError]]:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    return [
        c for c in classes if issubclass(c, errors.SeqLensError) and c is not errors.SeqLensError
    ]


@pytest.mark.parametrize("error", error_classes())
def test_error_is_documented_with_both_codes(error: type[errors.SeqLensError]) -> None:
    grpc_code, http_status, when = table_rows("errors.md")[error.__name__]
    assert grpc_code == error.grpc_code
    assert int(http_status) == error.http_status
    assert when


def test_pages_are_linked_from_the_readme() -> None:
    readme = (REFERENCE.parents[1] / "README.md").read_text()
    for page in REFERENCE.glob("*.md"):
        assert re.search(rf"docs/reference/{page.name}", readme), page.name
