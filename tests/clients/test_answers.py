import numpy as np
import pytest

from seqlens_client import Result, SeqLensError, ServerError
from seqlens_client._answers import read_answers, read_tensors
from seqlens_wire.pb.open_inference_pb2 import ModelInferResponse
from seqlens_wire.pb.sequences_pb2 import Answers, SequenceError, SequenceResult
from seqlens_wire.ragged import pack

GOOD = SequenceResult(length=1)
BAD = SequenceResult(error=SequenceError(code="INTERNAL", message="it raised"))


def rows(*values: int) -> Answers:
    return Answers(outputs=[pack("y", "INT64", [np.array([value]) for value in values])])


def test_rows_go_to_the_results_without_an_error() -> None:
    answers = rows(10, 20)
    answers.results.extend([BAD, GOOD, BAD, GOOD])
    outcomes = read_answers(answers, "1", [4, 5, 6, 7])
    assert [o.index if isinstance(o, SeqLensError) else o.output[0] for o in outcomes] == [
        4,
        10,
        6,
        20,
    ]


def test_results_without_any_answer_need_no_outputs() -> None:
    (outcome,) = read_answers(Answers(results=[BAD]), "1", [0])
    assert isinstance(outcome, ServerError)


@pytest.mark.parametrize("results", [[GOOD], [GOOD, GOOD, BAD]])
def test_numbers_that_do_not_agree_are_the_servers_fault(results: list[SequenceResult]) -> None:
    answers = rows(10)
    answers.results.extend(results)
    with pytest.raises(ServerError, match="cannot be read"):
        read_answers(answers, "1", [0, 1, 2][: max(2, len(results))])


def test_the_only_output_has_a_name_of_its_own() -> None:
    (result,) = read_answers(Answers(outputs=rows(10).outputs, results=[GOOD]), "1", [0])
    assert isinstance(result, Result)
    assert result.output.tolist() == [10]


def test_of_several_outputs_none_is_the_only_one() -> None:
    result = Result({"a": np.zeros(1), "b": np.zeros(1)}, 1, 0.0, 0.0, 1, 1, "1")
    with pytest.raises(ValueError, match="not one output but several: a, b"):
        _ = result.output


def test_typed_answers_of_other_servers_are_read_too() -> None:
    response = ModelInferResponse()
    output = response.outputs.add(name="y", datatype="FP32", shape=[2])
    output.contents.fp32_contents.extend([0.5, 1.5])
    assert read_tensors(response)["y"].tolist() == [0.5, 1.5]
