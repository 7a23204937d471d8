import pytest
import torch

from seqlens_zoo.bodies import BODY_NAMES, INPUT_WIDTH
from seqlens_zoo.tasks import ANTECEDENT, LEDGER, TASK_NAMES, TASKS


@pytest.mark.parametrize(
    ("body", "parameters"), [("rnn", 264_960), ("lstm", 264_192), ("transformer", 264_960)]
)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASK_NAMES)
def test_bodies_are_of_equal_size(task, body, parameters):
    assert sum(p.numel() for p in task.new_model(body).body.parameters()) == parameters


@pytest.mark.parametrize("body", BODY_NAMES)
def test_padding_does_not_change_the_answer(body):
    model = ANTECEDENT.new_model(body).eval()
    tokens = torch.randint(2, 157, (1, 9))
    padded = torch.cat((tokens, torch.randint(0, 157, (1, 20))), dim=1)
    with torch.no_grad():
        alone, among = model(tokens, torch.tensor([9])), model(padded, torch.tensor([9]))
    torch.testing.assert_close(alone, among, rtol=0, atol=1e-5)


@pytest.mark.parametrize("body", BODY_NAMES)
def test_a_tagger_sees_no_later_word(body):
    model = LEDGER.new_model(body).eval()
    tokens = torch.randint(2, 96, (1, 12))
    changed = tokens.clone()
    changed[:, 7:] = 1
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


@pytest.mark.parametrize("body", BODY_NAMES)
def test_every_word_counts_and_no_length_is_too_long(body):
    model = ANTECEDENT.new_model(body)
    vectors = torch.randn(1, 1_200, INPUT_WIDTH, requires_grad=True)
    hidden = model.body(vectors, torch.tensor([1_200]))
    hidden[:, 30].sum().backward()
    assert bool((vectors.grad[0, :31].abs().sum(1) > 0).all())


@pytest.mark.parametrize("body", ["rnn", "lstm"])
def test_recurrent_matrices_start_orthogonal(body):
    recurrent = ANTECEDENT.new_model(body).body.recurrent
    for gate in recurrent.weight_hh_l1.split(recurrent.hidden_size):
        torch.testing.assert_close(
            gate @ gate.T, torch.eye(recurrent.hidden_size), atol=1e-5, rtol=0
        )


def test_forget_gates_start_open():
    recurrent = ANTECEDENT.new_model("lstm").body.recurrent
    bias = (recurrent.bias_ih_l0 + recurrent.bias_hh_l0).view(4, -1)  # input, forget, cell, output
    assert bias.unique(dim=1).flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
