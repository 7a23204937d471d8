"""What can be read off an exported file without running it.

``onnx_graph`` and ``torchscript_graph`` both give a ``GraphReading``; ``probing`` turns it into
a ``ModelAnatomy`` by running the model on a few small inputs.
"""

from dataclasses import dataclass

from seqlens.graphs.anatomy import AttentionSite, ParameterGroup, RecurrentLayer

# The first two axes of a sequence of which the file tells nothing: batch and time, or time and
# batch. Axes of these names in other inputs have the same sizes.
FIRST_AXIS, SECOND_AXIS = "a", "b"


@dataclass(frozen=True, slots=True)
class TensorReading:
    """An input or output as the file declares it."""

    name: str
    datatype: str | None  # as on the wire; None where the file does not tell (TorchScript)
    shape: tuple[int | str | None, ...] | None  # a name or None: any size; None: rank unknown
    vocabulary_size: int | None = None  # rows of the table that these ids index
    compared_with: tuple[int, ...] = ()  # constants that the graph tests it against: probe values


@dataclass(frozen=True, slots=True)
class GraphReading:
    """Facts of the graph itself."""

    inputs: tuple[TensorReading, ...]
    outputs: tuple[TensorReading, ...]
    recurrent_layers: tuple[RecurrentLayer, ...]
    attention_sites: tuple[AttentionSite, ...]
    parameters: tuple[ParameterGroup, ...]
    table_sizes: tuple[int, ...]  # first sizes of constant tables: candidates for a longest length
    findings: tuple[str, ...]
    producer: str
    precision: str
    feature_sizes: tuple[int, ...] = ()  # widths to try for a float input of unknown shape
