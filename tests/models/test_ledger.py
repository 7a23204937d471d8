"""The texts of the ledger task, and how their number of facts rises in training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens_zoo.ledger import LABELS, NAMES, VOCABULARY, encode, generate
from seqlens_zoo.ledger.batches import LedgerLessons, make_batch
from seqlens_zoo.ledger.words import FILLER, QUESTION
from seqlens_zoo.lessons import NO_ANSWER
from seqlens_zoo.word_tokens import PAD, UNKNOWN


def test_vocabulary_has_every_word_once():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 96
    assert VOCABULARY[:2] == (PAD, UNKNOWN)


@given(st.integers(0, 2**32), st.integers(1, 64), st.integers(0, 40), st.data())
def test_every_answer_is_what_the_text_says_of_the_name(seed, facts, gap, data):
    questions = data.draw(st.integers(1, facts))
    made = generate(np.random.default_rng(seed), facts=facts, gap=gap, questions=questions)
    words = made.text.split()
    told, rest = words[: 2 * facts], words[2 * facts :]
    says = dict(zip(told[::2], told[1::2], strict=True))
    assert len(says) == facts
    assert set(rest[:gap]) <= set(FILLER)
    assert rest[gap] == QUESTION
    asked = rest[gap + 1 :]
    assert len(set(asked)) == len(asked) == questions
    assert tuple(says[name] for name in asked) == made.answers
    assert tuple(words[place] for place in made.facts) == made.answers
    assert tuple(words[place - 1] for place in made.facts) == tuple(asked)


@pytest.mark.parametrize(
    "wrong", [{"facts": 0}, {"facts": 65}, {"facts": 9, "names": 8}, {"gap": -1}, {"questions": 5}]
)
def test_numbers_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        generate(np.random.default_rng(0), **({"facts": 4, "gap": 0} | wrong))


def test_batch_asks_at_the_names_after_the_question_mark_alone():
    batch = make_batch(np.random.default_rng(3), facts=5, gap=7, texts=4)
    (tokens,) = batch.inputs
    mark = encode(QUESTION)[0]
    for row, answers in zip(tokens.tolist(), batch.answers.tolist(), strict=True):
        start = row.index(mark) + 1
        assert answers[:start] == [NO_ANSWER] * start
        words = [VOCABULARY[token] for token in row]
        for place in range(start, len(row)):
            fact = words.index(words[place])
            assert LABELS[answers[place]] == words[fact + 1]


def facts_in(lessons, progress, batches=60):
    rng = np.random.default_rng(0)
    made = [lessons.batch(rng, 600, progress) for _ in range(batches)]
    return max(int((batch.answers[0] != NO_ANSWER).sum()) for batch in made)


def test_facts_rise_as_they_are_learnt_and_not_before():
    lessons = LedgerLessons()
    assert facts_in(lessons, 0.0) <= 3
    for _ in range(19):
        lessons.note(0.1)
    assert facts_in(lessons, 0.1) <= 3
    for _ in range(60):
        lessons.note(0.1)
    assert 3 < facts_in(lessons, 0.1) <= 6


def test_facts_are_driven_up_in_the_second_half_learnt_or_not():
    lessons = LedgerLessons()
    assert facts_in(lessons, 0.49) <= 3
    lessons.batch(np.random.default_rng(0), 600, 0.5)
    assert facts_in(lessons, 0.7) == 32  # questions of the largest texts, which have 64 facts
    other = LedgerLessons()
    other.restore(lessons.state())
    assert other.state() == lessons.state()


def test_names_of_the_first_lessons_are_few():
    rng = np.random.default_rng(0)
    seen = {
        int(t) for _ in range(30) for t in LedgerLessons().batch(rng, 600, 0.0).inputs[0].unique()
    }
    assert len(seen & {VOCABULARY.index(name) for name in NAMES}) <= 9
