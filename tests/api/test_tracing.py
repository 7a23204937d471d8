"""Which settings count for a model, and which requests are traced."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlens.api.requests import Timings
from seqlens.api.trace_settings import NAMES, TraceSettings, read_change
from seqlens.api.tracing import Tracing
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import ModelLabels

VALUES = st.fixed_dictionaries(
    {},
    optional={
        "trace_level": st.sampled_from([[], ["OFF"], ["TIMESTAMPS"]]),
        "trace_rate": st.sampled_from([[], ["1"], ["20"]]),
        "trace_count": st.sampled_from([[], ["-1"], ["0"], ["7"]]),
        "log_frequency": st.sampled_from([[], ["0"], ["3"]]),
    },
)
CHANGES = st.lists(st.tuples(st.sampled_from(["", "a", "b"]), VALUES), max_size=12)


@given(CHANGES)
def test_a_model_has_its_own_settings_or_those_for_all(
    changes: list[tuple[str, dict[str, list[str]]]],
) -> None:
    tracing = Tracing(Path("traces"))  # no request is traced, so that it is never written
    stated: dict[str, dict[str, list[str]]] = {"": {}, "a": {}, "b": {}}
    for model, change in changes:
        tracing.change(change, model)
        stated[model] |= change
    defaults = TraceSettings().texts("traces")
    for model in ("", "a", "b", "c"):
        set_here = {name: texts for name, texts in stated.get(model, {}).items() if texts}
        for_all = {name: texts for name, texts in stated[""].items() if texts}
        assert tracing.settings(model) == defaults | for_all | set_here
    on = [tracing.settings(model) for model in ("", "a", "b")]
    assert tracing.on == any(
        one["trace_level"] == ["TIMESTAMPS"] and one["trace_count"] != ["0"] for one in on
    )


@given(
    st.dictionaries(st.sampled_from([*NAMES, "other"]), st.lists(st.text(max_size=30), max_size=3))
)
def test_whatever_is_asked_for_is_read_or_refused(stated: dict[str, list[str]]) -> None:
    try:
        change = read_change(stated, "traces")
    except InvalidRequest as error:
        field = error.field
    else:
        assert "other" not in stated
        assert len(change.values) + len(change.cleared) <= len(stated)
        field = "settings"
    assert field.startswith("settings")


@settings(max_examples=30)
@given(rate=st.integers(1, 6), requests=st.integers(0, 30), count=st.integers(-1, 8))
def test_every_so_many_requests_one_is_traced(
    rate: int, requests: int, count: int, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("traces") / "traces"
    tracing = Tracing(path)
    asked = {"trace_level": ["TIMESTAMPS"], "trace_rate": [str(rate)], "trace_count": [str(count)]}
    tracing.change(asked)
    labels = ModelLabels("m", "1", Architecture.LSTM)
    for number in range(1, requests + 1):
        tracing.finished(labels, str(number), Timings(), 0.1)
    tracing.close()
    due = [str(number) for number in range(rate, requests + 1, rate)]
    expected = due if count < 0 else due[:count]
    traces = json.loads(path.read_text()) if path.exists() else []
    assert [one["request_id"] for one in traces] == expected


def test_without_a_file_it_cannot_be_switched_on() -> None:
    tracing = Tracing(None)
    with pytest.raises(InvalidRequest, match="trace_file"):
        tracing.change({"trace_level": ["TIMESTAMPS"], "trace_rate": ["5"]})
    assert not tracing.on
    assert tracing.settings()["trace_rate"] == ["1000"]
