"""What inspect and verify tell of attention."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seqlens.attention.sites import AttentionReport, Site, SiteProof
from seqlens.cli.attention_sites import print_sites
from seqlens.graphs.anatomy import AttentionSite


def test_a_site_that_cannot_be_drawn_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = AttentionSite("layer[0]", 0, "self", "QAttention", heads=4)
    site = Site(found, (), SiteProof(False), False, tappable=False, note="packed int8 kernel")
    print_sites(AttentionReport((site,)), Console(width=200))
    shown = capsys.readouterr().out
    assert "layer[0]" in shown
    assert "cannot be drawn" in shown
    assert "no: packed int8 kernel" in shown


def test_a_model_without_attention_gets_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_sites(AttentionReport(), Console())
    assert capsys.readouterr().out == ""


def test_inspect_tells_the_proof_to_people_and_programs(
    seqlens: Callable[..., Any], repository: Path
) -> None:
    model = str(repository / "transformer-onnx")
    told = json.loads(seqlens("inspect", "--json", model).stdout)["attention"]
    assert [site["proof"]["proved"] for site in told["sites"]] == [True, True]
    assert [site["site"]["heads"] for site in told["sites"]] == [8, 8]
    assert "the model's own" in seqlens("inspect", model, env={"COLUMNS": "200"}).stdout
