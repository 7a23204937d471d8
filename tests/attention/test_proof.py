"""Honest sites are proved, and each fault is found and named, without costing the others."""

from typing import Any

import numpy as np
import pytest
from tests.support.numpy_transformer import HEADS, LAYOUTS, NumpyTransformer

from seqlens.attention.proof import prove_sites
from seqlens.attention.sites import AttentionReport
from seqlens.backends.tapped import TappedModel, Untapped
from seqlens.graphs.anatomy import AttentionSite


def report_of(model: NumpyTransformer, seconds: float = 30.0) -> AttentionReport:
    return prove_sites(model, model.run_plain, seconds=seconds)


def test_the_numpy_transformer_is_a_tapped_model() -> None:
    assert isinstance(NumpyTransformer(), TappedModel)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("extra", ["", "pooling", "steps", "cross"])
def test_honest_sites_are_proved(layout: str, extra: str) -> None:
    report = report_of(NumpyTransformer(layout, extra=extra))
    assert [site.proof.reason for site in report.sites] == [""] * (3 if extra else 2)
    assert report.findings == ()
    for site in report.sites:
        proof = site.proof
        assert proof.proved
        assert site.drawable
        assert site.bears_padding
        assert site.site.heads == (
            1 if extra in ("pooling", "steps") and site.name == extra else HEADS
        )
        assert proof.row_sum_error is not None
        assert proof.row_sum_error < 1e-14
        assert (proof.padding_weight, proof.repeat_error, proof.output_error) == (0.0, 0.0, 0.0)
        assert proof.padded_error is not None
        assert proof.padded_error < 1e-12
        assert proof.feedback_error == 0.0
        assert proof.uniform_movement is not None
        assert proof.uniform_movement > 1e-2
        assert proof.product_error is None
    assert 0 < report.seconds < 30


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"fault": "fake"}, "not used"),
        ({"fault": "flat"}, "uniform already"),
        ({"fault": "unnormalised"}, "its rows miss 1 by 0.001"),
        ({"fault": "refusing"}, "layer1 cannot be run"),
        ({"extra": "experts"}, "follows no length"),
    ],
)
def test_one_faulty_site_is_named_and_the_others_are_proved(
    fault: dict[str, Any], reason: str
) -> None:
    report = report_of(NumpyTransformer(**fault))
    (faulty,) = [site for site in report.sites if not site.proof.proved]
    assert reason in faulty.proof.reason
    assert len(report.proved) == len(report.sites) - 1
    (finding,) = report.findings
    assert faulty.name in finding
    assert reason in finding


def test_weights_that_differ_from_run_to_run_are_found() -> None:
    report = report_of(NumpyTransformer(fault="noisy"))
    assert "drawn again it differs" in report.sites[1].proof.reason
    assert report.proved == ()  # what is random moves the outputs, too


def test_a_gate_over_experts_can_be_drawn_by_nobody() -> None:
    experts = report_of(NumpyTransformer(extra="experts")).sites[-1]
    assert (experts.axes, experts.drawable, experts.tappable) == ((), False, True)


def test_taps_that_move_the_outputs_are_found() -> None:
    report = report_of(NumpyTransformer(fault="drifting"))
    assert report.proved == ()
    assert all("moves the outputs" in site.proof.reason for site in report.sites)


def test_weights_put_back_that_move_the_outputs_are_found() -> None:
    report = report_of(NumpyTransformer(fault="unfed"))
    assert report.proved == ()
    assert all("put back move the outputs" in site.proof.reason for site in report.sites)


def test_leaking_padding_is_told_but_not_refused() -> None:
    report = report_of(NumpyTransformer(masked=False))
    assert len(report.proved) == 2
    for site, finding in zip(report.sites, report.findings, strict=True):
        assert site.proof.padding_weight is not None
        assert site.proof.padding_weight > 0.01
        assert not site.bears_padding
        assert "drawn from unpadded runs" in finding


@pytest.mark.parametrize("masked", [False, True])
def test_padding_is_tried_where_it_makes_whole_positions(masked: bool) -> None:
    sites = report_of(NumpyTransformer(stride=8, masked=masked)).sites
    assert [site.proof.proved for site in sites] == [True, True]
    assert [site.bears_padding for site in sites] == [masked, masked]


def test_causal_models_need_no_mask() -> None:
    report = report_of(NumpyTransformer(masked=False, causal=True))
    assert all(site.bears_padding for site in report.sites)


@pytest.mark.parametrize("frozen", [{"fixed_length": 6}, {"fixed_batch": 1}, {"max_length": 4}])
def test_frozen_models_are_proved(frozen: dict[str, int]) -> None:
    report = report_of(NumpyTransformer("batch_and_head", **frozen))  # type: ignore[arg-type]
    assert len(report.proved) == 2
    assert (report.sites[0].proof.padding_weight is None) == ("fixed_batch" in frozen)


def test_half_precision_has_limits_of_its_own() -> None:
    report = report_of(NumpyTransformer(precision="fp16"))
    assert len(report.proved) == 2
    error = report.sites[0].proof.row_sum_error
    assert error is not None
    assert 2e-6 < error < 1e-3


@pytest.mark.parametrize(("error", "proved"), [(1e-7, 2), (1e-3, 0), (np.nan, 0)])
def test_recomputed_weights_are_held_to_the_kernel(error: float, proved: int) -> None:
    model = NumpyTransformer(measured=False, replaceable=False, product=error)
    report = report_of(model)
    assert len(report.proved) == proved
    assert report.sites[0].proof.feedback_error is None
    np.testing.assert_equal(report.sites[0].proof.product_error, error)


@pytest.mark.parametrize("measured", [True, False])
def test_what_time_did_not_allow_is_not_proved_and_says_so(measured: bool) -> None:
    report = report_of(NumpyTransformer(measured=measured), seconds=0.0)
    assert report.proved == ()
    for site in report.sites:
        assert "could not be tried in the time allowed" in site.proof.reason
        assert site.drawable
        assert site.proof.row_sum_error is not None


def test_a_model_that_runs_at_no_trial_gives_its_reason_to_every_site() -> None:
    report = report_of(NumpyTransformer(stride=1_000))
    assert [site.proof.reason for site in report.sites] == ["too short"] * 2


def test_sites_that_cannot_be_tapped_are_listed_in_their_place() -> None:
    class Closed(NumpyTransformer):
        @property
        def untapped(self) -> tuple[Untapped, ...]:
            return (Untapped(AttentionSite("packed", -1, "self", "PackedAttention"), "packed"),)

    first = report_of(Closed()).sites[0]
    assert (first.name, first.tappable, first.drawable) == ("packed", False, False)
    assert first.note == first.proof.reason == "packed"
