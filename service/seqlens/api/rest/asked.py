"""The sequences that a body in JSON asks about: ``sequences``, a list, or ``sequence``, one."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.requests import SequenceRequest
from seqlens.api.rest.sequence_json import read_sequence, read_sequences
from seqlens.errors import InvalidRequest, SeqLensError

# The shortest sequences are ten bytes of JSON, and take as long as many more that are copied.
READ_COST = 64

_SEQUENCE = {
    "description": "A text for the tokenizer, a nested list for the only input, time first, or "
    "an object of inputs.",
    "anyOf": [{"type": "string"}, {"type": "array"}, {"type": "object"}],
}
_One = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=_SEQUENCE)]
_Many = Annotated[
    msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "array", "items": _SEQUENCE})
]


class AskedSequences(msgspec.Struct, forbid_unknown_fields=True):
    """What every body about sequences begins with."""

    sequences: _Many | msgspec.UnsetType = msgspec.UNSET
    sequence: _One | msgspec.UnsetType = msgspec.UNSET

    @property
    def single(self) -> bool:
        """Whether the error of a sequence is that of the request."""
        return self.sequence is not msgspec.UNSET


async def read_asked(
    asked: AskedSequences, body_bytes: int, most: int
) -> Sequence[SequenceRequest | SeqLensError]:
    """One request, or an error, for each of at most ``most`` sequences.

    Raises ``InvalidRequest`` where there is neither ``sequences`` nor ``sequence``, or both, and
    for a single sequence that is wrong.
    """
    many, one = asked.sequences, asked.sequence
    size = READ_COST * body_bytes
    if isinstance(many, msgspec.Raw) and one is msgspec.UNSET:
        return await off_loop_if_large(size, read_sequences, bytes(many), most)
    if isinstance(one, msgspec.Raw) and many is msgspec.UNSET:
        return [await off_loop_if_large(size, read_sequence, bytes(one))]
    raise InvalidRequest(
        "sequences",
        got="nothing" if many is msgspec.UNSET else "sequence as well",
        expected="sequences, a list, or sequence, a single one",
    )
