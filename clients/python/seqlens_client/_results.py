"""The answer to one sequence."""

from collections.abc import Mapping
from dataclasses import dataclass

from seqlens_wire.datatypes import Array


@dataclass(frozen=True, slots=True, eq=False)
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

    @property
    def output(self) -> Array:
        """The only output. Raises ``ValueError`` if there are more: use ``outputs`` then."""
        if len(self.outputs) != 1:
            raise ValueError(f"not one output but several: {', '.join(self.outputs)}")
        return next(iter(self.outputs.values()))
