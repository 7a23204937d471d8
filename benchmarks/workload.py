"""The models and the sequences that all benchmarks share."""

import argparse
import math
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 8_192
CLASSES = 16
MODELS = ("rnn", "lstm", "transformer")
LENGTH_RANGES = ((1, 32), (33, 256), (257, 1024))


@dataclass(frozen=True)
class Workload:
    sequences: tuple[NDArray[np.int64], ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(sequence) for sequence in self.sequences], np.int64)


def mixed(count: int, seed: int = 0) -> Workload:
    """Log-normal lengths: median 64, sigma 1, clipped to 8..1024."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(math.log(64), 1.0, count), 8, 1024).astype(int)
    return Workload(tuple(rng.integers(1, VOCABULARY, length) for length in lengths))


def export_all(repository: Path, names: Sequence[str] = MODELS) -> None:
    """Write the benchmark models, each from a process of its own; present ones are kept."""
    context = multiprocessing.get_context("spawn")
    for name in names:
        path = repository / name / "1" / "model.onnx"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=_export, args=(name, path))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"export of {name} failed")


def _export(name: str, path: Path) -> None:
    import torch

    torch.manual_seed(0)
    with warnings.catch_warnings():
        # The exporter that keeps RNN operators whole announces its own end; see the zoo's notes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _body(name).eval(),
            (torch.randint(1, VOCABULARY, (2, 12)), torch.tensor([12, 7])),
            str(path),
            input_names=["tokens", "lengths"],
            output_names=["logits"],
            dynamic_axes={"tokens": {0: "batch", 1: "sequence"}, "lengths": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def _body(name: str):  # type: ignore[no-untyped-def]
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self, kind: type[nn.Module], hidden: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, hidden)
            self.net = kind(hidden, hidden, num_layers=4, batch_first=True)  # type: ignore[call-arg]
            self.head = nn.Linear(hidden, CLASSES)

        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            steps, _ = self.net(self.embedding(tokens))
            index = (lengths - 1).reshape(-1, 1, 1).expand(-1, 1, steps.shape[2])
            return self.head(steps.gather(1, index)[:, 0])

    class Transformer(nn.Module):
        width, heads, layers = 256, 8, 4

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, self.width)
            self.positions = nn.Embedding(1024, self.width)
            self.qkv = nn.ModuleList(nn.Linear(256, 768) for _ in range(self.layers))
            self.out = nn.ModuleList(nn.Linear(256, 256) for _ in range(self.layers))
            self.up = nn.ModuleList(nn.Linear(256, 1024) for _ in range(self.layers))
            self.down = nn.ModuleList(nn.Linear(1024, 256) for _ in range(self.layers))
            self.norms = nn.ModuleList(nn.LayerNorm(256) for _ in range(2 * self.layers))
            self.head = nn.Linear(256, CLASSES)

        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            batch, steps = tokens.shape
            places = torch.arange(steps)
            padding = places.unsqueeze(0) >= lengths.unsqueeze(1)
            bias = padding[:, None, None, :].to(torch.float32) * -1e9
            x = self.embedding(tokens) + self.positions(places)
            for layer in range(self.layers):
                q, k, v = (
                    part.reshape(batch, steps, self.heads, 32).transpose(1, 2)
                    for part in self.qkv[layer](x).chunk(3, dim=-1)
                )
                weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(32) + bias, dim=-1)
                mixed_values = (weights @ v).transpose(1, 2).reshape(batch, steps, self.width)
                x = self.norms[2 * layer](x + self.out[layer](mixed_values))
                hidden = nn.functional.gelu(self.up[layer](x))
                x = self.norms[2 * layer + 1](x + self.down[layer](hidden))
            index = (lengths - 1).reshape(-1, 1, 1).expand(-1, 1, self.width)
            return self.head(x.gather(1, index)[:, 0])

    if name == "transformer":
        return Transformer()
    return Recurrent(nn.LSTM, 320) if name == "lstm" else Recurrent(nn.RNN, 656)


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--count", type=int, default=300, help="sequences a measurement")
    parser.add_argument("--lanes", type=int, default=2, help="single-threaded runs at a time")
    parser.add_argument("--repository", type=Path, default=Path("build/benchmark-repository"))
    return parser
