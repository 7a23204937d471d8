"""The sentences of the report follow its figures, and its page needs nothing from outside."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from insight_report import facts, kitten, latency
from insight_report.limits import limits
from insight_report.page import page
from insight_report.section import Told
from insight_report.words import listed, percent


def figures(*, lstm_far=1.0, gradient=0.0, occlusion=0.9, lstm_facts=0.3, one_head=0.9):
    return {
        "distance": {"accuracy_distances": [4, 900], "accuracy": {"lstm": [1.0, lstm_far]}},
        "recall": {
            "length": 32,
            "accuracy": 1.0,
            "shares": {"jacobian": [gradient, 0.5], "occlusion": [occlusion, 0.1]},
        },
        "facts": {
            "facts": [1, 64],
            "accuracy": {"lstm": [1.0, lstm_facts], "transformer": [1.0, 0.99]},
        },
        "heads": {"models": {"1": {"accuracy": one_head}, "8": {"accuracy": 1.0}}},
    }


@pytest.mark.parametrize(
    ("changed", "place", "usual", "other"),
    [
        ({"lstm_far": 0.2}, 0, "does not hold", "holds here"),
        ({"gradient": 0.3}, 1, "does not hold", "is not refuted here"),
        ({"occlusion": 0.02}, 1, "does not hold", "is not refuted here"),
        ({"lstm_facts": 1.0}, 2, "shows in their number", "does not show in their number"),
        ({"one_head": 1.0}, 3, "holds in", "does not hold in"),
    ],
)
def test_other_figures_give_the_other_verdict(changed, place, usual, other):
    assert usual in limits(figures())[place]
    assert other in limits(figures(**changed))[place]


def test_facts_are_told_as_they_were_counted():
    row = {"accuracy": {"lstm": [1.0, 0.95, 0.4]}, "fact_share": {"lstm": [0.8, 0.2]}}
    (told,) = facts.sentences({"facts": [1, 2, 4], "looked_at": [2, 8], **row})
    assert "answers up to 2 facts" in told
    assert "of 4 it knows 40%" in told
    assert "80% of 2 and 20% of 8" in told


def test_the_slowest_and_the_quickest_are_those_of_the_figures():
    models = {
        "rnn": {"compute_seconds": [0.001, 0.02], "sequential_depth": "O(n)"},
        "transformer": {"compute_seconds": [0.001, 0.01], "sequential_depth": "O(1)"},
    }
    *_, last = latency.sentences({"lengths": [16, 1024], "models": models})
    assert "transformer is the quickest and rnn takes 2.0 times as long" in last


def test_numbers_in_sentences():
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert [percent(x) for x in (0, 0.004, 0.25, 1)] == ["0%", "0.4%", "25%", "100%"]


def test_the_page_shows_every_sentence_and_asks_nobody():
    sentences = ['It <b>is</b> & "so"', "Another one."]
    made = page([Told(kitten.SECTION, {}, sentences)], ["A limit."], "SeqLens on a machine")
    for text in ("It &lt;b&gt;is&lt;/b&gt; &amp; &quot;so&quot;", "Another one.", "A limit."):
        assert text in made
    assert not re.findall(r"(?:src|href)=\"(?!#)", made)
    assert "@import" not in made
    assert "url(" not in made
