"""Operators of TorchScript by what they do to their operands."""


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


# After these the elements are still the same, only placed, cast or hidden elsewhere.
VIEWS = _aten(
    "to type_as float half double long int contiguous clone detach alias cpu cuda "
    "view reshape _unsafe_view _reshape_alias view_as unflatten flatten "
    "transpose transpose_ permute t movedim swapaxes unsqueeze squeeze expand expand_as repeat "
    "slice select narrow chunk unsafe_chunk split split_with_sizes tensor_split unbind "
    "index_select index flip dropout dropout_ feature_dropout alpha_dropout "
    "_pack_padded_sequence _pad_packed_sequence list __getitem__"
) | {"prim::data"}

# What these give depends on sizes and types of their operands, never on the elements.
SHAPES_ONLY = _aten(
    "size sym_size dim len numel is_floating_point __is__ __isnot__ arange zeros ones full empty "
    "zeros_like ones_like full_like empty_like rand_like new_zeros new_ones new_full new_empty"
) | {"prim::dtype", "prim::device", "prim::layout", "prim::shape", "prim::type"}

ZEROS = _aten("zeros new_zeros zeros_like")
PRODUCTS = _aten("linear matmul mm addmm bmm baddbmm einsum")
DATA_PRODUCTS = _aten("matmul bmm baddbmm einsum mm")  # both operands may be data
PROJECTIONS = _aten("linear matmul mm addmm")  # one operand may be a weight
HIDING = _aten("masked_fill masked_fill_ where nan_to_num div")
SUMS = _aten("sum sum_to_size")
EMBEDDINGS = _aten("embedding embedding_bag")
LOOKUPS = _aten("embedding slice index index_select narrow gather")
COMPARISONS = _aten("eq ne lt le gt ge __contains__")
LOGICAL = _aten(
    "bitwise_not logical_not bitwise_and logical_and bitwise_or logical_or __and__ __or__"
)
CONVOLUTIONS = _aten("conv1d conv2d conv_transpose1d _convolution convolution")
NORMALIZATIONS = _aten("layer_norm batch_norm group_norm instance_norm rms_norm")
