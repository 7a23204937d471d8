"""The command line, as users and scripts meet it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.torchscript_modules import made, quiet
from torch import Tensor, nn

from seqlens import __version__

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_version(seqlens: Run) -> None:
    assert seqlens("--version").stdout.strip() == __version__


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_numpy_computes_on_the_thread_that_asks_it() -> None:
    program = (
        "import os, sys, contextlib; from seqlens.cli import main; sys.argv = ['', '--version']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "import numpy; numpy.ones((600, 600)) @ numpy.ones((600, 600))\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.split()[-1] == "1", shown.stderr


def test_help_names_the_commands_and_their_options(seqlens: Run) -> None:
    overview = seqlens("--help").stdout
    for name in ("serve", "inspect", "verify", "infer", "--config"):
        assert name in overview
    options = seqlens("serve", "--help").stdout
    for name in ("--repository", "--grpc-port", "--scheduler.max-batch-tokens", "Port for gRPC"):
        assert name in options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve", "--repository", "x", "--grpc-prt", "1"], "Did you mean --grpc-port?"),
        (["serve"], "--repository"),
        (["srve"], "srve"),
        (["serve", "--repository", "x", "--grpc-port", "many"], "many"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    arguments: list[str], text: str, seqlens: Run
) -> None:
    run = seqlens(*arguments)
    assert run.returncode != 0
    assert text in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--grpc-port", "99999", "grpc_port: got 99999, expected at least 0 and at most 65535"),
        ("--lanes", "-1", "lanes: got -1, expected at least 0"),
        ("--drain-seconds", "nan", "drain_seconds: got nan"),
        ("--scheduler.max-batch-tokens", "0", "max_batch_tokens: got 0, expected at least 1"),
        ("--limits.max-message-bytes", "3000000000", "max_message_bytes: got 3000000000"),
        ("--device", "gpu", "device: got 'gpu', expected auto, cpu, cuda or cuda:N"),
        ("--length-buckets", "0", "length_buckets: got"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(
    option: str, value: str, said: str, seqlens: Run
) -> None:
    run = seqlens("serve", "--repository", "x", option, value)
    assert run.returncode == 1
    assert run.stderr.startswith(f"seqlens: {said}")
    assert len(run.stderr.splitlines()) == 1


def test_a_misspelt_setting_in_the_file_is_named_with_its_file(
    seqlens: Run, tmp_path: Path
) -> None:
    file = tmp_path / "seqlens.yaml"
    file.write_text("repository: x\nscheduler:\n  max_batch_tokenz: 5\n")
    run = seqlens("serve", "--config", str(file))
    assert run.returncode != 0
    said = "".join((run.stdout + run.stderr).replace("│", "").split())
    assert "max_batch_tokenz" in said
    assert "Didyoumean--scheduler.max-batch-tokens?" in said


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "seqlens.yaml"
    file.write_text("repository: a\nhost: file\ngrpc_port: 1\nhttp_port: 1\n")
    # The real parser; only what the command does with its settings is replaced.
    program = (
        "import sys, seqlens.cli.app as app, seqlens.server as server\n"
        "server.serve_until_stopped = lambda s: print(s.host, s.grpc_port, s.http_port, s.lanes)\n"
        "app.run(sys.argv[1:])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "serve", "--config", str(file), "--grpc-port", "3"],
        env={"SEQLENS_GRPC_PORT": "2", "SEQLENS_HTTP_PORT": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["file", "3", "2", "0"]


def test_the_light_installation_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError(name='cyclopts')")
    run = subprocess.run(
        [sys.executable, "-m", "seqlens.cli", "serve"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "pip install 'seqlens[server]'" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_a_repository_that_is_not_there(seqlens: Run, tmp_path: Path) -> None:
    run = seqlens(
        "serve", "--repository", str(tmp_path / "no"), "--grpc-port", "0", "--metrics-port", "0"
    )
    assert run.returncode == 1
    assert str(tmp_path / "no") in run.stderr
    assert "Traceback" not in run.stderr


def test_inspect_shows_what_was_found(seqlens: Run, repository: Path) -> None:
    path = str(repository / "lstm-onnx" / "1" / "model.onnx")
    shown = seqlens("inspect", path)
    assert shown.returncode == 0
    assert "lstm" in shown.stdout
    anatomy = json.loads(seqlens("inspect", path, "--json").stdout)
    assert anatomy["architecture"] == "lstm"


def test_inspect_refuses_what_it_cannot_read(seqlens: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"nothing")
    run = seqlens("inspect", str(file))
    assert run.returncode == 1
    assert str(file) in run.stderr
    assert "Traceback" not in run.stderr


def test_verify_shows_the_proof(seqlens: Run, repository: Path, tmp_path: Path) -> None:
    env = {"SEQLENS_CACHE": str(tmp_path)}
    path = str(repository / "rnn-onnx")
    shown = seqlens("verify", path, env=env)
    assert shown.returncode == 0
    assert "by_length" in shown.stdout
    proof: Any = json.loads(seqlens("verify", path, "--json", env=env).stdout)
    assert proof["strategy"] == "by_length"
    assert proof["proof"]["padded_error"] <= proof["proof"]["allowed_error"]


class SpoiltByPadding(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        padded = (tokens == 0).any(1, keepdim=True)
        mean = tokens.float().mean(1, keepdim=True)
        return torch.where(padded, torch.full_like(mean, float("nan")), mean)


def test_verify_tells_an_infinite_error_from_one_that_was_not_tried(
    seqlens: Run, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt.pt"
    with quiet():
        torch.jit.save(made(SpoiltByPadding()), path)
    facts: Any = json.loads(seqlens("verify", str(path), "--json").stdout)
    assert facts["strategy"] == "equal_length"
    assert facts["proof"]["padded_error"] == "inf"
    assert facts["proof"]["exported_error"] is None
