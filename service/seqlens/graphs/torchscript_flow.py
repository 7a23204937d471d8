"""The data flow of a TorchScript graph: what comes from where, which inputs a value depends on.

Works on an inlined copy; the module itself is never changed.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from seqlens.graphs.torchscript_operators import SHAPES_ONLY, VIEWS

# The stubs of torch._C leave most of the graph's methods out.
Graph = Any
Node = Any
Value = Any
Module = Any

_BUILT = ("prim::TupleConstruct", "prim::ListConstruct")

# Types whose attributes are constants of the program once the module is in eval mode.
_FOLDED_TYPES = ("bool", "int", "float", "str", "NoneType")


@dataclass(frozen=True, slots=True)
class Operation:
    """One node, where it stands and in which branches."""

    index: int  # order of execution
    node: Node
    kind: str
    blocks: tuple[tuple[int, int], ...]  # enclosing blocks: (index of the If or Loop, block)
    inputs: list[Value]  # what it takes, in order
    outputs: list[Value]  # what it makes

    def argument(self, *names: str) -> Value | None:
        """The operand of the first of these schema names that there is."""
        known = _argument_names(self.node.schema()) if self.kind.startswith("aten::") else ()
        values = self.inputs
        return next((values[known.index(name)] for name in names if name in known), None)


@cache
def _argument_names(schema: str) -> tuple[str, ...]:
    return tuple(a.name for a in torch._C.parse_schema(schema).arguments)


class Flow:
    """An inlined, simplified copy of a module's forward with look-ups in both directions."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.graph: Graph = module.inlined_graph  # a fresh copy at each access
        _fold_attributes(self.graph, module)
        self.operations: list[Operation] = []
        self.producer: dict[int, Operation] = {}  # by the value's unique number
        self.users: dict[int, list[Operation]] = defaultdict(list)
        self._same_before: dict[int, list[Value]] = defaultdict(list)
        self._same_after: dict[int, list[Value]] = defaultdict(list)
        self._walk(self.graph, ())
        self.input_names = _input_names(module)
        self._depends = self._dependences()

    def of_kind(self, *kinds: str) -> list[Operation]:
        """All operations of these kinds in order of execution."""
        return [operation for operation in self.operations if operation.kind in kinds]

    def path(self, value: Value) -> str | None:
        """Dotted name of the attribute that a value is read from, None for anything else."""
        names: list[str] = []
        while (made := self.producer.get(value.unique())) and made.kind == "prim::GetAttr":
            names.append(made.node.s("name"))
            value = made.inputs[0]
        inputs = list(self.graph.inputs())
        is_self = bool(inputs) and value.unique() == inputs[0].unique()
        return ".".join(reversed(names)) if names and is_self else None

    def constant(self, value: Value | None) -> Any:
        """Python value of a constant or of a plain attribute; None where it is computed."""
        if value is None:
            return None
        path = self.path(value)
        return value.toIValue() if path is None else attribute(self.module, path)

    def tensors(self, value: Value) -> list[torch.Tensor]:
        """The tensors of a weight operand: an attribute, a constant, or a list of these."""
        found = self.constant(value)
        if isinstance(found, torch.Tensor):
            return [found]
        if isinstance(found, list | tuple):
            return [t for t in found if isinstance(t, torch.Tensor)]
        made = self.producer.get(value.unique())
        if made is not None and made.kind in _BUILT:
            return [tensor for part in made.inputs for tensor in self.tensors(part)]
        return []

    def depends_on(self, value: Value) -> frozenset[str]:
        """Names of the model's inputs whose elements reach this value."""
        return frozenset(self._depends.get(value.unique(), ()))

    def origins(self, value: Value, through: frozenset[str] = VIEWS) -> list[Value]:
        """Where a value comes from, seen through branches, tuples and operators in ``through``.

        Several values where branches differ, or where such an operator joins operands that
        depend on the input; in the order of the operands.
        """
        return list(self._search(value, lambda v: self._before(v, through)).values())

    def reach(self, value: Value, through: frozenset[str] = VIEWS) -> list[Value]:
        """All values that a value becomes by branches, tuples and operators in ``through``."""
        return list(self._search(value, lambda v: self._after(v, through), keep=True).values())

    def _search(
        self, start: Value, following: Callable[[Value], list[Value]], keep: bool = False
    ) -> dict[int, Value]:
        found: dict[int, Value] = {}
        seen: set[int] = set()
        todo = [start]
        while todo:
            value = todo.pop()
            if value.unique() in seen:
                continue
            seen.add(value.unique())
            more = following(value)
            todo.extend(reversed(more))
            if keep or not more:
                found[value.unique()] = value
        return found

    def _before(self, value: Value, through: frozenset[str]) -> list[Value]:
        same = self._same_before.get(value.unique())
        if same:
            return same
        made = self.producer.get(value.unique())
        if made is None or made.kind not in through:
            return []
        if made.kind in VIEWS:
            return made.inputs[:1]
        return [v for v in made.inputs if "Tensor" in str(v.type()) and self.depends_on(v)]

    def _after(self, value: Value, through: frozenset[str]) -> list[Value]:
        following = list(self._same_after.get(value.unique(), ()))
        for user in self.users.get(value.unique(), ()):
            views = user.kind in VIEWS
            if user.kind in through and not (views and user.inputs[0].unique() != value.unique()):
                following += user.outputs
        return following

    def _walk(self, block: Graph, blocks: tuple[tuple[int, int], ...]) -> None:
        for node in block.nodes():
            operation = Operation(
                len(self.operations),
                node,
                node.kind(),
                blocks,
                list(node.inputs()),
                list(node.outputs()),
            )
            self.operations.append(operation)
            for value in operation.outputs:
                self.producer[value.unique()] = operation
            for value in operation.inputs:
                self.users[value.unique()].append(operation)
            inner = list(node.blocks())
            for number, part in enumerate(inner):
                self._walk(part, (*blocks, (operation.index, number)))
            self._link_same(operation, inner)

    def _link_same(self, operation: Operation, inner: list[Graph]) -> None:
        """Note which values are one and the same across branches, loops and tuples."""
        for before, after in _same_values(operation, inner, self.producer):
            self._same_before[after.unique()].append(before)
            self._same_after[before.unique()].append(after)

    def _dependences(self) -> dict[int, set[str]]:
        depends: dict[int, set[str]] = defaultdict(set)
        for value, name in zip(list(self.graph.inputs())[1:], self.input_names, strict=False):
            depends[value.unique()].add(name)
        # Loops feed values back and lists fill up in place, so repeat until nothing changes.
        while self._spread(depends):
            pass
        return depends

    def _spread(self, depends: dict[int, set[str]]) -> bool:
        before = sum(map(len, depends.values()))
        for operation in self.operations:
            if operation.kind not in SHAPES_ONLY and not operation.kind.startswith("prim::If"):
                reached = set().union(*(depends[v.unique()] for v in operation.inputs))
                for value in self._written(operation):
                    depends[value.unique()] |= reached
        for after, sources in self._same_before.items():
            for source in sources:
                depends[after] |= depends[source.unique()]
        return sum(map(len, depends.values())) > before

    def _written(self, operation: Operation) -> list[Value]:
        """What it makes, what it writes into, and what that is a view of."""
        written = list(operation.outputs)
        in_place = operation.kind.endswith("_") and not operation.kind.endswith("__")
        value = operation.inputs[0] if in_place or operation.kind == "aten::append" else None
        while value is not None:
            written.append(value)
            made = self.producer.get(value.unique())
            value = made.inputs[0] if in_place and made is not None and made.kind in VIEWS else None
        return written


def attribute(module: Module, path: str) -> Any:
    """The attribute of a module at a dotted path."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


def alternatives(
    operations: Iterable[Operation], key: Callable[[Operation], Hashable]
) -> list[list[Operation]]:
    """Gather operations that are different ways to compute one thing.

    Scripted modules hold a fast and a slow path for one layer: other operators, or the same
    operator in the other branch, on the same weights (= ``key``). A second operation of the same
    kind that may run in the same call belongs to another thing.
    """
    groups: list[tuple[Hashable, list[Operation]]] = []
    for operation in operations:
        last = next((g for k, g in reversed(groups) if k == key(operation)), None)
        if last and all(o.kind != operation.kind or _exclusive(o, operation) for o in last):
            last.append(operation)
        else:
            groups.append((key(operation), [operation]))
    return [group for _, group in groups]


def _exclusive(one: Operation, other: Operation) -> bool:
    ours, theirs = dict(one.blocks), dict(other.blocks)
    return any(ours[owner] != theirs[owner] for owner in ours.keys() & theirs.keys())


def _same_values(
    operation: Operation, inner: list[Graph], producer: dict[int, Operation]
) -> Iterator[tuple[Value, Value]]:
    """Pairs (value, the same value under another name) that this operation makes."""
    inputs, outputs = operation.inputs, operation.outputs
    if operation.kind == "prim::If":
        for block in inner:
            yield from zip(block.outputs(), outputs, strict=True)
    elif operation.kind == "prim::Loop":
        carried = list(inner[0].inputs())[1:]
        for results in (inputs[2:], list(inner[0].outputs())[1:]):
            yield from zip(results, carried, strict=True)
            yield from zip(results, outputs, strict=True)
    elif operation.kind in ("prim::unchecked_cast", "aten::IntImplicit"):
        yield inputs[0], outputs[0]
    elif operation.kind in ("prim::TupleUnpack", "prim::ListUnpack"):
        made = producer.get(inputs[0].unique())
        parts = made.inputs if made is not None and made.kind in _BUILT else []
        # A list may have grown since it was built: then each part may be any of its elements.
        parts = parts if len(parts) == len(outputs) else inputs * len(outputs)
        yield from zip(parts, outputs, strict=True)
    elif operation.kind == "aten::append":
        yield inputs[1], inputs[0]
    elif operation.kind == "prim::TupleIndex":
        yield inputs[0], outputs[0]
    elif operation.kind in _BUILT:
        yield from ((value, outputs[0]) for value in inputs)


def _input_names(module: Module) -> list[str]:
    return [argument.name for argument in module.forward.schema.arguments[1:]]


def _fold_attributes(graph: Graph, module: Module) -> None:
    """Put plain attributes in as constants, so that branches not taken in eval mode vanish."""
    written = {node.s("name") for node in graph.findAllNodes("prim::SetAttr")}
    for node in graph.findAllNodes("prim::GetAttr"):
        output = node.output()
        if str(output.type()) in _FOLDED_TYPES and node.s("name") not in written:
            value = attribute(module, ".".join(_attribute_path(node)))
            with graph.insert_point_guard(node):
                output.replaceAllUsesWith(graph.insertConstant(value))
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_dce(graph)


def _attribute_path(node: Node) -> list[str]:
    owner = node.input().node()
    before = _attribute_path(owner) if owner.kind() == "prim::GetAttr" else []
    return [*before, node.s("name")]
