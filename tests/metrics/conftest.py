"""A registry of its own for each test, one model to feed it with, and a look at the answer."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import LoadReport, ModelLabels
from seqlens.metrics.prometheus import PrometheusObserver


class Scrape:
    """What one scrape shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.text = generate_latest(registry).decode()
        families = text_string_to_metric_families(self.text)
        self.samples = [sample for family in families for sample in family.samples]

    def find(self, name: str = "", **labels: str) -> list[Sample]:
        """The samples that carry these labels, of one name or of all."""
        return [
            sample
            for sample in self.samples
            if name in ("", sample.name) and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """The value of the only sample that fits."""
        (sample,) = self.find(name, **labels)
        return sample.value


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def scrape(registry: CollectorRegistry) -> Callable[[], Scrape]:
    return lambda: Scrape(registry)


@pytest.fixture
def lstm() -> ModelLabels:
    return ModelLabels("kitten", "1", Architecture.LSTM)


@pytest.fixture
def report() -> LoadReport:
    phases = {"read": 0.1, "inspect": 0.2, "verify": 0.3, "warmup": 0.4}
    return LoadReport(
        backend="onnxruntime",
        device="cpu",
        precision="fp32",
        opset="17",
        invariance_error=2.5e-7,
        phase_seconds=phases,
    )


@pytest.fixture
def observer(registry: CollectorRegistry) -> PrometheusObserver:
    return PrometheusObserver(registry, (16, 32, 64), lanes=2, max_sequence_length=100)


@pytest.fixture
def loaded(
    observer: PrometheusObserver, lstm: ModelLabels, report: LoadReport
) -> PrometheusObserver:
    observer.model_loaded(lstm, report)
    return observer
