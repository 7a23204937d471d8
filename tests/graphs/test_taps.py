"""Taps of softmaxes: in any body, of any precision, with other weights put in their place."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from tests.support import onnx_models as models
from tests.support.onnx_taps import run, site_names, tapped

from seqlens.errors import NotInModel
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.taps import read_taps, tap_model
from seqlens.sequences import Array

EXACT = 1e-6  # float32 against float64, of values near 1
WIDTH = 4


def softmax(scores: Array) -> Array:
    raised = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def parsed(text: str, opset: int = 17) -> ModelProto:
    """A model in the text form of ONNX, checked."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "own" : 1]>'
    model = onnx.parser.parse_model(head + text)
    onnx.checker.check_model(model)
    return model


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X = drawn(2, 5, WIDTH)
WEIGHTS = softmax(X @ X.swapaxes(1, 2))
SITE = """
    {0}_turned = Transpose<perm=[0, 2, 1]>({1})
    {0}_scores = MatMul({1}, {0}_turned)
    {0}_weights = Softmax<axis=-1>({0}_scores)
    {0} = MatMul({0}_weights, {1})
"""
PLAIN = "plain (float[b, t, 4] x) => (float[b, t, 4] y) {" + SITE.format("y", "x") + "}"


@pytest.fixture(scope="module")
def transformer() -> ModelProto:
    torch.manual_seed(0)
    return models.masked(models.Transformer(), torch.int64)


def transformer_inputs(length: int = 6) -> dict[str, Array]:
    tokens = np.random.default_rng(1).integers(0, models.VOCABULARY, (2, length))
    return {"tokens": tokens, "mask": np.array([[1] * length, [1] * (length - 2) + [0, 0]])}


def test_names_and_layers_are_those_of_the_anatomy(transformer: ModelProto) -> None:
    sites = tuple(tap.site for tap in read_taps(transformer).taps)
    assert sites == read_onnx(transformer).attention_sites
    assert [site.layer for site in sites] == [0, 1]


def test_only_the_named_sites_become_outputs(transformer: ModelProto) -> None:
    _, second = site_names(transformer)
    graph = tap_model(transformer, [second])
    added = [o.name for o in graph.model.graph.output if o.name != "y"]
    assert added == [graph.outputs[second]]
    assert [output.name for output in transformer.graph.output] == ["y"]


def test_an_unknown_site_is_named_with_those_that_there_are(transformer: ModelProto) -> None:
    with pytest.raises(NotInModel, match=rf"no attention site no; .*{site_names(transformer)[0]}"):
        tap_model(transformer, ["no"])


def feed(model: ModelProto, inputs: Mapping[str, Array], change: Any) -> tuple[float, list[str]]:
    """How far the outputs move when changed weights are put in the place of all the model's own."""
    sites = site_names(model)
    weights = dict(zip(sites, tapped(model, inputs), strict=True))
    graph = tap_model(model, sites, replaced=sites)
    put = {graph.inputs[site]: change(weights[site]) for site in sites}
    plain, found = run(model, inputs), run(graph.model, {**inputs, **put})
    moved = max(float(np.abs(found[name] - plain[name]).max()) for name in plain)
    return moved, [str(found[graph.outputs[site]].dtype) for site in sites]


def uniform(weights: Array) -> Array:
    return np.full_like(weights, 1 / weights.shape[-1])


def test_weights_put_back_change_nothing_and_others_do(transformer: ModelProto) -> None:
    inputs = transformer_inputs()
    assert feed(transformer, inputs, lambda weights: weights)[0] == 0
    assert feed(transformer, inputs, uniform)[0] > 1e-2


def test_a_replaced_site_still_shows_what_the_model_computed() -> None:
    model = parsed(PLAIN)
    (site,) = site_names(model)
    graph = tap_model(model, [site], replaced=[site])
    found = run(graph.model, {"x": X, graph.inputs[site]: uniform(WEIGHTS.astype(np.float32))})
    np.testing.assert_allclose(found[graph.outputs[site]], WEIGHTS, atol=EXACT)
    mean = np.repeat(X.mean(1, keepdims=True), X.shape[1], 1)
    np.testing.assert_allclose(found["y"], mean, atol=EXACT)


def test_weights_that_are_an_output_already_are_not_given_twice() -> None:
    torch.manual_seed(0)
    module = models.Transformer(maps=True)
    model = models.masked(module, torch.int64, ("y", "maps"))
    last = site_names(model)[-1]
    graph = tap_model(model, [last], replaced=[last])
    inputs = transformer_inputs()
    weights = run(model, inputs)["maps"]
    found = run(graph.model, {**inputs, graph.inputs[last]: uniform(weights)})
    np.testing.assert_array_equal(found[graph.outputs[last]], weights)
    np.testing.assert_array_equal(found["maps"], uniform(weights))  # it reads what was put in
    assert tap_model(model, [last]).outputs[last] == "maps"


def branches(then: str, otherwise: str, flag: str = "flag") -> str:
    return f"""z = If({flag}) <
        then_branch = yes () => (float[b, t, 4] a) {{{then}}},
        else_branch = no () => (float[b, t, 4] c) {{{otherwise}}}
    >"""


IN_BRANCH = f"""branched (float[b, t, 4] x, bool flag) => (float[b, t, 4] z) {{
    {branches(SITE.format("a", "x"), "c = Identity(x)")}
}}"""


def test_sites_that_share_a_name_are_told_apart() -> None:
    inside = branches(SITE.format("a", "y"), "c = Identity(y)")
    model = parsed(
        "twice (float[b, t, 4] x, bool flag) => (float[b, t, 4] z) {"
        + SITE.format("y", "x")
        + inside
        + "}"
    )
    chosen = next(node for node in model.graph.node if node.op_type == "If")
    for node in (*model.graph.node, *chosen.attribute[0].g.node):
        node.name = "same" if node.op_type == "Softmax" else ""
    assert site_names(model) == ["same", "same_2"]
    first, second = tapped(model, {"x": X, "flag": np.array(True)})
    y = WEIGHTS @ X
    np.testing.assert_allclose(first, WEIGHTS, atol=EXACT)
    np.testing.assert_allclose(second, softmax(y @ y.swapaxes(1, 2)), atol=EXACT)


def test_a_branch_that_did_not_run_gives_nothing() -> None:
    model = parsed(IN_BRANCH)
    (ran,) = tapped(model, {"x": X, "flag": np.array(True)})
    np.testing.assert_allclose(ran, WEIGHTS, atol=EXACT)
    (missed,) = tapped(model, {"x": X, "flag": np.array(False)})
    assert (missed.shape, missed.dtype) == ((0,), np.float32)


def test_weights_in_a_branch_can_be_replaced() -> None:
    model = parsed(IN_BRANCH)
    assert read_taps(model).taps[0].replaceable
    inputs = {"x": X, "flag": np.array(True)}
    assert feed(model, inputs, lambda weights: weights)[0] == 0
    assert feed(model, inputs, uniform)[0] > 1e-2


# A query that asks memory and becomes the answer, three times.
IN_LOOP = """looped (float[b, t, 4] x, float[b, 1, 4] q, int64 n) => (float[b, 1, 4] last) {
    go = Constant<value = bool {1}>()
    last = Loop(n, go, q) <body = step (int64 i, bool on, float[b, 1, 4] asked)
        => (bool more, float[b, 1, 4] answer) {
        turned = Transpose<perm=[0, 2, 1]>(x)
        scores = MatMul(asked, turned)
        weights = Softmax<axis=-1>(scores)
        answer = MatMul(weights, x)
        more = Identity(on)
    }>
}"""
QUERY = drawn(2, 1, WIDTH, seed=1)


def answers(query: Array, times: int) -> list[Array]:
    found = []
    for _ in range(times):
        found.append(softmax(query @ X.swapaxes(1, 2)))
        query = (found[-1] @ X).astype(np.float32)
    return found


def test_steps_of_a_loop_are_stacked_in_front() -> None:
    model = parsed(IN_LOOP)
    (weights,) = tapped(model, {"x": X, "q": QUERY, "n": np.array(3)})
    np.testing.assert_allclose(weights, np.stack(answers(QUERY, 3)), atol=EXACT)


def test_weights_in_a_loop_cannot_be_replaced() -> None:
    model = parsed(IN_LOOP)
    (tap,) = read_taps(model).taps
    assert not tap.replaceable
    with pytest.raises(NotInModel, match="lies in a loop"):
        tap_model(model, [], replaced=[tap.site.name])


def test_values_that_a_loop_carries_are_data_though_it_starts_from_a_constant() -> None:
    model = parsed(
        """carried (float[t, 4] x, int64 n) => (float[t, 4] last) {
            go = Constant<value = bool {1}>()
            size = Shape(x)
            none = ConstantOfShape(size)
            last = Loop(n, go, none) <body = step (int64 i, bool on, float[t, 4] held)
                => (bool more, float[t, 4] next) {
                turned = Transpose<perm=[1, 0]>(held)
                scores = MatMul(held, turned)
                weights = Softmax<axis=-1>(scores)
                seen = MatMul(weights, held)
                next = Add(seen, x)
                more = Identity(on)
            }>
        }"""
    )
    (weights,) = tapped(model, {"x": X[0], "n": np.array(2)})
    np.testing.assert_allclose(weights[0], 1 / 5, atol=EXACT)
    np.testing.assert_allclose(weights[1], WEIGHTS[0], atol=EXACT)


@pytest.mark.parametrize("axes", ["", ", scan_output_axes = [1]"])
def test_steps_of_a_scan_are_stacked_in_front(axes: str) -> None:
    model = parsed(
        """scanned (float[b, t, 4] x, float[n, b, 1, 4] asked) => (float answers) {
            answers = Scan(asked) <num_scan_inputs = 1, body = step (float[b, 1, 4] one)
                => (float[b, 1, 4] answer) {
                turned = Transpose<perm=[0, 2, 1]>(x)
                scores = MatMul(one, turned)
                weights = Softmax<axis=-1>(scores)
                answer = MatMul(weights, x)
            }"""
        + f"{axes}>}}"
    )
    asked = drawn(3, 2, 1, WIDTH, seed=2)
    (weights,) = tapped(model, {"x": X, "asked": asked})
    np.testing.assert_allclose(weights, softmax(asked @ X.swapaxes(1, 2)), atol=EXACT)


def test_a_loop_in_a_branch() -> None:
    inner = IN_LOOP[IN_LOOP.index("{") + 1 : IN_LOOP.rindex("}")].replace("last =", "a =")
    model = parsed(
        "nested (float[b, t, 4] x, float[b, 1, 4] q, int64 n, bool flag) => (float[b, t, 4] z) {"
        + branches(inner, "c = Identity(q)")
        + "}"
    )
    inputs = {"x": X, "q": QUERY, "n": np.array(2)}
    (weights,) = tapped(model, {**inputs, "flag": np.array(True)})
    np.testing.assert_allclose(weights, np.stack(answers(QUERY, 2)), atol=EXACT)
    (missed,) = tapped(model, {**inputs, "flag": np.array(False)})
    assert missed.shape == (0,)


def test_a_branch_in_a_loop() -> None:
    body = IN_LOOP[IN_LOOP.index("turned") : IN_LOOP.index("more =")]
    chosen = branches(body.replace("answer", "a"), "c = Identity(asked)", "flag")
    model = parsed(
        IN_LOOP.replace("int64 n)", "int64 n, bool flag)").replace(
            body, chosen.replace("z =", "answer =") + "\n"
        )
    )
    inputs = {"x": X, "q": QUERY, "n": np.array(2), "flag": np.array(True)}
    assert not read_taps(model).taps[0].replaceable
    (weights,) = tapped(model, inputs)
    np.testing.assert_allclose(weights, np.stack(answers(QUERY, 2)), atol=EXACT)


def test_a_local_function_called_twice_has_two_sites() -> None:
    model = parsed(
        "called (float[b, t, 4] x) => (float[b, t, 4] z) { y = own.attend(x) z = own.attend(y) }"
        '<domain: "own", opset_import: ["" : 17]> attend (x) => (y) {' + SITE.format("y", "x") + "}"
    )
    first, second = tapped(model, {"x": X})
    y = WEIGHTS @ X
    np.testing.assert_allclose(first, WEIGHTS, atol=EXACT)
    np.testing.assert_allclose(second, softmax(y @ y.swapaxes(1, 2)), atol=EXACT)
    assert [t.site for t in read_taps(model).taps] == list(read_onnx(model).attention_sites)


def test_weights_masked_and_divided_by_their_sum_again_are_tapped_behind_it() -> None:
    model = parsed(
        """masked (float[b, t, 4] x, float[b, 1, t] mask) => (float[b, t, 4] y) {
            turned = Transpose<perm=[0, 2, 1]>(x)
            scores = MatMul(x, turned)
            all = Softmax<axis=-1>(scores)
            kept = Mul(all, mask)
            axis = Constant<value = int64[1] {-1}>()
            sum = ReduceSum(kept, axis)
            small = Constant<value = float {1e-13}>()
            safe = Add(sum, small)
            weights = Div(kept, safe)
            y = MatMul(weights, x)
        }"""
    )
    mask = np.ones((2, 1, 5), np.float32)
    mask[1, 0, 3:] = 0
    (weights,) = tapped(model, {"x": X, "mask": mask})
    kept = WEIGHTS * mask
    np.testing.assert_allclose(weights, kept / kept.sum(-1, keepdims=True), atol=EXACT)


def attention_by(axis: int, product: str, opset: int) -> ModelProto:
    return parsed(
        f"""other (float[b, t, 4] x) => (float y) {{
            turned = Transpose<perm=[0, 2, 1]>(x)
            scores = MatMul(x, turned)
            weights = Softmax<axis={axis}>(scores)
            {product}
        }}""",
        opset,
    )


SUMS_KEYS = "y = MatMul(weights, x)"
SUMS_QUERIES = "back = Transpose<perm=[0, 2, 1]>(weights)\n y = MatMul(back, x)"


@pytest.mark.parametrize(("axis", "opset"), [(2, 11), (-1, 11), (2, 17), (-1, 17)])
def test_a_softmax_over_the_keys_is_tapped(axis: int, opset: int) -> None:
    (weights,) = tapped(attention_by(axis, SUMS_KEYS, opset), {"x": X})
    np.testing.assert_allclose(weights, WEIGHTS, atol=EXACT)


def test_a_softmax_over_the_axis_that_is_turned_to_the_sum_is_tapped() -> None:
    (weights,) = tapped(attention_by(1, SUMS_QUERIES, 17), {"x": X})
    np.testing.assert_allclose(weights.swapaxes(1, 2), WEIGHTS, atol=EXACT)


@pytest.mark.parametrize(
    ("axis", "product", "opset", "reason"),
    [
        (1, SUMS_KEYS, 11, "several axes at once"),
        (1, SUMS_KEYS, 17, "another axis than the sum"),
        (2, SUMS_QUERIES, 17, "another axis than the sum"),
        (1, 'y = Einsum<equation = "bts,bsd->btd">(weights, x)', 17, "another axis than the sum"),
    ],
)
def test_a_softmax_over_other_axes_is_refused(
    axis: int, product: str, opset: int, reason: str
) -> None:
    model = attention_by(axis, product, opset)
    (untapped,) = read_taps(model).untapped
    assert reason in untapped.reason
    with pytest.raises(NotInModel, match=reason):
        tap_model(model, [untapped.site.name])


def test_types_of_new_inputs_and_of_missed_branches_are_those_of_the_weights() -> None:
    half = IN_BRANCH.replace("float[", "float16[")
    model = parsed(half)
    x = X.astype(np.float16)
    (missed,) = tapped(model, {"x": x, "flag": np.array(False)})
    assert missed.dtype == np.float16
    (site,) = site_names(model)
    graph = tap_model(model, [site], replaced=[site])
    (given,) = [i for i in graph.model.graph.input if i.name == graph.inputs[site]]
    assert given.type.tensor_type.elem_type == TensorProto.FLOAT16
    moved, kinds = feed(model, {"x": x, "flag": np.array(True)}, lambda weights: weights)
    assert kinds == ["float16"]
    assert moved < 2e-3  # on processors the product is computed in float32, of unrounded weights


def test_weights_that_lie_beside_the_file_are_not_needed_to_read(transformer: ModelProto) -> None:
    bare = ModelProto()
    bare.CopyFrom(transformer)
    for tensor in bare.graph.initializer:
        if tensor.raw_data and len(tensor.raw_data) > 1000:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "weights.bin"
    assert read_taps(bare) == read_taps(transformer)


def test_a_softmax_that_weighs_nothing_is_no_site() -> None:
    model = models.built(
        [helper.make_node("Softmax", ["x"], ["y"])],
        {"x": (models.FLOAT, ["b", 5])},
        {"y": (models.FLOAT, ["b", 5])},
    )
    assert read_taps(model).taps == read_taps(model).untapped == ()
