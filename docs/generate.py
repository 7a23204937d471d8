"""Write the tables of the reference pages anew from the code: ``make docs``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; the rest of a page is
written by hand. A test compares.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from docstring_parser import parse

from seqlens import errors
from seqlens.api.control.calls import KINDS
from seqlens.api.grpc.inference import GrpcInference
from seqlens.api.grpc.sequences import GrpcSequenceService
from seqlens.api.grpc.streaming import GrpcInferenceStream
from seqlens.api.rest.openapi_operations import OIP, OURS, SERVER, operations
from seqlens.settings import ServerSettings
from seqlens_wire.services import OPEN_INFERENCE, SEQUENCES, method_names

REFERENCE = Path(__file__).parent / "reference"
LONGER_FORMS = ("/versions/{version}", "/{repository}/", "/cudasharedmemory/")
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Rows = Iterator[tuple[str, ...]]


def settings(of: type[Any] = ServerSettings, prefix: str = "") -> Rows:
    """Key, flag, variable, default and meaning of every setting."""
    if not prefix:
        yield "key", "flag", "environment", "default", "meaning"
    described = {one.arg_name: one.description or "" for one in parse(of.__doc__ or "").params}
    for field in dataclasses.fields(of):
        if dataclasses.is_dataclass(field.default_factory):
            yield from settings(field.default_factory, f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        key = prefix + field.name
        flag = "--" + key.replace("_", "-")
        variable = "SEQLENS_" + key.replace(".", "_").upper()
        meaning = _sentence(described[field.name])
        yield f"`{key}`", f"`{flag}`", f"`{variable}`", _default(field.default), meaning


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return f"{value[0]} ... {value[-1]}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def error_classes() -> Rows:
    """Name, codes and meaning of every error that a caller may get."""
    yield "error", "gRPC status", "HTTP", "when"
    for name, value in vars(errors).items():
        if not inspect.isclass(value) or not issubclass(value, errors.SeqLensError):
            continue
        if value is not errors.SeqLensError:
            status = str(value.http_status.value)
            yield f"`{name}`", value.grpc_code, status, _sentence(value.__doc__)


def open_inference() -> Rows:
    """Every RPC of the Open Inference Protocol that is offered."""
    yield "call", "answer"
    yield from _calls(OPEN_INFERENCE, (GrpcInference, GrpcInferenceStream, *KINDS))


def sequences() -> Rows:
    """Every RPC of our own service."""
    yield "call", "answer"
    yield from _calls(SEQUENCES, (GrpcSequenceService,))


def routes(tag: str) -> Rows:
    """Every REST route under a tag of the OpenAPI document, without its longer forms."""
    yield "method", "path", "answer"
    for operation in operations():
        if operation.tag == tag and not any(form in operation.path for form in LONGER_FORMS):
            yield operation.method, f"`{operation.path}`", _sentence(operation.summary)


def _calls(service: str, parts: tuple[type, ...]) -> Rows:
    for name in method_names(service):
        method = next((getattr(part, name) for part in parts if hasattr(part, name)), None)
        if method is not None:
            yield f"`{name}`", _sentence(method.__doc__)


def _sentence(text: str | None) -> str:
    """The first paragraph of a docstring as a cell, but for what it raises."""
    paragraph = " ".join((text or "").strip().split("\n\n")[0].split())
    paragraph = paragraph.split(" Raises ")[0]
    return paragraph.replace("``", "`").replace("|", "\\|").rstrip(".")


TABLES: dict[str, Callable[[], Rows]] = {
    "settings": settings,
    "errors": error_classes,
    "open_inference": open_inference,
    "sequences": sequences,
    "rest_sequences": partial(routes, OURS),
    "rest_open_inference": partial(routes, OIP),
    "rest_server": partial(routes, SERVER),
}


def table(name: str) -> str:
    """The table of this name in Markdown."""
    head, *rows = TABLES[name]()
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def renewed(page: str) -> str:
    """The page with all its tables as the code gives them now."""
    return _TABLE.sub(lambda found: found[1] + table(found[2]) + found[4], page)


def main() -> None:
    """Write all pages; with ``--check`` only tell which would change."""
    changed = []
    for path in sorted(REFERENCE.glob("*.md")):
        before = path.read_text()
        after = renewed(before)
        if after != before:
            changed.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after)
    if changed and "--check" in sys.argv:
        sys.exit(f"make docs would change {', '.join(changed)}")


if __name__ == "__main__":
    main()
