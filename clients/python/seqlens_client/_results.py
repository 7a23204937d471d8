"""The answer to one sequence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seqlens_wire.datatypes import Array

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Result:
    """Outputs of the model for one sequence, and how the server came to them.

    An output with a time axis has it first, with exactly ``length`` positions unless the model
    itself changes the length; there is no batch axis and no padding. Arrays are the caller's own.
    """

    outputs: Mapping[str, Array]
    length: int  # positions (tokens or time steps)
    queue_seconds: float  # from arrival at the server until the computation began
    compute_seconds: float  # of the batch that the sequence was part of
    batch_size: int  # sequences in that batch
    padded_length: int  # positions that the sequence took there; equal to length: no padding
    model_version: str  # the one that answered

    def __repr__(self) -> str:
        # Without the numbers: of a list of results nobody could see anything else.
        outputs = ", ".join(
            f"{name!r}: {array.dtype}{list(array.shape)}" for name, array in self.outputs.items()
        )
        return (
            f"Result(outputs={{{outputs}}}, length={self.length}, "
            f"queue_seconds={self.queue_seconds:.6f}, compute_seconds={self.compute_seconds:.6f}, "
            f"batch_size={self.batch_size}, padded_length={self.padded_length}, "
            f"model_version={self.model_version!r})"
        )

    @property
    def output(self) -> Array:
        """The only output. Raises ``ValueError`` if there are more: use ``outputs`` then."""
        if len(self.outputs) != 1:
            raise ValueError(f"not one output but several: {', '.join(self.outputs)}")
        return next(iter(self.outputs.values()))

    def to_frame(self, *, per_step: Collection[str] | None = None) -> pandas.DataFrame:
        """A table of one row for each position if there are outputs for each, else of one row.

        Its columns and ``per_step`` are those of ``seqlens_client.to_frame``. Raises
        ``ImportError`` without pandas.
        """
        from seqlens_client._frames import to_frame

        return to_frame([self], per_step=per_step)
