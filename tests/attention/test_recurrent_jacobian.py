"""The closed form against autograd of PyTorch's own nets with the same weights, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.numpy_recurrent import Direction, NumpyRecurrent, recurrent, tokens
from torch import nn

from seqlens.attention.influence import measure
from seqlens.attention.questions import Cost, InfluenceQuestion, Target
from seqlens.attention.recurrent_jacobian import Stack, find_stack, measure_stack
from seqlens.backends.tapped import Look
from seqlens.sequences import Array

LENGTH = 7
TOKENS = tokens(LENGTH)
NONE = Cost(0, 0.0)
EXACT = InfluenceQuestion(measures=("jacobian",), target=Target("hidden"), exact=True)
TORCH_ORDER = {"rnn": (0,), "lstm": (0, 2, 3, 1), "gru": (1, 0, 2)}  # of ONNX's gates


def torch_order(one: Direction, weights: Array) -> torch.Tensor:
    gates = np.split(weights, len(TORCH_ORDER[one.cell]))
    return torch.from_numpy(np.concatenate([gates[k] for k in TORCH_ORDER[one.cell]]))


def as_torch(model: NumpyRecurrent) -> nn.RNNBase:
    first = model.layers[0][0]
    net = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[first.cell](
        first.w.shape[1], first.units, num_layers=len(model.layers), batch_first=True,
        bidirectional=len(model.layers[0]) > 1, dtype=torch.float64,
    )  # fmt: skip
    for layer in model.layers:
        for one in layer:
            name = f"l{one.layer}{'_reverse' if one.reverse else ''}"
            for part, weights in {
                "weight_ih": one.w, "weight_hh": one.r, "bias_ih": one.wb, "bias_hh": one.rb
            }.items():  # fmt: skip
                getattr(net, f"{part}_{name}").data = torch_order(one, weights)
    return net


def by_autograd(net: nn.Module, vectors: Array) -> Array:
    """Norms of derivatives of the hidden vectors, [output position, input position]."""
    width = net(torch.from_numpy(vectors)[None])[0].shape[2]
    elements = len(vectors) * width  # a row of the batch for each, so that one way back is enough
    copies = torch.from_numpy(vectors).repeat(elements, 1, 1).requires_grad_()
    net(copies)[0].reshape(elements, elements).diagonal().sum().backward()
    norms = copies.grad.square().sum(2).reshape(len(vectors), width, len(vectors)).sum(1)
    return norms.sqrt().numpy()


def closed_form(model: NumpyRecurrent, vectors: Array) -> Array:
    """Norms of derivatives of all elements, float64."""
    inputs = {"tokens": TOKENS.inputs["tokens"][None], "lengths": np.array([LENGTH])}
    seen = model.run(inputs, Look(hidden=True, recurrences=True))
    stack = find_stack(seen.recurrences, 0, vectors, seen.hidden[0])
    every = [(t, t, e) for t in range(LENGTH) for e in range(stack.width)]
    return measure_stack(stack, every, LENGTH, LENGTH, lambda: None)


@pytest.mark.parametrize("directions", [(False,), (False, True)])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_two_layers_agree_with_autograd(cell: str, directions: tuple[bool, ...]) -> None:
    model = recurrent(cell, layers=2, directions=directions)
    vectors = model.embedding[TOKENS.inputs["tokens"]]
    expected = by_autograd(as_torch(model), vectors)
    np.testing.assert_allclose(closed_form(model, vectors), expected, rtol=1e-9, atol=1e-15)


def test_a_net_that_only_runs_backward_agrees_with_autograd_of_the_turned_sequence() -> None:
    model = recurrent("gru", layers=2, directions=(True,))
    vectors = model.embedding[TOKENS.inputs["tokens"]]
    turned = [(replace(layer[0], reverse=False),) for layer in model.layers]
    forward = as_torch(replace(model, layers=turned))
    expected = by_autograd(forward, vectors[::-1].copy())[::-1, ::-1]
    np.testing.assert_allclose(closed_form(model, vectors), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "model",
    [
        recurrent("gru", layers=2, linear_before_reset=False),
        recurrent("lstm", directions=(False, True), peepholes=True),
    ],
    ids=["reset before the product", "peepholes"],
)
def test_forms_that_pytorch_lacks_agree_with_differences(model: NumpyRecurrent) -> None:
    exact, near = (
        measure(model, [TOKENS], question, together=True, cost=NONE).maps[0]
        for question in (EXACT, replace(EXACT, exact=False, directions=6))
    )
    assert (exact.method, near.method) == ("closed_form", "central_differences")
    np.testing.assert_allclose(exact.values, near.values, rtol=1e-3, atol=1e-8)


def test_one_element_is_no_more_than_all() -> None:
    model = recurrent("lstm", layers=2)
    one, all_of_them = (
        measure(model, [TOKENS], replace(EXACT, target=t), together=True, cost=NONE).maps[0]
        for t in (Target("hidden", class_index=2), Target("hidden"))
    )
    assert one.method == "closed_form"
    assert (one.values <= all_of_them.values).all()
    assert (one.values > 0).sum() == LENGTH * (LENGTH + 1) // 2  # causal: the lower triangle


def test_chosen_positions_are_rows_and_columns_of_the_whole() -> None:
    model = recurrent("gru", layers=2, directions=(False, True))
    some = replace(EXACT, output_positions=(-1, 2), input_positions=(0, -3))
    part, whole = (
        measure(model, [TOKENS], question, together=True, cost=NONE).maps[0]
        for question in (some, EXACT)
    )
    assert (part.output_positions, part.input_positions) == ((6, 2), (0, 4))
    np.testing.assert_array_equal(part.values, whole.values[np.ix_((6, 2), (0, 4))])


@pytest.mark.parametrize("target", [Target("logits"), Target("logits", class_index=1)])
def test_a_head_between_stack_and_target_leaves_differences(target: Target) -> None:
    answer = measure(recurrent(), [TOKENS], replace(EXACT, target=target), together=True, cost=NONE)
    assert answer.maps[0].method == "central_differences"


def test_what_lies_between_embedding_and_stack_is_noticed() -> None:
    model = recurrent("lstm", layers=2)
    vectors = model.embedding[TOKENS.inputs["tokens"]]
    inputs = {"tokens": TOKENS.inputs["tokens"][None], "lengths": np.array([LENGTH])}
    seen = model.run(inputs, Look(hidden=True, recurrences=True))
    assert find_stack(seen.recurrences, 0, vectors, seen.hidden[0]) is not None
    assert find_stack(seen.recurrences, 0, 2 * vectors, seen.hidden[0]) is None
    assert find_stack(seen.recurrences, 0, vectors, np.maximum(seen.hidden[0], 0)) is None
    assert find_stack(seen.recurrences[1:], 0, vectors, seen.hidden[0]) is None
    softplus = replace(seen.recurrences[0], activations=("Softplus", "Tanh", "Tanh"))
    assert find_stack((softplus, *seen.recurrences[1:]), 0, vectors, seen.hidden[0]) is None


def test_rectified_units_agree_with_autograd() -> None:
    model = recurrent("rnn")
    vectors = model.embedding[TOKENS.inputs["tokens"]]
    inputs = {"tokens": TOKENS.inputs["tokens"][None], "lengths": np.array([LENGTH])}
    (trace,) = model.run(inputs, Look(recurrences=True)).recurrences
    stack = Stack(((replace(trace, activations=("Relu",)),),), 0)
    every = [(t, t, e) for t in range(LENGTH) for e in range(stack.width)]
    found = measure_stack(stack, every, LENGTH, LENGTH, lambda: None)
    net = nn.RNN(*trace.input_weights.T.shape, nonlinearity="relu", batch_first=True).double()
    net.load_state_dict(as_torch(model).state_dict())
    np.testing.assert_allclose(found, by_autograd(net, vectors), rtol=1e-9, atol=1e-15)
