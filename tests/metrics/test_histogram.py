"""Many observations in one step give the numbers that one by one gives."""

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from seqlens.metrics.histogram import Histogram

# Binary fractions add up exactly in any order; the bounds themselves are among them.
amounts = st.lists(st.integers(-4, 80).map(lambda eighths: eighths / 8), max_size=20)


def shown(observe: Callable[[Histogram], None]) -> bytes:
    registry = CollectorRegistry()
    family = Histogram("h", "h", ("model",), buckets=(1, 2, 4), registry=registry)
    observe(family.labels("m"))
    lines = generate_latest(registry).splitlines()
    return b"\n".join(line for line in lines if b"_created" not in line)


def one_by_one(values: Sequence[float]) -> bytes:
    def observe(histogram: Histogram) -> None:
        for value in values:
            histogram.observe(value)

    return shown(observe)


@given(amounts)
def test_all_at_once(values: list[float]) -> None:
    assert shown(lambda histogram: histogram.observe_all(values)) == one_by_one(values)


@given(st.integers(-4, 80).map(lambda eighths: eighths / 8), st.integers(0, 40))
def test_the_same_several_times(value: float, times: int) -> None:
    assert shown(lambda h: h.observe_repeatedly(value, times)) == one_by_one([value] * times)
