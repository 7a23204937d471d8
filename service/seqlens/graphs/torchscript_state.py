"""Attributes that a module writes while it runs: its answer then depends on earlier calls."""

from seqlens.graphs.torchscript_flow import Flow
from seqlens.graphs.torchscript_operators import VIEWS


def kept_attributes(flow: Flow) -> tuple[str, ...]:
    """Dotted names of the attributes that ``forward`` sets or changes in place."""
    names: dict[str, None] = {}
    for operation in flow.of_kind("prim::SetAttr"):
        owner = flow.path(operation.inputs[0])
        name = operation.node.s("name")
        names[f"{owner}.{name}" if owner else name] = None
    for operation in flow.operations:
        if operation.kind.startswith("aten::") and "(a!)" in operation.node.schema():
            for value in flow.origins(operation.inputs[0], VIEWS):
                if (path := flow.path(value)) is not None:
                    names[path] = None
    return tuple(names)
