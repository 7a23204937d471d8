"""The exposition as a whole: names that Prometheus's own linter accepts, and nothing foreign."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from seqlens.metrics.families import powers_of_two
from seqlens.metrics.observer import ModelLabels
from seqlens.metrics.prometheus import PrometheusObserver
from seqlens.metrics.series import CODES


def test_promtool_finds_nothing_to_say(
    loaded: PrometheusObserver, lstm: ModelLabels, registry: CollectorRegistry
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH: it comes with Debian's package prometheus")
    loaded.sequences_finished(lstm, lengths=[3])
    check = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_families_stay_off_the_global_registry(loaded: PrometheusObserver) -> None:
    assert b"seqlens_" not in generate_latest(REGISTRY)


def test_every_series_is_ours_or_of_the_process(
    loaded: PrometheusObserver, scrape: Callable[[], Any]
) -> None:
    prefixes = {sample.name.split("_")[0] for sample in scrape().samples}
    assert prefixes == {"seqlens", "process", "python"}
    assert "_created" not in scrape().text


def test_the_build_is_described(observer: PrometheusObserver, scrape: Callable[[], Any]) -> None:
    (build,) = scrape().find("seqlens_build_info")
    assert set(build.labels) == {"version", "python", "onnxruntime", "torch"}
    assert build.labels["python"].startswith("3.")
    assert build.labels["version"]


def test_two_servers_in_one_process_do_not_meet() -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry in registries:
        PrometheusObserver(registry, (16,))
    texts = [generate_latest(registry) for registry in registries]
    assert all(b"seqlens_build_info" in text for text in texts)


def test_codes_of_the_error_tree_are_shown_from_the_start() -> None:
    expected = "OK CANCELLED INVALID_ARGUMENT NOT_FOUND UNAVAILABLE INTERNAL RESOURCE_EXHAUSTED"
    assert set(expected.split()) <= set(CODES)


@pytest.mark.parametrize(
    ("limit", "last"), [(1, 1), (2, 2), (100, 128), (128, 128), (4096, 4096), (4097, 8192)]
)
def test_powers_reach_the_limit_and_stop(limit: int, last: int) -> None:
    powers = powers_of_two(limit)
    assert powers[0] == 1
    assert powers[-1] == last
