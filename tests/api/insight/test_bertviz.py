"""What BertViz takes: whole square maps, layer by layer."""

from typing import Any

import numpy as np
import pytest
from tests.support.insight_data import attention_data, softmaxed

from seqlens.api.insight.bertviz import write_bertviz
from seqlens.errors import InvalidRequest


def test_each_layer_is_a_map_of_all_heads_behind_a_batch_of_one() -> None:
    data = attention_data(["a", "kitten", "slept"], heads=2, layers=3)
    (told,) = write_bertviz(data)["sequences"]
    assert told["tokens"] == ["a", "kitten", "slept"]
    assert (told["layers"], told["heads"]) == ([0, 1, 2], [0, 1])
    for layer, attention in enumerate(told["attention"]):
        assert attention.shape == (1, 2, 3, 3)
        np.testing.assert_array_equal(attention[0], softmaxed(2, 3, 3, layer))


def test_of_some_layers_and_heads_it_is_told_which_they_are() -> None:
    data = attention_data(heads=2, layers=4)
    data["attention"]["layers"] = data["attention"]["layers"][2:]
    for layer in data["attention"]["layers"]:
        layer["maps"][0]["heads"] = [5, 7]
    (told,) = write_bertviz(data)["sequences"]
    assert (told["layers"], told["heads"]) == ([2, 3], [5, 7])
    assert told["sites"] == ["/encoder/layers.2/Softmax", "/encoder/layers.3/Softmax"]


def test_whole_numbers_become_weights_again() -> None:
    data = attention_data(["a", "b"], layers=1, weights=np.uint8([[[255, 0], [51, 204]]]))
    (told,) = write_bertviz(data)["sequences"]
    np.testing.assert_allclose(told["attention"][0], [[[[1, 0], [0.2, 0.8]]]], atol=1e-7)


def test_wrong_sequences_keep_their_error_and_positions_stand_for_missing_tokens() -> None:
    data = attention_data(["a", "b"], layers=1)
    error: Any = {"code": "INVALID_ARGUMENT", "message": "inputs: got nothing"}
    data["sequences"][0]["tokens"] = []
    data["sequences"].append({"length": 0, "tokens": [], "error": error})
    good, bad = write_bertviz(data)["sequences"]
    assert good["tokens"] == ["0", "1"]
    assert bad == {"error": error}


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": softmaxed(8, 1, 20)},
        {"weights": softmaxed(8, 19, 19), "query_start": 1},
        {"weights": softmaxed(8, 20, 20), "key_start": 1},
        {"key_positions": np.zeros((8, 20, 20), np.int32)},
    ],
)
def test_parts_of_maps_are_refused(changed: Any) -> None:
    with pytest.raises(InvalidRequest, match="whole square maps") as caught:
        write_bertviz(attention_data(**changed))
    assert caught.value.field == "format"


def test_rollout_is_refused() -> None:
    data = attention_data(layers=1)
    data["attention"]["layers"][0]["site"]["name"] = "rollout"
    with pytest.raises(InvalidRequest, match="no rollout"):
        write_bertviz(data)


def test_layers_of_different_numbers_of_heads_are_refused() -> None:
    data = attention_data(layers=2)
    data["attention"]["layers"][1]["maps"][0]["weights"] = softmaxed(4, 20, 20)
    with pytest.raises(InvalidRequest, match=r"layers of 4 and 8 heads.*selection\.layers"):
        write_bertviz(data)
