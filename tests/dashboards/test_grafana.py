"""The dashboard is what its generator writes, and every query finds the series it asks for."""

import json
import math
import re
import runpy
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import BatchSeconds, LoadReport, ModelLabels, QueueState
from seqlens.metrics.prometheus import PrometheusObserver

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "dashboards" / "grafana"
DASHBOARD = json.loads((GRAFANA / "seqlens-overview.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
LSTM = ModelLabels("kitten", "1", Architecture.LSTM)


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def substituted(expression: str, interval: str = "5m") -> str:
    """The query as Grafana sends it with everything selected."""
    return re.sub(r"\$\w+", ".+", expression.replace("$__rate_interval", interval))


def serve_one(observer: PrometheusObserver, length: int) -> None:
    observer.request_finished(
        LSTM, protocol="grpc", method="infer", code="OK", length=length, seconds=0.003
    )
    observer.batch_finished(
        LSTM, lane=0, sequences=2, real_tokens=2 * length, padding_tokens=1, trigger="idle",
        spent=BatchSeconds(0.0, 0.002, 0.0),
    )  # fmt: skip


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def observer(registry: CollectorRegistry) -> PrometheusObserver:
    observer = PrometheusObserver(registry, (16, 64))
    report = LoadReport("onnxruntime", "cpu", "fp32", "17", 1e-6, {"read": 0.1})
    observer.model_loaded(LSTM, report)
    observer.watch_queue(LSTM, lambda: QueueState(1, 20, 0.1, 2))
    return observer


@pytest.fixture
def labels_by_series(
    observer: PrometheusObserver, registry: CollectorRegistry
) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_regenerating_gives_the_committed_file() -> None:
    generator = runpy.run_path(str(GRAFANA / "generate.py"))
    assert generator["render"]() == (GRAFANA / "seqlens-overview.json").read_text()


def test_panels_fit_the_grid_and_have_numbers_of_their_own() -> None:
    every = DASHBOARD["panels"]
    assert sorted(panel["id"] for panel in every) == list(range(1, len(every) + 1))
    places = [panel["gridPos"] for panel in every]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    cells = [
        (p["x"] + dx, p["y"] + dy) for p in places for dx in range(p["w"]) for dy in range(p["h"])
    ]
    assert len(cells) == len(set(cells))


def test_every_query_asks_the_chosen_data_source() -> None:
    for panel in PANELS:
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert "__inputs" not in DASHBOARD


def test_every_metric_and_label_exists(labels_by_series: dict[str, set[str]]) -> None:
    selectors = [
        selector
        for expression in expressions()
        for selector in re.findall(r"(seqlens_\w+)\{([^}]*)\}", expression)
    ]
    assert len(selectors) > len(PANELS)
    for name, matchers in selectors:
        assert name in labels_by_series
        assert set(re.findall(r"(\w+)=~?", matchers)) <= labels_by_series[name]


def test_sums_keep_labels_that_the_series_have(labels_by_series: dict[str, set[str]]) -> None:
    for expression in expressions():
        (name, *_) = re.findall(r"seqlens_\w+", expression)
        kept = {
            label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")
        }
        assert kept <= labels_by_series[name], expression


def test_variables_list_labels_that_exist(labels_by_series: dict[str, set[str]]) -> None:
    queries = [v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    asked = [re.fullmatch(r"label_values\((\w+), (\w+)\)", query) for query in queries]
    assert [match.group(2) in labels_by_series[match.group(1)] for match in asked if match] == [
        True
    ] * 3


def test_provisioned_files_meet_in_the_container() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounted = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "seqlens.yml").read_text()
    )["providers"]
    assert f"{provider['options']['path']}/seqlens-overview.json" in mounted
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH: it comes with Debian's package prometheus")
    return found


def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"dashboard:query:{number}", "expr": substituted(expression)}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    check = subprocess.run(
        [tool("promtool"), "check", "rules", str(path)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr
    assert f"{len(rules)} rules found" in check.stdout


def test_promtool_accepts_the_scrape_configuration() -> None:
    path = ROOT / "dashboards" / "prometheus" / "prometheus.yml"
    check = subprocess.run(
        [tool("promtool"), "check", "config", str(path)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stderr


@contextmanager
def scraping(port: int, folder: Path) -> Iterator[str]:
    """A real Prometheus that scrapes ``port`` five times a second."""
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [
            {"job_name": "seqlens", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        tool("prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(10)


def answers(address: str, expression: str) -> list[float]:
    """The finite values that Prometheus gives for a query now; none while it starts."""
    query = urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?{query}", timeout=5) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    except OSError:
        return []
    values = (float(series["value"][1]) for series in found)
    return [value for value in values if math.isfinite(value)]


def test_a_real_prometheus_answers_every_query(
    observer: PrometheusObserver, registry: CollectorRegistry, tmp_path: Path
) -> None:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        with scraping(server.server_port, tmp_path) as address:
            unanswered = {substituted(expression, "4s") for expression in expressions()}
            give_up = time.monotonic() + 30
            while unanswered and time.monotonic() < give_up:
                for length in (5, 50, 500):
                    serve_one(observer, length)
                unanswered = {each for each in unanswered if not answers(address, each)}
                time.sleep(0.1)
            assert not unanswered
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
