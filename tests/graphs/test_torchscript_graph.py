import pytest
import torch
from tests.support.torchscript_modules import (
    CLASSES,
    HIDDEN,
    LENGTHS,
    LONGEST,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Additive,
    CellLoop,
    Continued,
    Encoder,
    EncoderDecoder,
    HandWritten,
    Recurrent,
    TimeMajor,
    exported,
    frozen,
)
from torch import Tensor, nn

from seqlens.graphs.anatomy import AttentionSite, RecurrentLayer
from seqlens.graphs.torchscript_graph import read_torchscript

KINDS = {"LSTM": ("lstm", 4), "GRU": ("gru", 3), "RNN": ("rnn", 1)}


def parts(module: nn.Module, *example: Tensor) -> dict[str, int]:
    return {p.part: p.count for p in read_torchscript(exported(module, *example)).parameters}


@pytest.mark.parametrize("example", [(), (TOKENS, LENGTHS)], ids=["scripted", "traced"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_operators_are_found_with_sizes_and_state(
    kind: str, bidirectional: bool, example: tuple[Tensor, ...]
) -> None:
    reading = read_torchscript(exported(Recurrent(kind, bidirectional), *example))
    (layer,) = reading.recurrent_layers
    cell = KINDS[kind][0]
    operator = "aten::rnn_tanh" if kind == "RNN" else f"aten::{cell}"
    direction = "bidirectional" if bidirectional else "forward"
    assert layer == RecurrentLayer(
        "layers", cell, direction, WIDTH, HIDDEN, layers=2, initial_state="zeros", operator=operator
    )
    assert reading.attention_sites == ()


@pytest.mark.parametrize("example", [(), (TOKENS, LENGTHS)], ids=["scripted", "traced"])
def test_parameters_are_counted_by_part(example: tuple[Tensor, ...]) -> None:
    module = Recurrent("GRU")
    assert parts(module, *example) == {
        "recurrent": sum(p.numel() for p in module.layers.parameters()),
        "embedding": VOCABULARY * WIDTH,
        "dense": HIDDEN * CLASSES + CLASSES,
    }


def test_parameters_of_attention_are_told_from_dense_ones() -> None:
    module = Encoder()
    counted = parts(module)
    attention = sum(p.numel() for n, p in module.named_parameters() if "self_attn" in n)
    assert counted["attention"] == attention
    assert sum(counted.values()) == sum(p.numel() for p in module.parameters())


def test_weights_made_constants_by_freezing_are_counted_too() -> None:
    module = Recurrent("LSTM")
    assert {p.part: p.count for p in read_torchscript(frozen(module)).parameters} == parts(module)


def test_ids_get_the_rows_of_their_table_and_positions_do_not() -> None:
    reading = read_torchscript(exported(Encoder()))
    tokens, lengths = reading.inputs
    assert (tokens.name, tokens.datatype, tokens.vocabulary_size) == ("tokens", "INT64", VOCABULARY)
    assert (lengths.name, lengths.vocabulary_size) == ("lengths", None)
    assert reading.table_sizes == (LONGEST,)


@pytest.mark.parametrize(
    ("example", "operator", "heads"),
    [
        ((), "aten::_transformer_encoder_layer_fwd", 2),
        ((TOKENS, LENGTHS), "aten::scaled_dot_product_attention", None),
    ],
    ids=["scripted", "traced"],
)
def test_an_encoder_has_one_site_a_layer_however_many_paths_compute_it(
    example: tuple[Tensor, ...], operator: str, heads: int | None
) -> None:
    sites = read_torchscript(exported(Encoder(), *example)).attention_sites
    assert sites == tuple(
        AttentionSite(f"encoder.layers.{i}.self_attn", i, "self", operator, heads) for i in (0, 1)
    )


@pytest.mark.parametrize("example", [(), (TOKENS, TOKENS[:, :5])], ids=["scripted", "traced"])
def test_cross_attention_is_told_from_self_attention(example: tuple[Tensor, ...]) -> None:
    sites = read_torchscript(exported(EncoderDecoder(), *example)).attention_sites
    assert [(s.layer, s.kind) for s in sites] == [(0, "self"), (1, "self"), (2, "cross")]


@pytest.mark.parametrize("example", [(), (TOKENS,)], ids=["scripted", "traced"])
def test_hand_written_attention_is_found_and_a_class_softmax_is_not(
    example: tuple[Tensor, ...],
) -> None:
    reading = read_torchscript(exported(HandWritten(), *example))
    (site,) = reading.attention_sites
    assert (site.kind, site.operator) == ("self", "aten::softmax")
    assert reading.table_sizes == (LONGEST,)


@pytest.mark.parametrize("example", [(), (TOKENS,)], ids=["scripted", "traced"])
def test_additive_attention_over_a_recurrent_layer_is_found(example: tuple[Tensor, ...]) -> None:
    reading = read_torchscript(exported(Additive(), *example))
    assert [s.kind for s in reading.attention_sites] == ["additive"]
    assert [layer.cell for layer in reading.recurrent_layers] == ["gru"]


def test_loops_over_cells_are_layers() -> None:
    cell, by_hand = read_torchscript(exported(CellLoop())).recurrent_layers
    assert (cell.cell, cell.operator, cell.initial_state) == ("gru", "aten::gru_cell", "zeros")
    assert (cell.input_size, cell.hidden_size) == (WIDTH, HIDDEN)
    assert (by_hand.cell, by_hand.operator) == ("rnn", "loop")


def test_a_loop_that_tracing_unrolled_is_one_layer_and_is_reported() -> None:
    reading = read_torchscript(exported(CellLoop(), TOKENS))
    assert [(r.cell, r.operator) for r in reading.recurrent_layers] == [("gru", "unrolled")]
    assert any("7 times" in finding for finding in reading.findings)


def test_nested_outputs_are_flattened_and_features_give_their_width() -> None:
    reading = read_torchscript(exported(TimeMajor()))
    assert [o.name for o in reading.outputs] == ["output_0", "output_1", "output_2"]
    assert [(i.name, i.datatype) for i in reading.inputs] == [("features", "FP32")]
    assert reading.feature_sizes == (WIDTH,)


class GivenState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.GRU(WIDTH, HIDDEN)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.layers(features, state)


def test_a_state_given_as_an_input_is_named() -> None:
    (layer,) = read_torchscript(exported(GivenState())).recurrent_layers
    assert layer.initial_state == "input:state"


@pytest.mark.parametrize(
    "example",
    [(), (TOKENS, torch.zeros(2, 2, HIDDEN), torch.zeros(2, 2, HIDDEN))],
    ids=["scripted", "traced"],
)
def test_of_the_two_states_of_an_lstm_the_hidden_one_is_named(example: tuple[Tensor, ...]) -> None:
    (layer,) = read_torchscript(exported(Continued(False), *example)).recurrent_layers
    assert layer.initial_state == "input:h"


class ReverseOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.GRU(WIDTH, HIDDEN, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flip(1))[0].flip(1)


def test_a_flipped_input_makes_a_layer_reverse() -> None:
    (layer,) = read_torchscript(exported(ReverseOnly())).recurrent_layers
    assert layer.direction == "reverse"


class ForgottenDropout(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return torch.nn.functional.dropout(features, 0.5, True)


def test_dropout_left_on_is_reported() -> None:
    findings = read_torchscript(exported(ForgottenDropout())).findings
    assert any("dropout is on" in finding for finding in findings)


class Rated(nn.Module):
    def forward(self, wave: Tensor, rate: int, scale: float = 2.0) -> Tensor:
        return wave * scale if rate == 16000 else wave


def test_numbers_are_inputs_without_axes_and_name_the_values_they_are_tested_for() -> None:
    _, rate = read_torchscript(exported(Rated())).inputs
    assert (rate.name, rate.datatype, rate.shape) == ("rate", "INT64", ())
    assert rate.compared_with == (16000,)


def test_reading_leaves_the_module_as_it_was() -> None:
    module = exported(Encoder())
    before, answer = str(module.graph), module(TOKENS, LENGTHS)
    read_torchscript(module)
    assert str(module.graph) == before
    torch.testing.assert_close(module(TOKENS, LENGTHS), answer, rtol=0, atol=0)
