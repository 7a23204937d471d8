"""The plain values that travel from the wire to the lanes and back.

What is made for every sequence is a ``msgspec.Struct``: making a frozen dataclass of seven
fields takes ten times as long.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = Mapping[str, Array]


class InputSequence(Struct, frozen=True):
    """One sequence of one model, without batch axis and without padding.

    ``inputs`` maps the name of each model input that the caller gave to its array. In an input
    with a time axis that axis comes first: token ids have shape [length], features
    [length, features]. Inputs that the server makes itself (lengths, mask, positions) are absent.
    """

    inputs: Tensors
    length: int  # positions; 0 for a model without a time axis


class SequenceAnswer(Struct, frozen=True):
    """What one sequence gets back.

    In an output with a time axis that axis comes first and has exactly ``length`` positions;
    there is no batch axis.
    """

    outputs: Tensors
    length: int  # positions
    padded_length: int  # positions it took in its batch; equal to length when nothing was padded
    batch_size: int  # sequences in its batch
    queue_seconds: float
    compute_seconds: float  # of the model alone
    build_seconds: float = 0.0  # of making its batch, before the model ran


def array_bytes(tensors: Tensors) -> int:
    """Size of the arrays' data in bytes."""
    return sum(int(np.asarray(array).nbytes) for array in tensors.values())
