import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens_zoo.antecedent import (
    KITTEN_SENTENCE,
    KITTEN_SENTENCE_IN_FULL,
    VOCABULARY,
    AntecedentText,
    encode,
    generate,
)
from seqlens_zoo.antecedent.words import NOUNS, PAD, UNKNOWN, Kind

seeds = st.integers(0, 2**32 - 1)
distances = st.integers(1, 200)
words_before = st.integers(1, 100)


def text_of(seed: int, distance: int, before: int) -> AntecedentText:
    return generate(np.random.default_rng(seed), distance=distance, words=distance + before + 1)


@given(seeds, distances, words_before)
def test_text_has_the_words_and_the_distance_asked_for(seed, distance, before):
    made = text_of(seed, distance, before)
    words = made.text.split(" ")
    assert len(words) == distance + before + 1
    assert made.distance == distance
    assert words[-1 - distance] == made.answer


@given(seeds, distances, words_before)
def test_last_pronoun_asks_for_the_only_actor_of_its_kind(seed, distance, before):
    made = text_of(seed, distance, before)
    words = made.text.split(" ")
    asked = NOUNS[Kind(words[-1])]
    assert [word for word in words if word in asked] == [made.answer]


@given(seeds, distances, words_before)
def test_text_has_at_most_one_actor_of_each_kind(seed, distance, before):
    words = text_of(seed, distance, before).text.split(" ")
    for nouns in NOUNS.values():
        assert sum(word in nouns for word in words) <= 1


@given(seeds, distances, words_before)
def test_every_word_is_one_known_token(seed, distance, before):
    text = text_of(seed, distance, before).text
    assert encode(text) == [VOCABULARY.index(word) for word in text.split(" ")]


@given(seeds, distances)
def test_same_seed_gives_the_same_text(seed, distance):
    first, second = (generate(np.random.default_rng(seed), distance=distance) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("distance", "words"), [(4, 6), (4, 900), (890, 900), (1, 3)])
def test_short_and_long_texts_can_be_made(distance, words):
    made = generate(np.random.default_rng(0), distance=distance, words=words)
    assert len(made.text.split(" ")) == words


def test_texts_mention_every_number_of_actors_and_every_noun():
    rng = np.random.default_rng(0)
    texts = [set(generate(rng, distance=40, words=80).text.split(" ")) for _ in range(1_000)]
    actors = {sum(not text.isdisjoint(nouns) for nouns in NOUNS.values()) for text in texts}
    assert actors == {1, 2, 3, 4}
    assert set().union(*texts) >= {noun for nouns in NOUNS.values() for noun in nouns}


def test_impossible_distances_and_lengths_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="distance: got 0"):
        generate(rng, distance=0)
    with pytest.raises(ValueError, match="words: got 9, expected at least distance \\+ 2 = 10"):
        generate(rng, distance=8, words=9)


def test_kitten_sentence_ends_in_its_last_pronoun_and_is_all_known():
    assert KITTEN_SENTENCE.split(" ")[-1] == "it"
    assert KITTEN_SENTENCE_IN_FULL.startswith(KITTEN_SENTENCE)
    assert VOCABULARY.index(UNKNOWN) not in encode(KITTEN_SENTENCE_IN_FULL)


def test_vocabulary_starts_with_padding_and_unknown():
    assert VOCABULARY[:2] == (PAD, UNKNOWN)
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 157


def test_tokenizer_splits_off_commas_and_marks_unknown_words():
    words = [VOCABULARY[token] for token in encode("The kitten, zebra  it")]
    assert words == ["the", "kitten", ",", UNKNOWN, "it"]
