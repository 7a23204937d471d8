"""``seqlens attention``, ``influence`` and ``gates`` against a server, for people and programs."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import on_a_terminal

from seqlens_client import Client
from seqlens_zoo.antecedent import KITTEN_SENTENCE

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LAST = len(KITTEN_SENTENCE.split()) - 1


def test_people_see_what_the_last_token_looks_at(target: str) -> None:
    arguments = ("attention", "transformer-onnx", KITTEN_SENTENCE, "--layer", "-1")
    code, shown = on_a_terminal(*arguments, "--target", target)
    assert code == 0
    assert f"'it' at {LAST} looks at, mean of 8 heads" in shown
    with Client(target) as client:
        looks = client.attention("transformer-onnx", KITTEN_SENTENCE).look("it")
    rows = re.findall(r"│ (\d+) +│ (\S+) +│ ([\d.]+) +│ █", shown)
    assert [(token, weight) for _, token, weight in rows[:3]] == [
        (token, f"{weight:.3f}") for token, weight in looks[:3]
    ]
    heads = re.findall(r"│ (\d) +│ [\d.]+ +│ [\d.]+ +│ \S+ at \d+ +│ [\d.]+ ", shown)
    assert heads == list("01234567")


def test_a_query_is_a_token_or_a_position_and_heads_may_be_chosen(target: str) -> None:
    arguments = ("attention", "transformer-torchscript", KITTEN_SENTENCE, "--layer", "0")
    for query in ("kitten", str(-LAST)):
        chosen = ("--query", query, "--head", "3", "--head", "5", "--top-k", "2")
        code, shown = on_a_terminal(*arguments, *chosen, "--target", target)
        assert code == 0, shown
        assert "'kitten' at 1 looks at, mean of 2 heads" in shown
        keys, heads = shown.split("looks most at")
        assert len(re.findall(r"│ \d+ +│", keys)) == 2
        assert re.findall(r"│ (\d) +│", heads) == ["3", "5"]


def test_programs_get_all_weights_as_json(seqlens: Run, target: str) -> None:
    site = "attention", "transformer-onnx", KITTEN_SENTENCE, "the kitten"
    run = seqlens(*site, "--layer", "1", "--target", target)
    assert run.returncode == 0, run.stderr
    data = json.loads(run.stdout)
    assert data["sequences"][1] == {"length": 2, "tokens": ["the", "kitten"]}
    (layer,) = data["attention"]["layers"]
    assert layer["site"]["proof"]["proved"]
    assert [np.shape(each["weights"]) for each in layer["maps"]] == [
        (8, LAST + 1, LAST + 1),
        (8, 2, 2),
    ]
    np.testing.assert_allclose(np.sum(layer["maps"][1]["weights"], -1), 1, atol=1e-5)
    assert len(layer["maps"][0]["measures"]["entropy"]) == 8


def test_programs_get_the_row_of_a_token_or_are_told_that_it_is_not_there(
    seqlens: Run, target: str
) -> None:
    asked = ("attention", "transformer-onnx", KITTEN_SENTENCE, "kitten it", "--target", target)
    run = seqlens(*asked, "--query", "kitten", "--layer", "0")
    assert run.returncode == 0, run.stderr
    (layer,) = json.loads(run.stdout)["attention"]["layers"]
    assert [(each["sequence"], each["query_start"]) for each in layer["maps"]] == [(0, 1), (1, 0)]
    assert [np.shape(each["weights"]) for each in layer["maps"]] == [(8, 1, LAST + 1), (8, 1, 2)]
    run = seqlens(*asked, "--query", "dog")
    assert run.returncode == 1
    assert run.stderr.startswith("seqlens: --query: got 'dog', expected one of the, kitten, ")


def test_the_largest_weights_of_rollout_for_programs(seqlens: Run, target: str) -> None:
    options = ("--rollout", "--top-k", "2", "--target", target)
    run = seqlens("attention", "transformer-onnx", *options, text="it , it\n")
    (layer,) = json.loads(run.stdout)["attention"]["layers"]
    assert layer["site"]["name"] == "rollout"
    (one,) = layer["maps"]
    assert np.shape(one["weights"]) == np.shape(one["key_positions"]) == (1, 3, 2)


def test_people_see_what_an_answer_depends_on(target: str) -> None:
    options = ("--measure", "both", "--about", "predicted", "--by-distance", "--target", target)
    code, shown = on_a_terminal("influence", "lstm-onnx", KITTEN_SENTENCE, *options)
    assert code == 0, shown
    assert "what the largest element of" in shown
    table, distances = shown.split("occlusion by distance")
    rows = [line.split("│") for line in table.splitlines() if re.match(r"│ \d", line)]
    shares = {row[2].strip(): float(row[3]) for row in rows}
    assert sorted(shares, key=lambda token: shares[token])[-2:] == ["kitten", "it"]
    assert len(rows) == LAST + 1
    assert "jacobian by distance" in distances
    assert "runs of the model" in distances


def test_what_is_below_the_floor_is_said(target: str) -> None:
    far = "the kitten was here , " + "the dog was there , " * 12 + "it"
    arguments = ("influence", "rnn-onnx", far, "--measure", "jacobian", "--target", target)
    code, shown = on_a_terminal(*arguments)
    assert code == 0
    with Client(target) as client:
        below = client.influence("rnn-onnx", far, measures=["jacobian"]).below_floor
    assert shown.count("below floor") == below.sum()


def test_influence_and_gates_as_json(seqlens: Run, target: str) -> None:
    texts = ("the kitten , it", "it")
    run = seqlens("influence", "rnn-torchscript", *texts, "--about", "3", "--target", target)
    influence = json.loads(run.stdout)["influence"]
    assert influence["target"]["class_index"] == 3
    assert [np.shape(each["shares"]) for each in influence["maps"]] == [(1, 4), (1, 1)]
    run = seqlens("gates", "lstm-onnx", *texts, "--layer", "-1", "--full", "--target", target)
    (layer,) = json.loads(run.stdout)["gates"]["layers"]
    assert layer["layer"] == 1
    forget = next(each for each in layer["gates"] if each["gate"] == "forget")
    np.testing.assert_allclose(np.mean(forget["values"], 1), forget["mean"], atol=1e-5)


def test_people_see_gates_step_by_step(target: str) -> None:
    code, shown = on_a_terminal("gates", "lstm-onnx", "the [red] it", "--target", target)
    assert code == 0, shown
    assert shown.count("lstm forward: means of 128 units") == 2
    with Client(target) as client:
        reading = client.gates("lstm-onnx", "the [red] it").layer(0).gate("input")
    first = next(line for line in shown.splitlines() if re.match(r"│ 0 ", line))
    assert f"│ {reading.mean[0]:.3f} " in first


@pytest.mark.parametrize(
    ("command", "model", "part"),
    [
        ("attention", "transformer-onnx", "attention"),
        ("influence", "rnn-onnx", "influence"),
        ("gates", "lstm-onnx", "gates"),
    ],
)
def test_a_page_is_written(
    command: str, model: str, part: str, seqlens: Run, target: str, tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    run = seqlens(command, model, "the kitten , it", "--html", str(page), "--target", target)
    assert run.returncode == 0, run.stderr
    assert not run.stdout
    assert "out.html: open it in a browser" in run.stderr
    text = page.read_text()
    assert f'"{part}":' in text
    assert '"kitten"' in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["attention", "lstm-onnx", "it"], "no attention"),
        (["gates", "nobody", "it"], "nobody"),
        (["influence", "lstm-onnx", "it", "--about", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_seen_is_told_in_one_line(
    arguments: list[str], said: str, seqlens: Run, target: str
) -> None:
    run = seqlens(*arguments, "--target", target)
    assert run.returncode == 1
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_text_that_is_too_long_has_its_error_beside_the_others(seqlens: Run, target: str) -> None:
    texts: tuple[Any, ...] = ("it", "it " * 5000)
    run = seqlens("influence", "transformer-onnx", *texts, "--target", target)
    assert run.returncode == 1
    good, bad = json.loads(run.stdout)["sequences"]
    assert "error" not in good
    assert bad["error"]["code"] == "INVALID_ARGUMENT"
    code, shown = on_a_terminal("attention", "transformer-onnx", *texts, "--target", target)
    assert code == 1
    assert "error: " in shown
