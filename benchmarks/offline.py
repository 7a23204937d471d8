"""What the hardware allows without a server: the yardsticks for ``serve.py``.

Each method runs the same sequences on one session shared by the same number of single-threaded
lanes. Ratios are to "one by one", within this run.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from workload import Workload, arguments, export_all, mixed

Batch = Sequence[NDArray[np.int64]]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_batch(model: onnxruntime.InferenceSession, batch: Batch) -> None:
    lengths = np.array([len(row) for row in batch], np.int64)
    tokens = np.zeros((len(batch), int(lengths.max())), np.int64)
    for row, sequence in zip(tokens, batch, strict=True):
        row[: len(sequence)] = sequence
    model.run(None, {"tokens": tokens, "lengths": lengths})


def rate(model: onnxruntime.InferenceSession, batches: Iterable[Batch], lanes: int) -> float:
    """Sequences a second over all lanes."""
    work = list(batches)
    started = time.perf_counter()
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lambda batch: run_batch(model, batch), work))
    return sum(len(batch) for batch in work) / (time.perf_counter() - started)


def one_by_one(workload: Workload) -> list[Batch]:
    return [[sequence] for sequence in workload.sequences]


def arrival_order(workload: Workload, size: int = 16) -> list[Batch]:
    rows = workload.sequences
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def oracle(workload: Workload, budget: int) -> list[Batch]:
    """All sequences known in advance, longest first, packed under a budget of padded tokens."""
    batches: list[list[NDArray[np.int64]]] = []
    for sequence in sorted(workload.sequences, key=len, reverse=True):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= budget:
            batches[-1].append(sequence)
        else:
            batches.append([sequence])
    return batches


def padding_share(batches: Iterable[Batch]) -> float:
    work = list(batches)
    real = sum(len(row) for batch in work for row in batch)
    padded = sum(len(batch) * max(len(row) for row in batch) for batch in work)
    return 1 - real / padded


def matrix_product_peak(lanes: int, seconds: float = 0.5) -> float:
    """Billions of operations a second of a 768 x 768 product on single-threaded lanes."""
    import torch

    torch.set_num_threads(1)
    left, right = torch.randn(768, 768), torch.randn(768, 768)

    def loop(_: int) -> int:
        ended, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < ended:
            torch.mm(left, right)
            count += 1
        return count

    with ThreadPoolExecutor(lanes) as pool:
        return sum(pool.map(loop, range(lanes))) * 2 * 768**3 / seconds / 1e9


METHODS: dict[str, Callable[[Workload], list[Batch]]] = {
    "one by one": one_by_one,
    "arrival order, 16": arrival_order,
    "oracle, 512 tokens": lambda workload: oracle(workload, 512),
    "oracle, 2048 tokens": lambda workload: oracle(workload, 2048),
    "oracle, 4096 tokens": lambda workload: oracle(workload, 4096),
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    export_all(options.repository, options.models)
    workload = mixed(options.count)
    print(f"{options.count} sequences, {options.lanes} lanes of one thread")
    print(f"matrix product peak: {matrix_product_peak(options.lanes):.0f} GFLOP/s\n")
    print(f"{'model':12} {'method':20} {'seq/s':>8} {'ratio':>6} {'padding':>8}")
    for name in options.models:
        model = session(options.repository / name / "1" / "model.onnx")
        rate(model, one_by_one(workload)[:32], options.lanes)  # warm up
        alone = 0.0
        for method, batching in METHODS.items():
            batches = batching(workload)
            measured = rate(model, batches, options.lanes)
            alone = alone or measured
            print(
                f"{name:12} {method:20} {measured:8.1f} {measured / alone:6.2f}"
                f" {padding_share(batches):8.1%}"
            )


if __name__ == "__main__":
    main()
