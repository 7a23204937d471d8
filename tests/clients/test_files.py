"""Whole files against a server: every format, what is wrong in them, and whose they are."""

import asyncio
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from tests.clients.conftest import eventually, read_lines, write_lines

import seqlens_client as sdk

# --- forms of sequences and answers


async def test_texts_token_ids_and_features_of_json_lines(client: Any, tmp_path: Path) -> None:
    features = [[1.0, 2.0], [3.0, 4.0]]
    values = ["abc", [1, 2], features, {"id": 7, "input": [3]}, {"input": {"ids": [4]}}]
    source = write_lines(tmp_path / "x.jsonl", values)
    summary = await client.process_file("echo", source, outputs=["doubled"])
    assert (summary.rows, summary.errors, summary.resumed_from) == (5, 0, 0)
    assert summary.destination == tmp_path / "x.answers.jsonl"
    rows = read_lines(summary.destination)
    assert [row["length"] for row in rows] == [3, 2, 2, 1, 1]
    assert rows[2]["output"]["doubled"] == [[2, 4], [6, 8]]
    assert rows[3]["id"] == 7
    assert rows[0].keys() == {"input", "output", "length", "error"}


BAD_LINES = [
    ("nonsense", "expected JSON"),
    ("null", "got null, expected a text"),
    ("NaN", "NaN is not JSON"),
    ('{"other": 1}', "got only other, expected 'input'"),
    ('[1, "a", [2]]', "expected a regular array"),
    ("[-1]", "token id -1"),
    ('"half \\ud800"', "half a surrogate pair"),
    ("[" * 100_000, "expected JSON"),
    ("\xff", "expected JSON"),
]


async def test_rows_that_cannot_be_answered_have_their_error_and_keep_their_place(
    client: Any, tmp_path: Path
) -> None:
    source = tmp_path / "x.jsonl"
    lines = [line for bad, _ in BAD_LINES for line in (bad, "[1]", " ")]
    source.write_bytes("\n".join(lines).encode("latin-1"))
    summary = await client.process_file("echo", source)
    assert (summary.rows, summary.errors) == (2 * len(BAD_LINES), len(BAD_LINES))
    rows = read_lines(summary.destination)
    for (_, said), row, good in zip(BAD_LINES, rows[::2], rows[1::2], strict=True):
        assert said in row["error"]
        assert row["error"].startswith("INVALID_ARGUMENT: ")
        assert row["output"] is None
        assert (good["length"], good["error"]) == (1, None)


async def test_any_number_of_bad_rows_goes_through(client: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1], *[None] * 5000, [2], *[None] * 5000])
    summary = await client.process_file("backwards", source)
    assert (summary.rows, summary.errors) == (10_002, 10_000)
    assert read_lines(summary.destination)[5001]["length"] == 1


async def test_order_is_kept_when_answers_come_in_another(client: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[index] for index in range(3000)])
    summary = await client.process_file("backwards", source)
    rows = read_lines(summary.destination)
    assert [row["output"]["doubled"] for row in rows] == [[2 * index] for index in range(3000)]


async def test_the_first_error_may_stop_it(client: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1], [2], [-1], [3]])
    with pytest.raises(sdk.InvalidInput, match="sequence 2: token id -1") as caught:
        await client.process_file("echo", source, stop_at_error=True)
    assert caught.value.index == 2
    assert len(read_lines(tmp_path / "x.answers.jsonl")) == 2
    summary = await client.process_file("echo", source)
    assert (summary.resumed_from, summary.rows, summary.errors) == (2, 4, 1)


async def test_csv_in_and_out(client: Any, tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    with source.open("w", newline="", encoding="utf-8-sig") as file:
        records = [["id", "words"], ["1", 'a,\n"b" é'], ["2", "[1, 2]"], ["3", "[no json"], ["4"]]
        csv.writer(file).writerows(records)
    summary = await client.process_file(
        "echo", source, input_column="words", output_column="answer", outputs=["doubled"]
    )
    assert (summary.rows, summary.errors) == (4, 1)
    with summary.destination.open(newline="") as file:
        first, second, third, fourth = csv.DictReader(file)
    assert first["words"] == 'a,\n"b" é'
    assert (first["id"], first["length"], first["error"]) == ("1", "9", "")  # bytes
    assert json.loads(second["answer"])["doubled"] == [2, 4]
    assert third["length"] == "8"
    assert "got 1 cells, expected 2" in fourth["error"]


async def test_a_column_that_is_not_there_is_named(client: Any, tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("id,text\n1,a\n")
    with pytest.raises(sdk.InvalidInput, match="input_column: got only id, text, expected 'input'"):
        await client.process_file("echo", source)
    assert os.listdir(tmp_path) == ["x.csv"]


async def test_parquet_in_and_out_keeps_types(client: Any, tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "input": pyarrow.array([[1, 2], [], [3]], pyarrow.list_(pyarrow.int32())),
            "when": pyarrow.array([0, 1, None], pyarrow.timestamp("us")),
            "error": pyarrow.array([1, 2, 3]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    for resumed_from in (0, 3):
        summary = await client.process_file("echo", tmp_path / "x.parquet")
        assert (summary.rows, summary.errors, summary.resumed_from) == (3, 0, resumed_from)
    answers = pyarrow.parquet.read_table(summary.destination)
    assert answers.schema.field("input") == table.schema.field("input")
    assert answers.column("when").to_pylist() == table.column("when").to_pylist()
    assert answers.column("output").to_pylist()[0] == {"doubled": [2, 4], "length": 2.0}
    assert answers.column("length").to_pylist() == [2, 0, 1]
    assert answers.column("error").to_pylist() == [None] * 3
    assert set(os.listdir(tmp_path)) == {"x.parquet", "x.answers.parquet", "x.answers.parquet.job"}


async def test_columns_without_one_type_become_json_in_parquet(client: Any, tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "x.jsonl", ["ab", [1], {"input": {}, "note": {}}, {"input": 2**70}]
    )
    summary = await client.process_file("echo", source, tmp_path / "x.parquet")
    table = pyarrow.parquet.read_table(summary.destination)
    assert table.column("input").to_pylist() == ['"ab"', "[1]", "{}", str(2**70)]
    assert table.column("note").to_pylist() == [None, None, "{}", None]
    assert table.column("error").null_count == 2


async def test_the_best_label_and_its_score(face: Any, target: str, tmp_path: Path) -> None:
    client = face(target)
    labels = (await client.describe("lstm-onnx")).labels
    sequence = list(range(1, 9))
    result = await client.infer("lstm-onnx", sequence)
    source = write_lines(tmp_path / "x.jsonl", [sequence, [-5]])
    summary = await client.process_file("lstm-onnx", source, labels=True)
    best, bad = read_lines(summary.destination)
    scores = np.exp(result.output.astype(float))
    assert best["output"] == labels[result.output.argmax()]
    assert best["score"] == pytest.approx(scores.max() / scores.sum(), rel=1e-4)
    assert (bad["output"], bad["score"]) == (None, None)
    await client.close()


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("x.txt", {}, "file_format: got x.txt"),
        ("x.jsonl", {"file_format": "json"}, "expected jsonl, csv or parquet"),
    ],
)
async def test_a_format_that_cannot_be_told_is_refused(
    source: str, options: dict[str, Any], said: str, client: Any, tmp_path: Path
) -> None:
    with pytest.raises(sdk.InvalidInput, match=said):
        await client.process_file("echo", write_lines(tmp_path / source, [[1]]), **options)


async def test_a_format_may_be_given(client: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.txt", [[1]])
    assert (await client.process_file("echo", source, file_format="jsonl")).rows == 1


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_an_empty_file_has_no_answers(client: Any, tmp_path: Path, suffix: str) -> None:
    source = write_lines(tmp_path / "x.jsonl", [])
    summary = await client.process_file("echo", source, tmp_path / f"y.{suffix}")
    assert (summary.rows, summary.errors) == (0, 0)
    assert summary.destination.exists()


async def test_a_source_that_is_not_there(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await client.process_file("echo", tmp_path / "x.jsonl")
    assert not os.listdir(tmp_path)


# --- whose a destination is


async def test_a_destination_of_another_job_is_left_alone(client: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1], [2]])
    summary = await client.process_file("echo", source)
    answers = summary.destination.read_bytes()
    for options, said in [
        ({"labels": True}, "another job: labels False, expected True"),
        ({"output_column": "y"}, "another job: output_column 'output', expected 'y'"),
        ({"outputs": ["doubled"]}, "another job: outputs None"),
    ]:
        with pytest.raises(sdk.InvalidInput, match=said):
            await client.process_file("echo", source, **options)
    with pytest.raises(sdk.InvalidInput, match="another job: model 'echo', expected 'backwards'"):
        await client.process_file("backwards", source)
    write_lines(source, [[1], [3]])
    with pytest.raises(sdk.InvalidInput, match="another job: source_sha256"):
        await client.process_file("echo", source)
    assert summary.destination.read_bytes() == answers
    assert (await client.process_file("echo", source, restart=True)).resumed_from == 0
    assert read_lines(summary.destination)[1]["input"] == [3]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_a_file_of_no_job_is_left_alone(client: Any, tmp_path: Path, suffix: str) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1]])
    other = tmp_path / f"mine.{suffix}"
    other.write_text("my diary\n")
    with pytest.raises(sdk.InvalidInput, match="of no known job"):
        await client.process_file("echo", source, other)
    with pytest.raises(sdk.InvalidInput, match="destination: got the source itself"):
        await client.process_file("echo", source, source, restart=True)
    assert other.read_text() == "my diary\n"
    assert (await client.process_file("echo", source, other, restart=True)).rows == 1


async def test_two_at_once_do_not_write_one_file(client: Any, fake: Any, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "x.jsonl", [[1]])
    first = asyncio.ensure_future(client.process_file("forgetful-for-ever", source))
    await eventually(lambda: bool(fake.models.messages))
    with pytest.raises(sdk.InvalidInput, match="another process is writing"):
        await client.process_file("forgetful-for-ever", source)
    await client.close()
    with pytest.raises(sdk.Cancelled):
        await first


async def test_pipes_and_devices_are_refused_as_they_cannot_be_read_twice(
    client: Any, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(sdk.InvalidInput, match=r"source: got .*no regular file"):
        await client.process_file("echo", tmp_path / "x.jsonl")
    source = write_lines(tmp_path / "y.jsonl", [[1]])
    with pytest.raises(sdk.InvalidInput, match="destination: got /dev/full, which is no regular"):
        await client.process_file("echo", source, "/dev/full", file_format="jsonl")


async def test_two_columns_of_one_name_are_refused(client: Any, tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("input,note,note\na,1,2\n")
    with pytest.raises(sdk.InvalidInput, match="source: got two columns 'note'"):
        await client.process_file("echo", source)
