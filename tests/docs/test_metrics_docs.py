"""The reference names the families, labels and values that a scrape really has."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from seqlens.graphs.anatomy import Architecture
from seqlens.metrics import observer as events
from seqlens.metrics.lengths import LengthRanges
from seqlens.metrics.observer import LoadReport, ModelLabels
from seqlens.metrics.prometheus import PrometheusObserver
from seqlens.settings import ServerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
KITTEN = ModelLabels("kitten", "1", Architecture.LSTM)
BOUNDS = ServerSettings.__dataclass_fields__["length_buckets"].default


def table(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, its own heading left out."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def exposition(ranges: tuple[int, ...] = BOUNDS, *, looked_inside: bool = False) -> list[Metric]:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry, ranges)
    report = LoadReport("onnxruntime", "cpu", "fp32", "17", 1e-6, {"read": 0.1})
    observer.model_loaded(KITTEN, report)
    if looked_inside:  # its series appear with the first call
        observer.request_finished(
            KITTEN, protocol="grpc", method="gates", code="OK", length=8, seconds=0.1
        )
    return list(text_string_to_metric_families(generate_latest(registry).decode()))


def series_of_a_model(ranges: tuple[int, ...]) -> int:
    samples = [sample for family in exposition(ranges) for sample in family.samples]
    return sum(sample.labels.get("model") == "kitten" for sample in samples)


def test_the_table_lists_every_family_with_type_and_labels() -> None:
    documented = {
        (name.strip("`"), kind, frozenset(filter(None, labels.split(", "))))
        for name, kind, labels, _ in table("Families")
    }
    shown = {
        (
            family.name + "_total" * (family.type == "counter"),
            family.type,
            frozenset(set().union(*(sample.labels for sample in family.samples)) - {"le"}),
        )
        for family in exposition(looked_inside=True)
        if family.name.startswith("seqlens_")
    }
    assert documented == shown


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("architecture", [each.value for each in Architecture]),
        ("length_bucket", [*LengthRanges(BOUNDS).labels, "none"]),
        ("method", get_args(events.Method)),
        ("trigger", get_args(events.Trigger)),
        ("reason", get_args(events.RejectReason)),
        ("cause", get_args(events.CancelCause)),
        ("result", get_args(events.LoadResult)),
    ],
)
def test_the_values_of_a_label_are_told_in_full(label: str, values: list[str]) -> None:
    (told,) = (row[1] for row in table("Labels") if row[0] == label)
    assert re.findall(r"`([^`]+)`", told) == list(values)


def test_the_cost_in_series_is_told_right() -> None:
    (each_range, besides) = map(
        int, re.search(r"about (\d+) series for each range of lengths and (\d+)", PAGE).groups()
    )
    for ranges in ((16,), BOUNDS):
        told = each_range * (len(ranges) + 1) + besides
        assert told == pytest.approx(series_of_a_model(ranges), rel=0.05)


def test_promtool_accepts_the_quoted_queries(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH: it comes with Debian's package prometheus")
    queries = [query.strip("`") for _, query in table("Questions and queries")]
    rules = [{"record": f"docs:query:{n}", "expr": query} for n, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "docs", "rules": rules}]}))
    check = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
