"""ONNX graphs run as they are, plain and tapped."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
from onnx import ModelProto

from seqlens.graphs.taps import read_taps, tap_model
from seqlens.sequences import Array


def run(model: ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def site_names(model: ModelProto) -> list[str]:
    """Names of all sites that can be tapped."""
    return [tap.site.name for tap in read_taps(model).taps]


def tapped(model: ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """Weights of all sites; the plain outputs must be the same to the last bit."""
    sites = site_names(model)
    graph = tap_model(model, sites)
    plain, found = run(model, inputs), run(graph.model, inputs)
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name], array)
    return [found[graph.outputs[site]] for site in sites]
