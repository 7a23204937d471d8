"""Where token ids become vectors, and how to add to these vectors before anything reads them."""

from dataclasses import dataclass

from onnx import NodeProto, TensorProto
from onnx.helper import make_node, make_tensor

from seqlens.graphs.onnx_flow import Flow, Step
from seqlens.graphs.onnx_graph import id_readers, table_behind
from seqlens.graphs.tap_bodies import Place, Surgery, typed
from seqlens.graphs.tap_types import declared_types, element_type

_FUSED = "EmbedLayerNormalization"
_IDS, _TABLE = 0, 2  # places among its inputs


@dataclass(frozen=True, slots=True)
class Lookup:
    """The operator that looks up token ids in a table of vectors."""

    step: Step
    width: int  # of one vector

    @property
    def fused(self) -> bool:
        """Whether the vectors never leave the operator."""
        return self.step.operator == _FUSED


@dataclass(frozen=True, slots=True)
class EmbeddingNames:
    """Names of the vectors, as they were looked up, and of the input that is added to them."""

    vectors: str
    delta: str | None


def find_lookup(flow: Flow, ids: str) -> Lookup | None:
    """The first table of vectors that is indexed by this input's own values."""
    readers = {(step.outputs, name): step for step, name in id_readers(flow, ids)}
    order = {step.outputs: place for place, step in enumerate(flow.steps)}
    for (_, name), step in sorted(readers.items(), key=lambda item: order[item[0][0]]):
        table = _indexed_table(flow, step, name)
        if table is not None and len(table.dims) == 2:
            return Lookup(step, int(table.dims[1]))
    return None


def _indexed_table(flow: Flow, step: Step, name: str) -> TensorProto | None:
    if step.operator == "Gather" and step.input(1) == name and not step.attributes.get("axis", 0):
        return table_behind(flow, step.input(0))
    if step.operator == _FUSED and step.input(_IDS) == name:
        return table_behind(flow, step.input(_TABLE))
    return None


def vectors_of(flow: Flow, lookup: Lookup) -> str:
    """The value that holds the vectors: behind the rounding of a table of integers."""
    name = lookup.step.outputs[0]
    for reader in flow.consumers.get(name, ()):
        if reader.operator == "DequantizeLinear" and reader.input(0) == name:
            return reader.outputs[0]
    return name


def open_embedding(
    surgery: Surgery, flow: Flow, lookup: Lookup, *, delta: bool
) -> EmbeddingNames | None:
    """Make the vectors an output and, if asked for, add a new input of their type and shape.

    Changes the model in place. None where the lookup lies in the body of another operator.
    """
    value = vectors_of(flow, lookup)
    place = surgery.places.get(value)
    if place is None or place.body.operator is not None:
        return None
    source = lookup.step.input(_TABLE) if lookup.fused else value
    kind = element_type(flow, declared_types(surgery.bodies), source)
    if lookup.fused:
        names = _open_fused(surgery, place.node, lookup.width, delta=delta)
    elif delta:
        names = _open_plain(surgery, place)
    else:
        names = EmbeddingNames(value, None)
    graph = surgery.model.graph
    if all(output.name != names.vectors for output in graph.output):
        graph.output.append(typed(names.vectors, kind))
    if names.delta is not None:
        graph.input.append(typed(names.delta, kind))
    return names


def _open_plain(surgery: Surgery, place: Place) -> EmbeddingNames:
    """The sum takes over the name of the vectors, so that no reader has to change."""
    vectors, delta = surgery.fresh(place.name), surgery.fresh("seqlens_delta")
    for index, name in enumerate(place.node.output):
        if name == place.name:
            place.node.output[index] = vectors
    added = make_node("Add", [vectors, delta], [place.name])
    surgery.insert_after(place.body, place.node, [added])
    return EmbeddingNames(vectors, delta)


def _open_fused(surgery: Surgery, node: NodeProto, width: int, *, delta: bool) -> EmbeddingNames:
    """Look the vectors up in front of the kernel, which then reads them as a table in order."""
    ids, table = node.input[_IDS], node.input[_TABLE]
    vectors = surgery.fresh("seqlens_vectors")
    nodes = [make_node("Gather", [table, ids], [vectors])]
    if delta:
        added = surgery.fresh("seqlens_delta")
        names = [surgery.fresh(f"seqlens_{part}") for part in ("moved", "rows", "order", "places")]
        nodes += _table_nodes(vectors, added, ids, width, names)
        _, node.input[_TABLE], _, node.input[_IDS] = names
    index = next(i for i, each in enumerate(surgery.model.graph.node) if each is node)
    for offset, each in enumerate(nodes):
        surgery.model.graph.node.insert(index + offset, each)
    return EmbeddingNames(vectors, added if delta else None)


def _table_nodes(
    vectors: str, delta: str, ids: str, width: int, names: list[str]
) -> list[NodeProto]:
    """The vectors of all positions as a table [positions, width], and ids 0, 1, 2, ... into it."""
    moved, rows, order, places = names
    number = TensorProto.INT64
    constants = {
        f"{moved}_shape": make_tensor("", number, [2], [-1, width]),
        f"{moved}_zero": make_tensor("", number, [], [0]),
        f"{moved}_one": make_tensor("", number, [], [1]),
    }
    return [
        *(make_node("Constant", [], [name], value=value) for name, value in constants.items()),
        make_node("Add", [vectors, delta], [moved]),
        make_node("Reshape", [moved, f"{moved}_shape"], [rows]),
        make_node("Size", [ids], [f"{moved}_size"]),
        make_node("Shape", [ids], [f"{moved}_ids"]),
        make_node("Range", [f"{moved}_zero", f"{moved}_size", f"{moved}_one"], [f"{moved}_range"]),
        make_node("Reshape", [f"{moved}_range", f"{moved}_ids"], [order]),
        make_node("Cast", [order], [places], to=TensorProto.INT32),
    ]
