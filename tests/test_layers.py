"""Imports go downwards only, in every package, wherever in a file they stand.

Read from the source, so that an import inside a function counts like any other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "seqlens": ROOT / "service",
    "seqlens_client": ROOT / "clients" / "python",
    "seqlens_wire": ROOT / "proto" / "python",
    "seqlens_zoo": ROOT / "models",
}

# From the bottom to the top; a module may import its own layer and those below.
LAYERS = (
    {"sequences", "datatypes", "errors", "settings"},
    {"graphs"},
    {"metrics.observer"},
    {"backends"},
    {"attention"},
    {"scheduling"},
    {"repository"},
    {"api"},
    {"metrics"},  # what becomes of events: built by the server, told by the rest
    {"server"},
    {"cli", "__main__"},
)

# Which of our other packages a package, or a part of seqlens, may import.
NEIGHBOURS = {
    "seqlens": set[str](),
    "seqlens.api": {"seqlens_wire"},
    "seqlens.repository": {"seqlens_wire"},  # config.pbtxt is one of its messages in text
    "seqlens.server": {"seqlens_wire"},
    "seqlens.cli": {"seqlens_client", "seqlens_wire"},
    "seqlens_client": {"seqlens_wire"},
    "seqlens_wire": set[str](),
    "seqlens_zoo": set[str](),
}

# Parts that know a network; the rest of seqlens must not.
WIRE_LIBRARIES = {"grpc", "grpc_health", "grpc_reflection", "starlette", "uvicorn"}
WIRE_PARTS = {"api", "server", "cli"}

Import = tuple[str, str]  # the module that imports, the module that it imports


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that a source file names in an import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            # A package stands for its own __init__: one dot is the package itself.
            kept = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*kept, *filter(None, [node.module])])
            # What is named may be a module or something in it; both readings are kept.
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(package: str) -> list[Import]:
    root = PACKAGES[package]
    found = []
    for path in sorted((root / package).rglob("*.py")):
        if "pb" in path.relative_to(root).parts:  # generated
            continue
        module = module_name(path, root)
        names = imported(path.read_text(), module, is_package=path.name == "__init__.py")
        found += [(module, name) for name in names]
    return found


def layer(module: str) -> int | None:
    """The layer of a module of seqlens, counted from the bottom; None for the package itself."""
    inner = module.removeprefix("seqlens").lstrip(".")
    for reading in (".".join(inner.split(".")[:2]), inner.split(".")[0]):
        for number, parts in enumerate(LAYERS):
            if reading in parts:
                return number
    return None


def climbs(user: str, used: str) -> bool:
    """Whether a module of seqlens imports from a layer above its own."""
    if used.split(".")[0] != "seqlens":
        return False
    lower = layer(used)
    # The package's own __init__ runs with every import of it: it belongs to the bottom.
    return lower is not None and lower > (layer(user) or 0)


def may_use(user: str) -> set[str]:
    """The neighbours open to a module, by the most exact rule for it."""
    part = ".".join(user.split(".")[:2])
    return NEIGHBOURS.get(part, NEIGHBOURS[user.split(".")[0]])


def test_imports_in_seqlens_go_downwards() -> None:
    climbing = {pair for pair in imports_of("seqlens") if climbs(*pair)}
    assert climbing == set()


def test_every_module_of_seqlens_stands_in_a_layer() -> None:
    folder = PACKAGES["seqlens"] / "seqlens"
    modules = {module_name(path, PACKAGES["seqlens"]) for path in folder.rglob("*.py")}
    assert {m for m in modules if layer(m) is None} <= {"seqlens"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_only_the_neighbours_they_may(package: str) -> None:
    foreign = {
        (user, used)
        for user, used in imports_of(package)
        if (top := used.split(".")[0]) in PACKAGES and top != package and top not in may_use(user)
    }
    assert foreign == set()


def test_only_the_edges_of_seqlens_know_a_network() -> None:
    inside = {
        (user, used)
        for user, used in imports_of("seqlens")
        if used.split(".")[0] in WIRE_LIBRARIES and not WIRE_PARTS & set(user.split(".")[1:2])
    }
    assert inside == set()


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("def f():\n    import seqlens.server", "seqlens.graphs.axes", True),
        ("from seqlens import server", "seqlens.graphs.axes", True),
        ("from seqlens.metrics import prometheus", "seqlens.api.grpc.convert", True),
        ("from ..api import convert", "seqlens.graphs.axes", True),
        ("from seqlens.server import Server", "seqlens", True),
        ("from . import axes", "seqlens.graphs.roles", False),
        ("from seqlens.metrics.observer import Observer", "seqlens.api.grpc.convert", False),
        ("from seqlens.graphs import anatomy", "seqlens.api.grpc.convert", False),
    ],
)
def test_the_rule_sees_every_form_of_import(source: str, module: str, found: bool) -> None:
    names = imported(source, module, is_package=False)
    assert any(climbs(module, name) for name in names) is found
