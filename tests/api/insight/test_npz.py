"""Files of arrays: read by numpy alone, and whole."""

import json
from io import BytesIO
from typing import Any

import numpy as np
from tests.support.insight_data import attention_data, gate_data, influence_data

from seqlens.api.insight.npz import write_npz
from seqlens.api.insight.plain_data import InsightData


def load(data: InsightData) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header, and all arrays by name."""
    with np.load(BytesIO(write_npz(data)), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("header"))), arrays


def test_weights_keep_datatype_and_value_under_the_name_of_layer_and_sequence() -> None:
    data = attention_data(heads=3)
    maps = data["attention"]["layers"][1]["maps"]
    maps[0]["weights"] = np.float16(maps[0]["weights"])
    maps.append({**maps[0], "sequence": 2, "key_positions": np.ones((3, 20, 20), np.int32)})
    header, arrays = load(data)
    assert set(arrays) == {
        "layer0/sequence0/weights", "layer0/sequence0/heads",
        "layer1/sequence0/weights", "layer1/sequence0/heads",
        "layer1/sequence2/weights", "layer1/sequence2/heads", "layer1/sequence2/key_positions",
    }  # fmt: skip
    assert arrays["layer1/sequence0/weights"].dtype == np.float16
    np.testing.assert_array_equal(arrays["layer1/sequence0/weights"], maps[0]["weights"])
    np.testing.assert_array_equal(arrays["layer0/sequence0/heads"], [0, 1, 2])
    first = header["attention"]["layers"][0]
    assert first["maps"][0]["weights"] == "layer0/sequence0/weights"
    assert first["site"] == data["attention"]["layers"][0]["site"]
    assert header["sequences"] == data["sequences"]


def test_measures_rollout_and_plain_outputs_have_names_of_their_own() -> None:
    data = attention_data(heads=2, layers=1, measures={"entropy": np.ones(2), "patterns": 1.5})
    data["attention"]["layers"][0]["site"]["name"] = "rollout"
    data["answers"] = [{"length": 20, "outputs": {"logits": np.arange(3.0)}}, {"error": {}}]
    header, arrays = load(data)
    np.testing.assert_array_equal(arrays["rollout/sequence0/measures/entropy"], [1, 1])
    np.testing.assert_array_equal(arrays["answers/sequence0/outputs/logits"], [0, 1, 2])
    (drawn,) = header["attention"]["layers"][0]["maps"]
    assert drawn["measures"] == {"entropy": "rollout/sequence0/measures/entropy", "patterns": 1.5}
    assert header["answers"][1] == {"error": {}}


def test_influence_is_there_by_measure_and_by_distance() -> None:
    data = influence_data(rows=4)
    header, arrays = load(data)
    occlusion, jacobian = data["influence"]["maps"]
    np.testing.assert_array_equal(arrays["occlusion/sequence0/shares"], occlusion["shares"])
    np.testing.assert_array_equal(arrays["jacobian/sequence0/floors"], jacobian["floors"])
    np.testing.assert_array_equal(arrays["occlusion/sequence0/output_positions"], range(16, 20))
    mean = arrays["jacobian/by_distance/mean_value"]
    assert np.isnan(mean[12:]).all()
    assert np.isfinite(mean[:12]).all()
    assert header["influence"]["model_runs"] == 9


def test_gates_are_there_by_layer_and_direction() -> None:
    data = gate_data()
    header, arrays = load(data)
    for gate in data["gates"]["layers"][0]["gates"]:
        name = f"layer0/forward/sequence0/{gate['gate']}"
        np.testing.assert_array_equal(arrays[f"{name}/mean"], gate["mean"])
        np.testing.assert_array_equal(arrays[f"{name}/quantiles"], gate["quantiles"])
        np.testing.assert_array_equal(arrays[f"{name}/values"], gate["values"])
    assert header["gates"]["quantiles"] == [0.1, 0.5, 0.9]


def test_nothing_seen_is_a_file_of_the_header_alone() -> None:
    error = {"code": "INVALID_ARGUMENT", "message": "inputs: got nothing"}
    data: Any = {"model": "m", "version": "1", "sequences": [{"length": 0, "error": error}],
                 "attention": {"layers": []}}  # fmt: skip
    header, arrays = load(data)
    assert header == data
    assert arrays == {}
