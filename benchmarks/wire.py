"""What SeqLens adds to the wire: a model that costs nothing, beside handlers that do nothing.

``bare.py`` answers the same bytes on the same libraries without doing anything. Each server has
one core to itself, its callers the other; the two take turns, and medians of the rounds are
shown. Needs ``wrk`` and ``h2load`` (Debian: wrk, nghttp2-client) and two cores.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper
from wire_clients import batch_request, infer_request

from seqlens_wire.pb import open_inference_pb2 as oip

LENGTH = 64
BATCH = 32
SERVER_CORE, CLIENT_CORE = "0", "1"
BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True)
class Server:
    pid: int
    rest: str
    grpc: str

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@dataclass(frozen=True)
class Rate:
    requests: float  # a second
    cpu_microseconds: float  # of the server, for each request


Measure = Callable[[Server, float, Path], int]  # seconds, scratch folder -> requests answered


def write_model(folder: Path) -> None:
    """A table that is asked for the first token: pads do not matter, and it costs nothing."""
    nodes = [
        helper.make_node("Gather", ["tokens", "first"], ["ids"], axis=1),
        helper.make_node("Gather", ["table", "ids"], ["logits"]),
    ]
    table = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "nothing",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [
            onnx.numpy_helper.from_array(np.array(0, np.int64), "first"),
            onnx.numpy_helper.from_array(table, "table"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "nothing" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path)


@contextmanager
def running(*command: str) -> Iterator[Server]:
    pinned = ["taskset", "-c", SERVER_CORE, sys.executable, *command]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(pinned, stdout=subprocess.PIPE, stderr=quiet, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith("ready"):
            sys.exit(f"{command} did not start")
        address = dict(part.split("=", 1) for part in ready.split()[1:])
        try:
            yield Server(process.pid, address["rest"], address["grpc"])
        finally:
            process.terminate()


def on_client_core(*command: str) -> str:
    return subprocess.run(
        ["taskset", "-c", CLIENT_CORE, *command], check=True, capture_output=True, text=True
    ).stdout


def http(headers: Mapping[str, str], body: bytes) -> Measure:
    def measure(server: Server, seconds: float, scratch: Path) -> int:
        (scratch / "body").write_bytes(body)
        lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
        lines += ['wrk.method = "POST"', f'wrk.body = io.open("{scratch}/body", "rb"):read("*a")']
        (scratch / "post.lua").write_text("\n".join(lines))
        url = f"http://{server.rest}/v2/models/nothing/infer"
        script = ["-s", str(scratch / "post.lua"), url]
        out = on_client_core("wrk", "-t1", "-c32", f"-d{seconds:g}s", *script)
        if "Non-2xx" in out or "Socket errors" in out:
            sys.exit(out)
        found = re.search(r"(\d+) requests in", out)
        assert found is not None
        return int(found[1])

    return measure


def unary(method: str, message: bytes) -> Measure:
    def measure(server: Server, seconds: float, scratch: Path) -> int:
        frame = scratch / "frame"
        frame.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        out = on_client_core(
            "h2load", "-t1", "-c4", "-m8", f"-D{seconds:g}", "-d", str(frame),
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"http://{server.grpc}/{method}",
        )  # fmt: skip
        found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", out)
        assert found is not None
        if int(found[2]) or int(found[3]):
            sys.exit(out)
        return int(found[1])

    return measure


def stream(server: Server, seconds: float, scratch: Path) -> int:
    script = str(BENCHMARKS / "wire_clients.py")
    return int(on_client_core(sys.executable, script, server.grpc, f"{seconds:g}"))


def json_body(tokens: list[int]) -> bytes:
    tensor = {"name": "tokens", "shape": [1, LENGTH], "datatype": "INT64", "data": tokens}
    return orjson.dumps({"inputs": [tensor]})


def binary_body(tokens: list[int]) -> tuple[dict[str, str], bytes]:
    data = np.array(tokens, np.int64).tobytes()
    tensor = {
        "name": "tokens",
        "shape": [1, LENGTH],
        "datatype": "INT64",
        "parameters": {"binary_data_size": len(data)},
    }
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return {"Inference-Header-Content-Length": str(len(head))}, head + data


def rows() -> dict[str, tuple[Measure, int]]:
    """Name -> how it is measured, and sequences in each request."""
    tokens = list(range(1, LENGTH + 1))
    service = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].name
    binary_headers, binary = binary_body(tokens)
    return {
        "REST JSON": (http({"content-type": "application/json"}, json_body(tokens)), 1),
        "REST binary": (http(binary_headers, binary), 1),
        "gRPC unary": (
            unary(f"inference.{service}/ModelInfer", infer_request(tokens).SerializeToString()),
            1,
        ),
        "gRPC stream": (stream, 1),
        f"ProcessBatch of {BATCH}": (
            unary(
                "seqlens.v1.SequenceService/ProcessBatch",
                batch_request([tokens] * BATCH).SerializeToString(),
            ),
            BATCH,
        ),
    }


def rate(measure: Measure, server: Server, seconds: float, scratch: Path) -> Rate:
    cpu, started = server.cpu_seconds(), time.perf_counter()
    requests = measure(server, seconds, scratch)
    elapsed = time.perf_counter() - started
    return Rate(requests / elapsed, (server.cpu_seconds() - cpu) / requests * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many are shown")
    parser.add_argument("--only", nargs="+", help="rows, by the beginnings of their names")
    options = parser.parse_args()
    for tool in ("wrk", "h2load", "taskset"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not on the PATH")
    print(f"{'':18} {'bare req/s':>11} {'us':>5} {'SeqLens req/s':>14} {'us':>5} "
          f"{'sequences/s':>12} {'ratio':>6}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        scratch, repository = Path(folder), Path(folder) / "repository"
        write_model(repository)
        ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--lanes", "1"]
        cache = ["--cache", str(scratch / "cache")]
        serve = ["-m", "seqlens.cli", "serve", "--repository", str(repository), *cache, *ports]
        with running(str(BENCHMARKS / "bare.py")) as bare, running(*serve) as ours:
            for name, (measure, sequences) in rows().items():
                if options.only and not name.startswith(tuple(options.only)):
                    continue
                for server in (bare, ours):
                    rate(measure, server, 1, scratch)
                pairs = [
                    (
                        rate(measure, bare, options.seconds, scratch),
                        rate(measure, ours, options.seconds, scratch),
                    )
                    for _ in range(options.rounds)
                ]
                print(shown(name, pairs, sequences), flush=True)


def shown(name: str, pairs: list[tuple[Rate, Rate]], sequences: int) -> str:
    cells = [f"{name:18}"]
    for width, side in ((11, 0), (14, 1)):
        cells.append(f"{median(pair[side].requests for pair in pairs):{width},.0f}")
        cells.append(f"{median(pair[side].cpu_microseconds for pair in pairs):5.0f}")
    ours = median(pair[1].requests for pair in pairs)
    cells.append(f"{ours * sequences:12,.0f}")
    cells.append(f"{median(ours.requests / bare.requests for bare, ours in pairs):6.2f}")
    return " ".join(cells)


if __name__ == "__main__":
    main()
