"""Whether a file has the tensors that its user declares."""

from collections.abc import Iterator, Sequence

from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy, OutputAnatomy
from seqlens.graphs.signature import Signature, StatedTensor

Spec = InputAnatomy | OutputAnatomy


def check_signature(signature: Signature, anatomy: ModelAnatomy) -> None:
    """Raise ``ModelRejected`` for the first tensor that the file does not have as declared.

    A size that is any in the file may be declared to be one. Of outputs, any size may be declared
    where only one is found: files often name sizes that are fixed.
    """
    inputs = [spec for spec in anatomy.inputs if not spec.added_by_server]
    _check("input", signature, signature.inputs, inputs)
    _check("output", signature, signature.outputs, anatomy.outputs)
    if not signature.inputs:
        return
    for spec in inputs:
        if signature.input(spec.name) is None and not _may_be_left_out(spec):
            raise ModelRejected(
                f"{signature.source}: input {spec.name!r} of the file is not declared, and the "
                "model does not run without it"
            )


def _may_be_left_out(spec: InputAnatomy) -> bool:
    return spec.made_by_server or spec.default is not None or spec.role is InputRole.STATE


def _check(
    kind: str,
    signature: Signature,
    declared: tuple[StatedTensor, ...],
    found: Sequence[Spec],
) -> None:
    specs: dict[str, Spec] = {spec.name: spec for spec in found}
    for stated in declared:
        if stated.name not in specs:
            known = ", ".join(specs)
            raise ModelRejected(
                f"{signature.source}: {kind} {stated.name!r} is not in the file, which has {known}"
            )
    # Where none is declared the batch axis is promised of all.
    for stated in declared or map(StatedTensor, specs):
        for problem in _differences(stated, specs[stated.name], batched=signature.batched):
            raise ModelRejected(f"{signature.source}: {kind} {stated.name!r}: {problem}")


def _differences(stated: StatedTensor, spec: Spec, *, batched: bool) -> Iterator[str]:
    if stated.datatype not in (None, spec.datatype):
        yield f"data_type is {stated.datatype}, but the file has {spec.datatype}"
    if batched and (not spec.shape or spec.batch_axis not in (None, 0)):
        axis = (
            "no batch axis" if spec.batch_axis is None else f"the batch as axis {spec.batch_axis}"
        )
        yield (
            f"max_batch_size promises the batch as the first axis, but the file has {axis}: "
            "set max_batch_size to 0 and dims to whole shapes"
        )
    if stated.shape is not None and not _agree(stated.shape, spec, batched):
        rest = int(batched)
        yield (
            f"dims are {list(stated.shape[rest:])}, but the file has {list(spec.shape[rest:])}"
            + (" behind the batch axis" if batched else "")
        )


def _agree(stated: tuple[int, ...], spec: Spec, batched: bool) -> bool:
    if len(stated) != len(spec.shape):
        return False
    loose = isinstance(spec, OutputAnatomy)
    pairs = list(zip(stated, spec.shape, strict=True))[int(batched) :]
    return all(found in (-1, size) or (loose and size == -1) for size, found in pairs)
