"""What an ONNX file says about itself, read without running it."""

from collections.abc import Iterator

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from seqlens.graphs.attention_sites import find_sites
from seqlens.graphs.onnx_flow import Flow, Step, declared_shape, flatten
from seqlens.graphs.onnx_parameters import count_parameters, find_precision
from seqlens.graphs.onnx_recurrence import find_layers
from seqlens.graphs.reading import GraphReading, TensorReading

DATATYPES: dict[int, str] = {
    TensorProto.BOOL: "BOOL",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "BYTES",
}
# Operators behind which ids are still the same ids, only elsewhere or of another type.
_KEEPS_IDS = frozenset(
    {
        "Identity",
        "Cast",
        "Clip",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Transpose",
        "Flatten",
        "Expand",
        "Slice",
        "Concat",
        "Where",
        "Enter",
        "Exit",
    }
)
_COMPARES = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_LARGEST_READ = 64  # elements of a constant whose value is looked at


def read_onnx(model: ModelProto) -> GraphReading:
    """Read inputs, outputs, layers, attention sites and parameters off a model.

    The weights themselves are not needed: a model loaded without its external data reads alike.
    """
    flow = flatten(model)
    sites = find_sites(flow)
    site_steps = [step for step, _ in sites]
    inputs = tuple(_read_input(flow, v) for v in model.graph.input if v.name in flow.inputs)
    outputs = tuple(_read_value(v) for v in model.graph.output)
    layers, findings = find_layers(flow, inputs, outputs, site_steps)
    return GraphReading(
        inputs=inputs,
        outputs=outputs,
        recurrent_layers=layers,
        attention_sites=tuple(site for _, site in sites),
        parameters=count_parameters(flow, site_steps),
        table_sizes=_table_sizes(flow),
        findings=findings,
        producer=_producer(model),
        precision=find_precision(flow),
        feature_sizes=tuple(dict.fromkeys(n for layer in layers if (n := layer.input_size))),
    )


def _read_value(value: ValueInfoProto) -> TensorReading:
    datatype = DATATYPES.get(value.type.tensor_type.elem_type)
    return TensorReading(value.name, datatype, declared_shape(value))


def _read_input(flow: Flow, value: ValueInfoProto) -> TensorReading:
    declared = _read_value(value)
    if not (declared.datatype or "").startswith(("INT", "UINT")):
        return declared
    readers = list(id_readers(flow, value.name))
    rows = [r for r in (_rows_indexed(flow, step, name) for step, name in readers) if r]
    return TensorReading(
        declared.name,
        declared.datatype,
        declared.shape,
        vocabulary_size=min(rows, default=None),
        compared_with=_compared_with(flow, value.name) if declared.shape in ((), (1,)) else (),
    )


def id_readers(flow: Flow, name: str) -> Iterator[tuple[Step, str]]:
    """Operators that read the unchanged values of an input, each with the name it reads."""
    waiting, seen = [name], {name}
    while waiting:
        value = waiting.pop()
        for step in flow.consumers.get(value, ()):
            yield step, value
            if _hands_on(step, value) and step.outputs[0] not in seen:
                seen.add(step.outputs[0])
                waiting.append(step.outputs[0])


def _hands_on(step: Step, value: str) -> bool:
    picks_ids = step.operator == "Gather" and step.input(0) == value  # e.g. the newest of a prefix
    return picks_ids or step.operator in _KEEPS_IDS


def _rows_indexed(flow: Flow, step: Step, name: str) -> int | None:
    """Rows of the constant table in which ``name`` is looked up by this operator."""
    if step.operator == "Gather" and step.input(1) == name and not step.attributes.get("axis", 0):
        return _table_rows(flow, step.input(0))
    if step.operator == "EmbedLayerNormalization" and name in step.inputs[:2]:
        return _table_rows(flow, step.input(2 if name == step.input(0) else 4))
    return None


def _table_rows(flow: Flow, name: str) -> int | None:
    """First size of the constant behind a name."""
    table = table_behind(flow, name)
    return int(table.dims[0]) if table is not None and table.dims else None


def table_behind(flow: Flow, name: str) -> TensorProto | None:
    """The constant behind a name, through a cast or dequantization."""
    while name not in flow.constants:
        step = flow.producers.get(name)
        if step is None or name not in flow.fixed:
            return None
        name = step.input(0)
    return flow.constants[name]


def _compared_with(flow: Flow, name: str) -> tuple[int, ...]:
    """Constants that a scalar input is tested against: the values that the exporter foresaw."""
    found: list[int] = []
    for step, value in id_readers(flow, name):
        if step.operator in _COMPARES:
            others = (i for i in step.inputs if i != value)
            found += [n for other in others for n in _small_integers(flow, other)]
    return tuple(dict.fromkeys(found))


def _small_integers(flow: Flow, name: str) -> tuple[int, ...]:
    tensor = flow.constants.get(name)
    if tensor is None or tensor.external_data or len(tensor.dims) > 1:
        return ()
    values = onnx.numpy_helper.to_array(tensor).reshape(-1)[:_LARGEST_READ]
    return tuple(int(v) for v in values)


def _table_sizes(flow: Flow) -> tuple[int, ...]:
    """Sizes of constant tables that are read by position: a longer sequence finds no row."""
    sizes: set[int] = set()
    for step in flow.steps:
        if step.operator == "EmbedLayerNormalization":
            sizes.add(_table_rows(flow, step.input(3)) or 0)
        elif step.input(0) in flow.fixed and step.outputs[0] not in flow.fixed:
            sizes.update(_sizes_read(flow, step))
    return tuple(sorted(size for size in sizes if size > 1))


def _sizes_read(flow: Flow, step: Step) -> tuple[int, ...]:
    if step.operator == "Gather" and not _looks_up_input(flow, step):
        return (_table_rows(flow, step.input(0)) or 0,)
    if step.operator == "Slice" and step.input(0) in flow.constants:
        dims = flow.constants[step.input(0)].dims
        axes = _small_integers(flow, step.input(3)) or tuple(range(len(dims)))
        return tuple(int(dims[axis]) for axis in axes if -len(dims) <= axis < len(dims))
    return ()


def _looks_up_input(flow: Flow, gather: Step) -> bool:
    """Whether the row numbers are an input's own values, so ids rather than positions."""
    name = gather.input(1)
    while (step := flow.producers.get(name)) is not None and _hands_on(step, step.input(0)):
        name = step.input(0)
    return name in flow.inputs


def _producer(model: ModelProto) -> str:
    name = " ".join(filter(None, (model.producer_name, model.producer_version)))
    opsets = [
        f"opset {o.version}" if not o.domain or o.domain == "ai.onnx" else f"{o.domain} {o.version}"
        for o in model.opset_import
    ]
    return ", ".join(filter(None, (name, *opsets)))
