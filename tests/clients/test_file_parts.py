"""What files are made of, apart from any server: rows that were torn, and rows that wait."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens_client import InvalidInput, ServerError
from seqlens_client._answers import Outcome
from seqlens_client._files import outbox
from seqlens_client._files.answers import AnswerForm, Csv, JsonLines
from seqlens_client._files.outbox import Outbox, Settled
from seqlens_client._files.rows import Row, read_rows
from seqlens_client._sequences import prepare

HEADER = ["input", "output", "error"]
texts = st.text() | st.sampled_from(['"', "\n", "\r", '"\r\n",', "\udcff", "[1]", " "])
rows = st.lists(
    st.fixed_dictionaries(
        {"input": texts, "output": st.none() | texts, "error": st.none() | st.just("CODE: why")}
    ),
    max_size=5,
)


@pytest.mark.parametrize("form", [JsonLines(), Csv(HEADER)], ids=["jsonl", "csv"])
@given(rows=rows, data=st.data())
def test_whole_rows_are_counted_wherever_a_file_is_cut(
    form: AnswerForm, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    parts = [form.head(), *(form.row(row) for row in rows)]
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    written = form.written(io.BytesIO(whole[:cut]))
    ends = [len(b"".join(parts[: count + 1])) for count in range(len(parts))]
    count = sum(end <= cut for end in ends[1:])
    assert written.rows == count
    assert written.errors == sum(row["error"] is not None for row in rows[:count])
    assert written.size == (ends[count] if cut >= ends[0] else 0)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (JsonLines(), b'{"error": null}\nmy diary\n{"error": null}\n'),
        (JsonLines(), b"[1]\n"),
        (Csv(HEADER), b"a,b,c\n"),
        (Csv(HEADER), b"input,output,error\n1,2\n"),
    ],
)
def test_lines_of_another_form_are_not_taken_for_torn_ones(form: AnswerForm, text: bytes) -> None:
    with pytest.raises(InvalidInput, match="of another form"):
        form.written(io.BytesIO(text))


@given(st.lists(texts, max_size=6), st.integers(0, 7))
def test_rows_come_back_from_a_csv_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], skip: int
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    form = Csv(["input", "error"])
    cells = [{"input": text} for text in texts]
    path.write_bytes(form.head() + b"".join(form.row(each) for each in cells))
    found = list(read_rows(path, "csv", "input", skip))
    assert [row.columns["input"] for row in found] == texts[skip:]


def test_a_cell_may_be_large(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('input\n"' + json.dumps([0] * 100_000) + '"\n')
    (row,) = read_rows(path, "csv", "input", 0)
    assert not isinstance(row.sequence, InvalidInput)
    assert row.sequence.arrays[""].shape == (100_000,)


FAILURE = ServerError("why", code="INTERNAL")


def good(index: int) -> Row:
    return Row({"index": index}, prepare([index]), 8)


def bad(index: int) -> Row:
    return Row({"index": index}, InvalidInput("why", code="INVALID_ARGUMENT"), 8)


@given(st.lists(st.booleans(), max_size=40), st.randoms())
def test_rows_leave_in_their_order_whatever_the_order_of_answers(
    sendable: list[bool], random: Any
) -> None:
    left: list[int] = []
    box = Outbox(lambda settled: left.extend(row.columns["index"] for row, _ in settled))
    unanswered: list[int] = []
    for index, is_sent in enumerate(sendable):
        box.add(good(index) if is_sent else bad(index))
        if is_sent:
            unanswered.append(sum(sendable[:index]))
        while unanswered and random.random() < 0.4:
            box.settle(unanswered.pop(random.randrange(len(unanswered))), FAILURE)
        assert left == list(range(len(left)))
    for number in random.sample(unanswered, len(unanswered)):
        box.settle(number, FAILURE)
    assert left == list(range(len(sendable)))
    assert not box.full


def test_a_full_outbox_makes_the_sender_wait_for_the_oldest_answer() -> None:
    box = Outbox(lambda settled: None)
    for index in range(outbox.MOST_ROWS):
        assert box.wait_for_room()
        box.add(bad(index) if index else good(0))
    assert box.full
    answer = threading.Timer(0.05, box.settle, (0, FAILURE))
    answer.start()
    assert box.wait_for_room()
    assert not box.full
    answer.join()
    box.add(Row({}, prepare([1]), outbox.MOST_BYTES))
    assert box.full
    box.close()
    assert not box.wait_for_room()


def test_nothing_is_written_behind_a_row_that_could_not_be() -> None:
    left: list[Settled] = []

    def write(settled: list[tuple[Row, Outcome]]) -> None:
        if not left:
            left.extend(settled)
            raise OSError("no space left on device")
        left.extend(settled)

    box = Outbox(write)  # type: ignore[arg-type]
    box.add(good(0))
    box.add(good(1))
    with pytest.raises(OSError, match="no space"):
        box.settle(0, FAILURE)
    box.settle(1, FAILURE)
    assert len(left) == 1
    assert not box.wait_for_room()
