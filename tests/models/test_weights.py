"""What the committed weights can do: bands, because training differs slightly by machine."""

import numpy as np
import pytest
import torch

from seqlens_zoo.antecedent import KITTEN_SENTENCE, LABELS, encode
from seqlens_zoo.antecedent.measure import accuracy, answer, kitten_sentences_right
from seqlens_zoo.bodies import BODY_NAMES
from seqlens_zoo.ledger.measure import accuracy as ledger_accuracy
from seqlens_zoo.tasks import TASK_NAMES, TASKS
from seqlens_zoo.weights import WEIGHTS, WeightsNotFoundError, load_body, reference


@pytest.mark.parametrize("body", ["lstm", "transformer"])
@pytest.mark.parametrize("distance", [4, 128, 400])
def test_lstm_and_transformer_remember_at_every_distance(body, distance):
    assert accuracy(load_body(body), distance, texts=60, seed=2) > 0.9


def test_rnn_answers_near_and_forgets_far():
    rnn = load_body("rnn")
    assert accuracy(rnn, 4, texts=100, seed=2) > 0.9
    assert accuracy(rnn, 128, texts=100, seed=2) < 0.5


@pytest.mark.parametrize("body", BODY_NAMES)
def test_all_name_the_kitten(body):
    assert answer(load_body(body), KITTEN_SENTENCE).noun == "kitten"


def test_only_lstm_and_transformer_name_every_animal_in_the_kittens_place():
    assert kitten_sentences_right(load_body("lstm")) == 1
    assert kitten_sentences_right(load_body("transformer")) == 1
    assert kitten_sentences_right(load_body("rnn")) < 0.9


def test_reference_gives_each_sequence_its_own_answer():
    sequences = [encode(KITTEN_SENTENCE), [5], encode("the queen waited she")]
    logits = reference("transformer", sequences)
    assert logits.shape == (3, 40)
    assert logits.dtype == np.float32
    assert [LABELS[i] for i in logits[[0, 2]].argmax(1)] == ["kitten", "queen"]


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"rnn\.safetensors is missing"):
        load_body("rnn", weights_dir=tmp_path)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASK_NAMES)
def test_committed_tokenizer_and_labels_are_those_of_the_code(task):
    folder = WEIGHTS / task.name
    assert (folder / "tokenizer.json").read_text() == task.tokenizer().to_str(pretty=True)
    assert (folder / "labels.txt").read_text().split() == list(task.labels)


def held(body, facts, gap):
    return ledger_accuracy(load_body(body, "ledger"), facts=facts, gap=gap, questions=128, seed=2)


def test_transformer_holds_64_facts_where_an_lstm_of_equal_size_loses_most():
    assert held("transformer", 64, 64) > 0.9
    assert held("lstm", 2, 64) > 0.9
    assert held("lstm", 64, 64) < 0.6


def test_rnn_holds_no_facts_over_a_gap():
    assert held("rnn", 2, 0) > 0.4
    assert held("rnn", 2, 64) < 0.3


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
