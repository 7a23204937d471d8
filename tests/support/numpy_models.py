"""A backend whose models are a few lines of numpy, each with one fault or none."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from seqlens.backends.base import Capabilities, Device, LoadOptions
from seqlens.backends.plugins import FoundBackends
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import (
    WIRED_FROM,
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.sequences import Array, Tensors

SUFFIX = ".numpy"


def anatomy(**more) -> ModelAnatomy:
    """Token ids [batch, time] and lengths [batch] to an answer [batch, 3]."""
    standard = {
        "inputs": (
            InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, vocabulary_size=50),
            InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
        ),
        "outputs": (OutputAnatomy("y", "FP32", (-1, 3), OutputRole.PER_SEQUENCE, 0),),
        "architecture": Architecture.OTHER,
        "evidence": (),
        "sequential_depth": "unknown",
    }
    return ModelAnatomy(**(standard | more))


def vectors(tokens: Array) -> Array:
    table = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    return table[tokens]


def safe(tokens: Array, lengths: Array) -> Array:
    real = np.arange(tokens.shape[1])[None] < lengths[:, None]
    return (vectors(tokens) * real[..., None]).sum(1, dtype=np.float64).astype(np.float32)


def padding_leaks(tokens: Array, lengths: Array) -> Array:
    return vectors(tokens).mean(1)


def mates_leak(tokens: Array, lengths: Array) -> Array:
    answers = safe(tokens, lengths)
    return answers / np.abs(answers).max()


def random(tokens: Array, lengths: Array) -> Array:
    return safe(tokens, lengths) + np.random.default_rng().random((len(tokens), 1), np.float32)


def rows_mixed_up(tokens: Array, lengths: Array) -> Array:
    return safe(tokens, lengths)[::-1]


def nan_in_padding(tokens: Array, lengths: Array) -> Array:
    answers = safe(tokens, lengths)
    answers[lengths < tokens.shape[1]] = np.nan
    return answers


def rounding_adds_up(tokens: Array, lengths: Array) -> Array:
    noise = 1e-8 * tokens.shape[1] ** 2 if len(tokens) > 1 else 0.0
    return safe(tokens, lengths) + np.float32(noise)


def refuses_padding(tokens: Array, lengths: Array) -> Array:
    if len(set(lengths.tolist())) > 1:
        raise BackendFailed("lengths must be equal")
    return safe(tokens, lengths)


def refuses_batches(tokens: Array, lengths: Array) -> Array:
    if len(tokens) > 1:
        raise BackendFailed("one row only")
    return safe(tokens, lengths)


def refuses_all(tokens: Array, lengths: Array) -> Array:
    raise BackendFailed("never runs")


def refuses_short(tokens: Array, lengths: Array) -> Array:
    if tokens.shape[1] < 40:
        raise BackendFailed("needs a window of 40")
    return safe(tokens, lengths)


MODELS: dict[str, Callable[[Array, Array], Array]] = {
    f.__name__: f
    for f in (
        safe, padding_leaks, mates_leak, random, rows_mixed_up, nan_in_padding, refuses_padding,
        refuses_batches, refuses_all, refuses_short, rounding_adds_up,
    )
}  # fmt: skip


class NumpyEngine:
    def __init__(self, name: str, found: ModelAnatomy, *, keeps_state: bool = False) -> None:
        self._compute = MODELS[name]
        self.name, self.anatomy, self.closed, self.runs = name, found, False, 0
        self.capabilities = Capabilities(Device("cpu"), True, keeps_state)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        if self.closed:
            raise BackendFailed("closed")
        self.runs += 1
        return {"y": self._compute(inputs["tokens"], inputs["lengths"])}

    def tapped(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


def engine(name: str, **more) -> NumpyEngine:
    return NumpyEngine(name, anatomy(**more))


class NumpyBackend:
    """Reads files that hold the name of a model, "wired NAME", "raise" or "wait NAME"."""

    name, platform, suffixes = "numpy", "numpy_numpy", (SUFFIX,)

    def __init__(self) -> None:
        self.loads: list[LoadOptions] = []
        self.engines: list[NumpyEngine] = []
        self.meeting = threading.Barrier(2)
        self.version = "1"

    def versions(self) -> dict[str, str]:
        return {"numpy-models": self.version}

    def load(self, path: Path, options: LoadOptions) -> NumpyEngine:
        self.loads.append(options)
        words = path.read_text().split()
        if words[:1] == ["raise"]:
            raise RuntimeError("a backend with a fault of its own")
        if words[:1] == ["wait"]:
            self.meeting.wait(timeout=10)  # ends only when two models load at the same time
        if not words or words[-1] not in MODELS:
            raise ModelRejected(f"{path.name} is not a numpy model")
        wired = words[0] == "wired" and not options.as_exported
        name = "padding_leaks" if words[0] == "wired" and not wired else words[-1]
        details = {WIRED_FROM: "lengths"} if wired else {}
        made = NumpyEngine(name, options.anatomy or anatomy(details=details))
        self.engines.append(made)
        return made


def only(backend: NumpyBackend) -> FoundBackends:
    return FoundBackends({"numpy": backend}, {})
