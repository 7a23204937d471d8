"""The tensors that clients are told of: those that ``config.pbtxt`` declares, or the file's own."""

from collections.abc import Sequence

from seqlens.graphs.anatomy import InputAnatomy, OutputAnatomy
from seqlens.repository.loading import LoadedModel


def declared_inputs(model: LoadedModel) -> Sequence[InputAnatomy]:
    """Inputs as they are declared, or all of the file itself.

    Generic clients fill every input that they are told of with data of their own, so those that
    the server wired in are not shown; callers may still send them by name.
    """
    signature, anatomy = model.signature, model.anatomy
    if signature is None or not signature.inputs:
        return [spec for spec in anatomy.inputs if not spec.added_by_server]
    return [spec for stated in signature.inputs if (spec := anatomy.input(stated.name))]


def declared_outputs(model: LoadedModel) -> Sequence[OutputAnatomy]:
    """Outputs as they are declared, or all: what a request gets that asks for none by name."""
    signature, anatomy = model.signature, model.anatomy
    if signature is None or not signature.outputs:
        return anatomy.outputs
    return [spec for stated in signature.outputs if (spec := anatomy.output(stated.name))]


def declared_shape(model: LoadedModel, spec: InputAnatomy | OutputAnatomy) -> tuple[int, ...]:
    """The whole shape of a tensor as it is declared, or as it was found."""
    if model.signature is None:
        return spec.shape
    is_input = isinstance(spec, InputAnatomy)
    declared = model.signature.inputs if is_input else model.signature.outputs
    stated = next((tensor for tensor in declared if tensor.name == spec.name), None)
    return spec.shape if stated is None or stated.shape is None else stated.shape
