"""Length ranges: what stands for a sequence length in labels, so that series stay few."""

from bisect import bisect_left
from collections.abc import Sequence

from seqlens.settings import InvalidSetting

MAX_BOUNDS = 12
NO_LENGTH = "none"


class LengthRanges:
    """Closed ranges of sequence lengths with decimal bounds: ``1-16``, ``17-32``, ... ``1025+``.

    Parameters
    ----------
    bounds
        Upper bound of each range but the last, in tokens, rising, at most 12.
        Raises ``InvalidSetting`` for anything else: each range costs about 115 series a model.
    """

    def __init__(self, bounds: Sequence[int]) -> None:
        _check(bounds)
        self._bounds = tuple(bounds)
        lower = (1, *(bound + 1 for bound in bounds))
        closed = zip(lower, bounds, strict=False)
        self.labels = (*(f"{low}-{high}" for low, high in closed), f"{lower[-1]}+")

    def label(self, length: int | None) -> str:
        """The range of ``length`` tokens; None, for models without a length axis, is ``none``.

        Length zero belongs to the first range.
        """
        if length is None:
            return NO_LENGTH
        return self.labels[bisect_left(self._bounds, length)]


def _check(bounds: Sequence[int]) -> None:
    if len(bounds) > MAX_BOUNDS:
        raise InvalidSetting(
            f"length_buckets: got {len(bounds)} bounds, expected at most {MAX_BOUNDS}"
        )
    rising = all(low < high for low, high in zip((0, *bounds), bounds, strict=False))
    if not rising:
        raise InvalidSetting(
            f"length_buckets: got {list(bounds)}, expected rising bounds, each at least 1"
        )
