"""How the sizes of an axis follow from numbers of positions."""

from collections.abc import Mapping

from seqlens.attention.sites import Extent

_MOST_STRIDE = 1_024  # positions that become one; audio models go to 320


def fit_extent(points: Mapping[int, int], name: str) -> Extent | None:
    """The simplest extent that gives these sizes, by number of positions of input ``name``.

    None where no ``(length + offset) // stride`` gives all of them. Layers that leave out
    positions one after the other still follow this form.
    """
    for stride in range(1, _MOST_STRIDE + 1):
        least = max(size * stride - length for length, size in points.items())
        most = min(size * stride - length for length, size in points.items()) + stride - 1
        if least <= most:
            return Extent(stride, least, name)
    return None


def is_plain(extent: Extent) -> bool:
    """Whether two lengths were enough to tell it: it has the length's own size, or one size."""
    return extent.stride == 0 or (extent.stride, extent.offset) == (1, 0)
