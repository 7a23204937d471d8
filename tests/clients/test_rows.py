"""Answers as rows of JSON and as tables."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seqlens_client import Overloaded, Result, to_frame, to_row
from seqlens_client._rows import plain

ERROR = Overloaded("full", code="RESOURCE_EXHAUSTED", index=1)


def result(length: int, **outputs: Any) -> Result:
    values = {name: np.asarray(value) for name, value in outputs.items()}
    return Result(values, length, 0.5, 0.25, 1, length, "3")


# --- rows


def test_the_only_output_stands_alone_and_several_by_their_names() -> None:
    assert to_row(result(2, y=[1, 2])) == {"output": [1, 2], "length": 2, "error": None}
    assert to_row(result(2, y=1, z=[[2.5]]), column="a")["a"] == {"y": 1, "z": [[2.5]]}


def test_an_error_takes_the_place_of_the_output() -> None:
    row = {"output": None, "length": None, "error": "RESOURCE_EXHAUSTED: full"}
    assert to_row(ERROR) == row
    assert to_row(ERROR, ["a"]) == row | {"score": None}


@given(arrays.arrays(st.sampled_from([np.float32, np.float16, np.int64, np.bool_]),
                     arrays.array_shapes(min_dims=0, min_side=0)))  # fmt: skip
def test_every_array_is_json_and_back(array: Any) -> None:
    back = np.array(json.loads(json.dumps(plain(array), allow_nan=False)), dtype=float)
    if array.size:
        assert back.shape == array.shape
    np.testing.assert_array_equal(back.ravel(), np.where(np.isfinite(array), array, np.nan).ravel())


def test_bytes_are_texts() -> None:
    array = np.array([[b"caf\xc3\xa9", b"\xff"]], object)
    assert plain(array) == [["café", "\\xff"]]


def test_labels_name_the_best_of_logits_and_of_probabilities() -> None:
    labels = ["no", "yes"]
    of_logits = to_row(result(3, y=np.array([0, np.log(3)], np.float32)), labels)
    assert of_logits == {
        "output": "yes", "score": pytest.approx(0.75), "length": 3, "error": None,
    }  # fmt: skip
    row = to_row(result(2, y=[[0.25, 0.75], [0.6, 0.4]], states=[1.0, 2.0, 3.0]), labels)
    assert row["output"] == {"y": ["yes", "no"], "states": [1.0, 2.0, 3.0]}
    assert row["score"] == {"y": [0.75, 0.6], "states": None}


# --- tables


def test_an_answer_to_the_sequence_is_one_row() -> None:
    frame = result(3, y=[1.5, 2.5], z=7, m=np.zeros((2, 2))).to_frame()
    assert len(frame) == 1
    columns = ["sequence", "position", "length", "y[0]", "y[1]", "z", "m"]
    assert list(frame) == [*columns, "queue_seconds", "compute_seconds"]
    assert frame["y[1]"][0] == 2.5
    assert frame["m"][0].shape == (2, 2)
    assert frame.loc[0, "queue_seconds"] == 0.5


def test_an_answer_to_each_step_is_one_row_for_each() -> None:
    frame = result(3, tags=[7, 8, 9], states=np.arange(6).reshape(3, 2), label=1).to_frame()
    assert frame["position"].tolist() == [0, 1, 2]
    assert frame["tags"].tolist() == [7, 8, 9]
    assert frame["states[1]"].tolist() == [1, 3, 5]
    assert frame["label"].tolist() == [1, 1, 1]


def test_what_has_a_time_axis_is_seen_from_all_results_or_said() -> None:
    # Two scores: by chance as many as the first sequence is long.
    results = [result(2, scores=[0.1, 0.9]), result(3, scores=[0.2, 0.8])]
    assert to_frame(results)["position"].tolist() == [0, 0]
    assert len(results[0].to_frame()) == 2
    assert len(results[0].to_frame(per_step=())) == 1
    assert len(to_frame(results, per_step=["scores"])) == 4


def test_errors_have_a_row_and_a_column() -> None:
    frame = to_frame([result(1, y=[1, 2]), ERROR])
    assert frame["sequence"].tolist() == [0, 1]
    assert pandas.isna(frame["error"][0])
    assert frame["error"][1] == "full"
    assert to_frame([]).empty


@pytest.mark.parametrize(
    ("missing", "code", "said"),
    [
        ("pandas", "to_frame([])", "tables need pandas: pip install 'seqlens[data]'"),
        (
            "pyarrow",
            "Client('127.0.0.1:1').process_file('m', 'x.parquet')",
            "Parquet needs pyarrow: pip install 'seqlens[data]'",
        ),
    ],
)
def test_a_missing_extra_is_named(missing: str, code: str, said: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\nfrom seqlens_client import *\n{code}"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"ImportError: {said}" in run.stderr
