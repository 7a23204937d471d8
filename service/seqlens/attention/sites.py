"""What is known of a model's attention sites once they were tried."""

from dataclasses import dataclass, field
from typing import Literal

from seqlens.graphs.anatomy import AttentionSite

# Folded axes are named from the outside in: batch_and_head is batch * heads + head.
Axis = Literal["batch", "head", "query", "key", "batch_and_head", "head_and_batch", "constant"]


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of an axis, for a sequence of so many positions: ``(length + offset) // stride``.

    A stride of 0 means ``offset`` whatever the length.
    """

    stride: int = 1
    offset: int = 0
    input: str = ""  # the positions of this input count; empty: the sequence's length

    def size(self, length: int) -> int:
        """The size at this number of positions."""
        if self.stride == 0:
            return self.offset
        return max((length + self.offset) // self.stride, 0)


ONE = Extent(stride=0, offset=1)


@dataclass(frozen=True, slots=True)
class SiteProof:
    """What was measured of one site. Errors are largest absolute values, None: not measured."""

    proved: bool
    reason: str = ""  # why it is not
    row_sum_error: float | None = None  # of a query's weights, from 1
    padding_weight: float | None = None  # weight on keys that are padding
    repeat_error: float | None = None  # drawn twice
    output_error: float | None = None  # plain outputs, tapped against not tapped
    feedback_error: float | None = None  # outputs, when the drawn weights are put back in
    uniform_movement: float | None = None  # outputs, when uniform weights are put in
    product_error: float | None = None  # fused kernels: weights times values, to their output
    padded_error: float | None = None  # weights, in a padded batch against alone


@dataclass(frozen=True, slots=True)
class Site:
    """One attention site: what its tensor means, and how well that is known."""

    site: AttentionSite  # its heads as found by probing
    axes: tuple[Axis, ...]  # of the tensor that a tap gives; empty: not found
    proof: SiteProof
    measured: bool  # the model's own tensor; False: recomputed beside a fused kernel
    tappable: bool = True
    note: str = ""  # what to know about the weights, or why they cannot be drawn
    queries: Extent = Extent()
    keys: Extent = Extent()
    bears_padding: bool = False  # a sequence's map is the same in a padded batch

    @property
    def name(self) -> str:
        """Name of the site."""
        return self.site.name

    @property
    def drawable(self) -> bool:
        """Whether maps can be cut out of the tensor at all, proved or not."""
        return self.tappable and "key" in self.axes


@dataclass(frozen=True, slots=True)
class AttentionReport:
    """All attention sites of a model, tried when it was loaded."""

    sites: tuple[Site, ...] = ()
    seconds: float = 0.0  # time that it took
    findings: tuple[str, ...] = field(default=())  # remarks for people

    @property
    def proved(self) -> tuple[Site, ...]:
        """The sites that are offered without being named."""
        return tuple(site for site in self.sites if site.proof.proved)
