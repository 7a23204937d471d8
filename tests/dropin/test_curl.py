"""curl, as people type it: JSON and binary, compressed, chunked, old HTTP, and errors."""

import gzip
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

HEADER_LENGTH = "inference-header-content-length"
Answers = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer that curl got, and the status lines of all of them."""

    status: int
    lines: list[str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"].startswith("application/json")
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Curl:
    """curl with a folder for what it writes."""

    program: str
    address: str
    folder: Path

    def __call__(self, path: str, *arguments: str) -> Answer:
        headers, body = self.folder / "headers", self.folder / "body"
        written = ("--dump-header", str(headers), "--output", str(body))
        body.write_bytes(b"")  # curl leaves it alone where there is nothing to write
        subprocess.run(
            [self.program, "-sS", "-m", "20", *written, *arguments, f"http://{self.address}{path}"],
            check=True,
            capture_output=True,
            timeout=30,
        )
        blocks = headers.read_text().strip().split("\n\n")
        fields = dict(line.split(": ", 1) for line in blocks[-1].splitlines()[1:])
        lines = [block.splitlines()[0] for block in blocks]
        return Answer(
            status=int(lines[-1].split()[1]),
            lines=lines,
            headers={name.lower(): value for name, value in fields.items()},
            body=body.read_bytes(),
        )

    def file(self, data: bytes) -> str:
        """Data as an argument of --data-binary."""
        path = self.folder / "data"
        path.write_bytes(data)
        return f"@{path}"


@pytest.fixture
def curl(rest: str, tmp_path: Path) -> Curl:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not on PATH")
    return Curl(program, rest, tmp_path)


@pytest.fixture(scope="module")
def message(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[str, Any]:
    """A request as people write it."""
    return {
        "id": "by curl",
        "inputs": [
            tensor("tokens", tokens) | {"data": tokens.tolist()},
            tensor("lengths", lengths) | {"data": lengths.tolist()},
        ],
    }


def tensor(name: str, array: NDArray[np.int64]) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": "INT64"}


def check(answer: Answer, expected: Answers) -> None:
    """The answer in JSON is PyTorch's."""
    assert answer.status == 200, answer.body
    told = answer.json
    assert (told["id"], told["model_name"]) == ("by curl", "lstm-onnx")
    [output] = told["outputs"]
    logits = np.array(output["data"], np.float32).reshape(output["shape"])
    np.testing.assert_allclose(logits, expected["lstm"], atol=1e-5)


INFER = "/v2/models/lstm-onnx/infer"


@pytest.mark.parametrize(
    "options",
    [
        ["-H", "Content-Type: application/json"],
        [],  # curl says that it is a form
        ["-H", "Content-Type:"],  # says nothing
        ["--http1.0"],
        ["--http1.1", "-H", "Transfer-Encoding: chunked"],
        ["--http2"],  # asks to change the protocol, which is declined by not doing it
        ["--compressed"],
    ],
)
def test_json_in_and_json_out(
    options: list[str], curl: Curl, message: dict[str, Any], expected: Answers
) -> None:
    check(curl(INFER, "-d", json.dumps(message), *options), expected)


def test_a_path_with_version_query_and_percent_signs(
    curl: Curl, message: dict[str, Any], expected: Answers
) -> None:
    path = "/v2/models/lstm%2Donnx/versions/1/infer?why=because"
    check(curl(path, "--data-binary", curl.file(json.dumps(message).encode())), expected)


def test_a_large_body_waits_for_the_server_to_go_on(curl: Curl, expected: Answers) -> None:
    tokens = np.full((8, 4_000), 5)
    body = json.dumps({"inputs": [tensor("tokens", tokens) | {"data": tokens.tolist()}]})
    padded = f"{body:<1200000}".encode()
    waits = ("-H", "Expect: 100-continue")
    answer = curl(INFER, *waits, "--expect100-timeout", "20", "--data-binary", curl.file(padded))
    assert answer.lines == ["HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"]
    assert answer.json["outputs"][0]["shape"] == [8, 40]


def test_an_upload_without_a_length(curl: Curl, message: dict[str, Any], expected: Answers) -> None:
    body = curl.file(json.dumps(message).encode())[1:]
    chunked = ("-X", "POST", "-T", body, "-H", "Transfer-Encoding: chunked")
    check(curl(INFER, *chunked), expected)


def test_a_gzipped_body_and_a_gzipped_answer(
    curl: Curl, message: dict[str, Any], expected: Answers
) -> None:
    body = curl.file(gzip.compress(json.dumps(message).encode()))
    asked = ("-H", "Content-Encoding: gzip", "-H", "Accept-Encoding: gzip", "--data-binary", body)
    answer = curl(INFER, *asked)
    assert answer.headers["content-encoding"] == "gzip"
    plain = Answer(answer.status, answer.lines, answer.headers, gzip.decompress(answer.body))
    check(plain, expected)


def test_binary_in_and_binary_out(
    curl: Curl, tokens: NDArray[np.int64], lengths: NDArray[np.int64], expected: Answers
) -> None:
    arrays = {"tokens": tokens, "lengths": lengths}
    text = json.dumps(
        {
            "inputs": [
                tensor(name, array) | {"parameters": {"binary_data_size": array.nbytes}}
                for name, array in arrays.items()
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    body = curl.file(text + tokens.tobytes() + lengths.tobytes())
    answer = curl(INFER, "-H", f"{HEADER_LENGTH}: {len(text)}", "--data-binary", body)
    assert answer.status == 200, answer.body
    length = int(answer.headers[HEADER_LENGTH])
    [output] = json.loads(answer.body[:length])["outputs"]
    logits = np.frombuffer(answer.body[length:], np.float32).reshape(output["shape"])
    np.testing.assert_allclose(logits, expected["lstm"], atol=1e-5)


@pytest.mark.parametrize(
    "path",
    ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/lstm-onnx/ready", "/v1/models"],
)
def test_head_tells_what_get_would(path: str, curl: Curl) -> None:
    got, asked = curl(path), curl(path, "--head")
    assert asked.status == got.status == 200
    assert asked.body == (curl.folder / "headers").read_bytes()  # curl writes them in its place
    assert asked.headers["content-length"] == str(len(got.body))
    assert asked.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v2/nothing", [], 404),
        (INFER, [], 405),
        ("/v2", ["-X", "DELETE"], 405),
        ("/v2/models/nowhere/infer", ["-d", '{"inputs": []}'], 404),
        (INFER, ["-d", ""], 400),
        (INFER, ["-d", '{"inputs": ['], 400),
        (INFER, ["-d", '{"inputs": [{"name": "tokens"}]}'], 400),
        (INFER, ["-d", "x", "-H", "Content-Encoding: gzip"], 400),
        (INFER, ["-d", "x", "-H", "Content-Encoding: snappy"], 415),
        (INFER, ["-d", "{}", "-H", f"{HEADER_LENGTH}: 99"], 400),
    ],
)
def test_every_error_is_json_with_a_text(
    path: str, options: list[str], status: int, curl: Curl
) -> None:
    answer = curl(path, *options)
    assert answer.status == status
    assert isinstance(answer.json["error"], str)
    assert answer.json["error"]


def test_one_connection_for_several_requests(curl: Curl) -> None:
    target = f"http://{curl.address}/v2/health/live"
    told = subprocess.run(
        [curl.program, "-sS", "-w", "%{num_connects} ", *2 * ["-o", "/dev/null", target]],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == ["1", "0"]
