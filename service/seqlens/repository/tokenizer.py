"""Text to token ids and back to tokens, with the ``tokenizer.json`` that lies beside a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from seqlens.errors import InvalidRequest, ModelRejected


class Tokenizer:
    """One tokenizer file. May be used from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        # A file may ask for both; here lengths are the caller's, and padding is the batch's.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Read a file. Raises ``ModelRejected`` for one that is none."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises plain Exception
            raise ModelRejected(f"{path.name} is not a tokenizer: {error}") from error

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, int64 [length], neither padded nor cut.

        Raises ``InvalidRequest`` for text that is not Unicode (lone surrogates).
        """
        try:
            encodings = self._tokenizer.encode_batch(list(texts))
        except (TypeError, UnicodeError) as error:
            raise InvalidRequest("texts", got=str(error), expected="Unicode text") from error
        return [np.array(one.ids, np.int64) for one in encodings]

    def tokens(self, ids: NDArray[np.integer]) -> tuple[str, ...]:
        """Text of each id [length] as the file spells it; one that it lacks as a number."""
        known = self._tokenizer.id_to_token
        return tuple(str(one) if (text := known(one)) is None else text for one in ids.tolist())
