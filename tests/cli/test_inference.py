"""``seqlens infer`` against a server: for people, for pipes, and from file to file."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from tests.cli.conftest import on_a_terminal
from tests.clients.conftest import running_fake

from seqlens_zoo.antecedent import KITTEN_SENTENCE

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_people_get_a_table(target: str) -> None:
    texts = [KITTEN_SENTENCE, "[/x] [red]it"]  # brackets stay as they are
    code, shown = on_a_terminal("infer", "transformer-onnx", *texts, "--target", target)
    assert code == 0
    assert "compute ms" in shown
    assert "kitten (" in shown.split("answer")[1]
    assert "[/x] [red]it" in shown


def test_json_may_be_had_on_a_terminal(target: str) -> None:
    code, shown = on_a_terminal("infer", "lstm-onnx", "it", "--json", "--target", target)
    assert code == 0
    assert len(json.loads(shown)["output"]) == 40


def test_pipes_get_a_line_of_json_for_each_line(seqlens: Run, target: str) -> None:
    run = seqlens("infer", "lstm-onnx", "--target", target, text="the kitten\nit\n")
    assert run.returncode == 0
    first, second = map(json.loads, run.stdout.splitlines())
    assert (first["input"], second["input"]) == ("the kitten", "it")
    assert (first["length"], len(first["output"]), first["error"]) == (2, 40, None)


def test_labels_for_pipes(seqlens: Run, target: str) -> None:
    arguments = ("infer", "transformer-onnx", KITTEN_SENTENCE, "--labels", "--version", "1")
    run = seqlens(*arguments, "--priority", "1", "--timeout", "20", "--target", target)
    row = json.loads(run.stdout)
    assert row["output"] == "kitten"
    assert 0 < row["score"] <= 1


def test_an_answer_comes_before_the_next_line_is_typed(target: str) -> None:
    command = [sys.executable, "-m", "seqlens.cli", "infer", "rnn-onnx", "--target", target]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("it", "the kitten"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["input"] == text


def test_an_error_has_its_line_and_the_exit_code(seqlens: Run, target: str) -> None:
    long = "it " * 5000
    run = seqlens("infer", "transformer-onnx", "it", long, "--target", target)
    assert run.returncode == 1
    good, bad = map(json.loads, run.stdout.splitlines())
    assert good["error"] is None
    assert bad["error"].startswith("INVALID_ARGUMENT: ")
    code, shown = on_a_terminal("infer", "transformer-onnx", long, "--target", target)
    assert code == 1
    assert "error: " in shown


def test_files_are_answered_and_gone_on_with(seqlens: Run, target: str, tmp_path: Path) -> None:
    source, output = tmp_path / "x.csv", tmp_path / "y.jsonl"
    source.write_text(f'text\n"{KITTEN_SENTENCE}"\n"[4, 8]"\n"[-1]"\n')
    arguments = ["infer", "lstm-onnx", "--input", str(source), "--output", str(output)]
    arguments += ["--input-column", "text", "--output-column", "label", "--labels"]
    for before in (0, 3):
        run = seqlens(*arguments, "--target", target)
        assert run.returncode == 1
        assert f"y.jsonl: 3 rows, 1 with errors, {before} from before" in run.stderr
        assert not run.stdout
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows[0]["label"] == "kitten"
    assert rows[2]["label"] is None
    assert "0 from before" in seqlens(*arguments, "--restart", "--target", target).stderr


def test_a_bar_shows_how_far_a_file_is(target: str, tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text("[1]\n" * 40)
    arguments = ("infer", "rnn-onnx", "--input", str(source), "--target", target)
    code, shown = on_a_terminal(*arguments, stream="stderr")
    assert code == 0
    assert "x.jsonl: 100%" in shown
    assert "40/40" in shown


def test_tls_certificates_and_a_token(seqlens: Run, tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("me@example.com")
    files = {
        "ca": authority.cert_pem,
        "certificate": client.cert_chain_pems[0],
        "private-key": client.private_key_pem,
    }
    options = []
    for name, pem in files.items():
        pem.write_to_path(tmp_path / name)
        options += [f"--{name}", str(tmp_path / name)]
    pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), True)
    with running_fake(credentials) as fake:
        arguments = ("infer", "echo", "abc", "--target", fake.address, *options)
        run = seqlens(*arguments, env={"SEQLENS_TOKEN": "s3cret"})
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["length"] == 3
        assert set(fake.models.authorizations) == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody", "it"], "nobody"),
        (["lstm-onnx", "--input", "no.jsonl"], "no.jsonl"),
        (["lstm-onnx", "--input", "no.txt"], "file_format: got no.txt"),
        (["lstm-onnx", "it", "--input", "x.jsonl"], "--input: got texts beside it"),
        (["lstm-onnx", "it", "--output", "x.jsonl"], "got no --input"),
        (["lstm-onnx", "it", "--token", "two words"], "token: expected printable"),
        (["lstm-onnx", "it", "--certificate", "x.pem"], "both or none"),
        (["lstm-onnx", "it", "--ca", "no.pem"], "no.pem"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    arguments: list[str], said: str, seqlens: Run, target: str
) -> None:
    run = seqlens("infer", *arguments, "--target", target)
    assert run.returncode == 1
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_line_that_is_no_text_is_told(target: str) -> None:
    command = [sys.executable, "-m", "seqlens.cli", "infer", "rnn-onnx", "--target", target]
    run = subprocess.run(command, input=b"\xff\n", capture_output=True, check=False)
    assert run.returncode == 1
    assert b"half a surrogate pair" in run.stderr
    assert b"Traceback" not in run.stderr


def test_ctrl_c_says_how_to_go_on(seqlens: Run, target: str, tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text("[4, 8, 15]\n" * 30_000)
    answers = tmp_path / "x.answers.jsonl"
    command = [sys.executable, "-m", "seqlens.cli", "infer", "rnn-onnx", "--labels"]
    command += ["--input", str(source), "--target", target]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (answers.exists() and answers.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert said == "seqlens: interrupted; the same command goes on where this one stopped\n"
