"""Values inside the bodies of If, Loop and Scan, and their way out to the main graph.

A body's values are seen by nobody outside. To have one, every operator around it is given one
more output: of a Loop or Scan all steps stacked on a new first axis, of an If what the branch
made that ran, and an empty tensor where it was the other one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx.helper import make_node, make_tensor, make_tensor_type_proto, make_value_info
from onnx.inliner import inline_local_functions

from seqlens.graphs.onnx_flow import bodies_of, node_name


@dataclass(frozen=True, slots=True)
class Body:
    """A graph: the main one, or one that an operator of another graph runs."""

    graph: GraphProto
    prefix: str = ""  # in front of its values' names in a ``Flow``
    attribute: str = ""  # of the operator that runs it
    operator: NodeProto | None = None  # None: the main graph
    outer: "Body | None" = None  # the graph that the operator stands in

    @property
    def repeated(self) -> bool:
        """Whether it may run several times in one run of the model."""
        if self.operator is None or self.outer is None:
            return False
        return self.operator.op_type != "If" or self.outer.repeated


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is made."""

    body: Body
    node: NodeProto
    name: str  # of the value, in its own body


@dataclass(slots=True)
class Surgery:
    """A model without local functions, to be changed in place.

    ``places`` goes by the names that values have in the ``Flow`` of the same model.
    """

    model: ModelProto
    bodies: list[Body] = field(init=False)
    places: dict[str, Place] = field(init=False)
    _names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        """Look the model over."""
        self.bodies = list(_bodies(Body(self.model.graph)))
        self.places = {
            body.prefix + name: Place(body, node, name)
            for body in self.bodies
            for node in body.graph.node
            for name in node.output
            if name
        }
        self._names = {name for body in self.bodies for name in _names(body.graph)}

    def fresh(self, stem: str) -> str:
        """A name that no value of the model has yet."""
        options = (f"{stem}_{number}" if number else stem for number in count())
        name = next(option for option in options if option not in self._names)
        self._names.add(name)
        return name

    def insert_before(self, body: Body, node: NodeProto, added: list[NodeProto]) -> None:
        """Put operators into a body, right in front of one of its own."""
        self._insert(body, self._index(body, node), added)

    def insert_after(self, body: Body, node: NodeProto, added: list[NodeProto]) -> None:
        """Put operators into a body, right behind one of its own."""
        self._insert(body, self._index(body, node) + 1, added)

    def _index(self, body: Body, node: NodeProto) -> int:
        """Outputs are unique in a body; two objects may stand for one node."""
        return next(i for i, each in enumerate(body.graph.node) if each.output == node.output)

    def _insert(self, body: Body, place: int, added: list[NodeProto]) -> None:
        # Each by itself: an assignment of the whole list would leave every Place behind.
        for offset, each in enumerate(added):
            body.graph.node.insert(place + offset, each)

    def lift(self, body: Body, name: str, elem_type: int) -> str:
        """Make a value of a body a value of the main graph; its name there."""
        while body.operator is not None and body.outer is not None:
            operator, value = body.operator, typed(name, elem_type)
            if operator.op_type == "If":
                _leave_branch(operator, body.attribute, value, self.fresh("seqlens_no_weights"))
            else:
                _leave_loop(operator, body.graph, value)
            name = self.fresh("seqlens_lifted")
            operator.output.append(name)
            body = body.outer
        return name


def own_copy(model: ModelProto) -> ModelProto:
    """A copy to be changed, without local functions, as ``flatten`` lays it out."""
    if model.functions:
        return inline_local_functions(model)
    copied = ModelProto()
    copied.CopyFrom(model)
    return copied


def typed(name: str, elem_type: int) -> ValueInfoProto:
    """A value of a known type and an unknown shape."""
    return make_value_info(name, make_tensor_type_proto(elem_type, None))


def _leave_branch(operator: NodeProto, attribute: str, value: ValueInfoProto, empty: str) -> None:
    for each in bodies_of(operator):
        _pad_outputs(operator, len(each.g.output))
        if each.name == attribute:
            each.g.output.append(value)
            continue
        # The branches must agree on the type of a tensor, but not on its shape.
        elem_type = value.type.tensor_type.elem_type
        nothing = make_tensor("", elem_type, [0], [])
        each.g.node.append(make_node("Constant", [], [empty], value=nothing))
        each.g.output.append(typed(empty, elem_type))


def _leave_loop(operator: NodeProto, body: GraphProto, value: ValueInfoProto) -> None:
    """Add an output of each step. What a loop stacks comes last, so it goes to the end."""
    unseen = 1 if operator.op_type == "Loop" else 0  # a Loop body also returns its condition
    _pad_outputs(operator, len(body.output) - unseen)
    body.output.append(value)
    for attribute in operator.attribute:  # of a Scan; left out, they are 0 throughout
        if attribute.name in {"scan_output_axes", "scan_output_directions"}:
            attribute.ints.append(0)


def _pad_outputs(operator: NodeProto, size: int) -> None:
    """Outputs that are left out at the end must be there once another follows."""
    operator.output.extend([""] * (size - len(operator.output)))


def _bodies(body: Body) -> Iterator[Body]:
    yield body
    for index, node in enumerate(body.graph.node):
        for attribute in bodies_of(node):
            prefix = f"{body.prefix}{node_name(node, index)}.{attribute.name}/"
            yield from _bodies(Body(attribute.g, prefix, attribute.name, node, body))


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output
