from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from seqlens.errors import InvalidRequest, ModelRejected
from seqlens.repository.tokenizer import Tokenizer

WORDS = {"[UNK]": 0, "the": 1, "kitten": 2, "played": 3}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Both are asked for by the file, and neither is wanted in a server of ragged sequences.
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_texts_become_ids_neither_padded_nor_cut(file: Path) -> None:
    ids = Tokenizer.from_file(file).encode(["the kitten played", "the dog", ""])
    assert [one.tolist() for one in ids] == [[1, 2, 3], [1, 0], []]
    assert {one.dtype for one in ids} == {np.dtype(np.int64)}


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"model": {"type": "Unheard"}}'])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(text)
    with pytest.raises(ModelRejected, match=r"words\.json is not a tokenizer"):
        Tokenizer.from_file(path)


def test_text_that_is_not_unicode_is_the_callers_fault(file: Path) -> None:
    with pytest.raises(InvalidRequest, match="texts"):
        Tokenizer.from_file(file).encode(["fine", "\ud800"])
