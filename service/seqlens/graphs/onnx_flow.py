"""An ONNX model as one flat list of operators, whatever it was nested in.

Exporters wrap parts of a graph in ``If``, ``Loop``, ``Scan`` and local functions. Every question
that inspection asks (what depends on what, which weights an operator reads) is easier on one
list, so bodies are laid out in place, with names made unique, and their borders become plain
operators of the domain ``flow``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx
import onnx.shape_inference
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions

# What comes out of these tells of the shape or of nothing, never of the values put in.
CUTS_VALUES = frozenset({"Shape", "Size", "ConstantOfShape", "Range", "NonZero", "EyeLike"})
Shape = tuple[int | str | None, ...]  # a name or None: any size
Item = TypeVar("Item")
_INFERENCE_LIMIT = 256 * 2**20  # bytes; shape inference copies the model
_BODY_OPERATORS = frozenset({"If", "Loop", "Scan"})


@dataclass(frozen=True, slots=True)
class Step:
    """One operator. Values go by names that are unique in the whole model."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]  # "" where an optional input is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    branches: tuple[str, ...]  # the If branches that it lies in, outermost first

    @property
    def full_name(self) -> str:
        """Operator with its domain, as people write it."""
        return f"{self.domain}.{self.operator}" if self.domain else self.operator

    def input(self, index: int) -> str:
        """Name of an input value, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(slots=True)
class Flow:
    """All operators in order of execution, the constants they read, and who reads what."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    producers: dict[str, Step] = field(default_factory=dict)
    consumers: dict[str, list[Step]] = field(default_factory=dict)
    data: frozenset[str] = frozenset()  # values that depend on the values of graph inputs
    fixed: frozenset[str] = frozenset()  # values that are the same in every run
    loops: list[tuple[str, str]] = field(default_factory=list)  # Loop or Scan, prefix of its values
    carried: list[tuple[str, str]] = field(default_factory=list)  # body input, what it is next
    shapes: dict[str, Shape] = field(default_factory=dict)  # as far as ONNX itself infers them
    opset: int = 0  # of ONNX's own operators

    def add(self, step: Step) -> None:
        """Append an operator and note who makes and who reads its values."""
        self.steps.append(step)
        for name in filter(None, step.outputs):
            self.producers[name] = step
        for name in filter(None, step.inputs):
            self.consumers.setdefault(name, []).append(step)

    def readers(self, step: Step) -> Iterable[tuple[Step, str]]:
        """The operators that read what this one makes, each with the value it reads."""
        for name in step.outputs:
            for reader in self.consumers.get(name, ()):
                yield reader, name

    def descendants(self, start: str) -> frozenset[str]:
        """All values that depend on the values of ``start``, itself included."""
        return _reach(self.steps, {start})

    def ancestors(self, end: str) -> frozenset[str]:
        """All values that ``end`` is computed from, itself included."""
        reached, waiting = {end}, [end]
        while waiting:
            step = self.producers.get(waiting.pop())
            for name in filter(None, step.inputs if step else ()):
                if name not in reached:
                    reached.add(name)
                    waiting.append(name)
        return frozenset(reached)


def flatten(model: ModelProto) -> Flow:
    """Lay the model out flat. Local functions are inlined first."""
    if model.functions:
        model = inline_local_functions(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = {value.name: value.name for value in graph.input}
    flow = Flow(
        inputs=tuple(v.name for v in graph.input if v.name not in weights),
        outputs=tuple(v.name for v in graph.output),
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
    )
    _Layout(flow).graph(graph, names, prefix="", branches=())
    flow.data = _reach_data(flow)
    flow.fixed = _reach_fixed(flow)
    flow.shapes = _inferred_shapes(model)
    return flow


def declared_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """Shape of a value as the file states it, None where it states no rank."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_param or (d.dim_value if d.dim_value > 0 else None) for d in tensor.shape.dim
    )


def one_branch(items: Sequence[tuple[tuple[str, ...], Item]], depth: int = 0) -> list[Item]:
    """Of every If, what the fuller branch holds: a run goes through one branch only.

    ``items`` pairs each thing with the branches that it lies in, outermost first.
    """
    kept: list[Item] = []
    choices: dict[str, dict[str, list[tuple[tuple[str, ...], Item]]]] = {}
    for branches, item in items:
        if len(branches) <= depth:
            kept.append(item)
        else:
            node, _, side = branches[depth].rpartition(".")
            choices.setdefault(node, {}).setdefault(side, []).append((branches, item))
    for sides in choices.values():
        fullest: list[Item] = max((one_branch(side, depth + 1) for side in sides.values()), key=len)
        kept.extend(fullest)
    return kept


def _inferred_shapes(model: ModelProto) -> dict[str, Shape]:
    if model.ByteSize() > _INFERENCE_LIMIT:
        return {}
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # inference is a bonus: odd models run without it
        return {}
    values = (*graph.value_info, *graph.input, *graph.output)
    found = ((value.name, declared_shape(value)) for value in values)
    return {name: shape for name, shape in found if shape is not None}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Writes graphs into a flow, one scope of names at a time."""

    flow: Flow

    def graph(
        self, graph: GraphProto, names: dict[str, str], prefix: str, branches: tuple[str, ...]
    ) -> dict[str, str]:
        names = dict(names)  # what the body names stays in the body
        for tensor in graph.initializer:
            names[tensor.name] = prefix + tensor.name
            self.flow.constants[prefix + tensor.name] = tensor
        for index, node in enumerate(graph.node):
            self._node(node, names, prefix, branches, node_name(node, index))
        return names

    def _node(
        self,
        node: NodeProto,
        names: dict[str, str],
        prefix: str,
        branches: tuple[str, ...],
        name: str,
    ) -> None:
        inputs = tuple(names.get(i, i) for i in node.input)
        names.update({o: prefix + o for o in node.output if o})
        outputs = tuple(prefix + o if o else "" for o in node.output)
        if node.op_type == "Constant" and not node.domain:
            self.flow.constants[outputs[0]] = _constant(node)
        elif node.op_type in _BODY_OPERATORS and not node.domain:
            self._bodies(node, inputs, outputs, names, prefix + name, branches)
        else:
            domain = "" if node.domain == "ai.onnx" else node.domain
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            step = Step(node.op_type, domain, name, inputs, outputs, attributes, branches)
            self.flow.add(step)

    def _bodies(
        self,
        node: NodeProto,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        names: dict[str, str],
        name: str,
        branches: tuple[str, ...],
    ) -> None:
        results: list[tuple[str, ...]] = []
        for attribute in bodies_of(node):
            inside = f"{name}.{attribute.name}"
            if node.op_type != "If":
                self.flow.loops.append((node.op_type, f"{inside}/"))
            body, scope = attribute.g, dict(names)
            for value, source in zip(body.input, _body_sources(node, inputs), strict=False):
                scope[value.name] = f"{inside}/{value.name}"
                self._border("Enter", (source,), scope[value.name], branches)
            path = (*branches, inside) if node.op_type == "If" else branches
            scope = self.graph(body, scope, f"{inside}/", path)
            results.append(tuple(scope[value.name] for value in body.output))
            self.flow.carried += _carried(node, body, scope)
        skipped = 1 if node.op_type == "Loop" else 0  # a Loop body also returns its condition
        for index, output in enumerate(outputs):
            made = tuple(r[index + skipped] for r in results if index + skipped < len(r))
            if output:
                self._border("Exit", made, output, branches)

    def _border(
        self, operator: str, inputs: tuple[str, ...], output: str, branches: tuple[str, ...]
    ) -> None:
        self.flow.add(Step(operator, "flow", output, inputs, (output,), {}, branches))


def bodies_of(node: NodeProto) -> list[AttributeProto]:
    """The graphs that an operator runs, in the order in which they are laid out."""
    if node.op_type not in _BODY_OPERATORS or node.domain:
        return []
    found = [a for a in node.attribute if a.type == AttributeProto.GRAPH]
    return sorted(found, key=lambda a: a.name != "then_branch")


def node_name(node: NodeProto, index: int) -> str:
    """What an operator goes by: its name, else its kind and place."""
    return node.name or f"{node.op_type}_{index}"


def _carried(node: NodeProto, body: GraphProto, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Inputs of a body that hold in the next step what it returned in this one."""
    if node.op_type == "If":
        return
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    # A Loop gives its counter first, and its condition, which is carried too.
    first = 1 if node.op_type == "Loop" else 0
    inputs = list(body.input)[first : len(body.input) - scanned]
    for value, following in zip(inputs, body.output, strict=False):
        yield names[value.name], names.get(following.name, following.name)


def _body_sources(node: NodeProto, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """What each input of a body starts from; a Loop gives its counter and condition too."""
    return inputs if node.op_type != "If" else ()


def _constant(node: NodeProto) -> TensorProto:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t
    kinds: dict[str, int] = {"value_float": 1, "value_floats": 1, "value_int": 7, "value_ints": 7}
    values = value if isinstance(value, list | tuple) else [value]
    shape = [len(values)] if attribute.name.endswith("s") else []
    return onnx.helper.make_tensor("", kinds.get(attribute.name, TensorProto.STRING), shape, values)


def _reach(steps: list[Step], start: set[str]) -> frozenset[str]:
    return _forward(steps, start, any)


def _reach_data(flow: Flow) -> frozenset[str]:
    """What a state starts from may be constant; what it holds after a step depends on the data."""
    start = set(flow.inputs)
    while True:
        reached = _reach(flow.steps, set(start))
        new = {value for value, following in flow.carried if following in reached} - reached
        if not new:
            return reached
        start |= new


def _reach_fixed(flow: Flow) -> frozenset[str]:
    return _forward(flow.steps, set(flow.constants), all, cuts=frozenset())


def _forward(
    steps: list[Step],
    reached: set[str],
    rule: Callable[[Iterable[bool]], bool],
    cuts: frozenset[str] = CUTS_VALUES,
) -> frozenset[str]:
    """Values reached when a step passes on what ``rule`` says of its inputs."""
    for step in steps:
        used = [name in reached for name in step.inputs if name]
        if used and step.operator not in cuts and rule(used):
            reached.update(filter(None, step.outputs))
    return frozenset(reached)
