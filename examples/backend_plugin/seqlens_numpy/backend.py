"""Elman networks in NumPy archives: h_t = tanh(W x_t + U h_{t-1} + b), logits = V h_length."""

import zipfile
from pathlib import Path

import numpy as np

from seqlens.backends.base import Capabilities, Device, Engine, LoadOptions
from seqlens.errors import BackendFailed, DeviceMissing, ModelRejected
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
    ParameterGroup,
    RecurrentLayer,
)
from seqlens.sequences import Array, Tensors

ARRAYS = ("embedding", "input_weight", "recurrent_weight", "bias", "output_weight")


class NumpyBackend:
    """Serves ``.npz`` files that hold the five arrays of an Elman network."""

    name = "numpy"
    platform = "numpy_elman"
    suffixes = (".npz",)

    def versions(self) -> dict[str, str]:
        """NumPy's version: another one may round differently."""
        return {"numpy": np.__version__}

    def load(self, path: Path, options: LoadOptions) -> Engine:
        """Read an archive. Raises ``ModelRejected`` and ``DeviceMissing``."""
        if options.device.kind not in ("auto", "cpu"):
            raise DeviceMissing(f"device {options.device}: NumPy runs on the CPU, use cpu or auto")
        weights = read_weights(path)
        return NumpyEngine(weights, options.anatomy or describe(weights))


class NumpyEngine:
    """One network. Its weights are only read, so any number of threads may run it."""

    capabilities = Capabilities(device=Device("cpu"), concurrent_runs=True)

    def __init__(self, weights: dict[str, Array], anatomy: ModelAnatomy) -> None:
        self._weights = weights
        self.anatomy = anatomy

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Tokens int64 [batch, time] and lengths int64 [batch] to logits [batch, classes]."""
        try:
            return self._run(inputs["tokens"], inputs["lengths"])
        except (KeyError, ValueError, IndexError) as error:
            raise BackendFailed(f"the network cannot run on these inputs: {error}") from error

    def tapped(self) -> None:
        """There is no looking inside these networks."""

    def close(self) -> None:
        """Let go of the weights."""
        self._weights = {}

    def _run(self, tokens: Array, lengths: Array) -> dict[str, Array]:
        if tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
            raise ValueError(f"tokens {tokens.shape} and lengths {lengths.shape} do not match")
        hidden = self._hidden_states(tokens)
        last = hidden[np.arange(len(tokens)), lengths - 1]
        return {"logits": last @ self._weights["output_weight"].T, "hidden": hidden}

    def _hidden_states(self, tokens: Array) -> Array:
        w = self._weights
        projected = w["embedding"][tokens] @ w["input_weight"].T + w["bias"]
        state = np.zeros_like(projected[:, 0])
        states = np.empty_like(projected)
        for step in range(tokens.shape[1]):
            state = np.tanh(projected[:, step] + state @ w["recurrent_weight"].T)
            states[:, step] = state
        return states


def read_weights(path: Path) -> dict[str, Array]:
    """The five arrays as float32. Raises ``ModelRejected`` for any other file."""
    try:
        # Without pickle, loading runs no code from the file.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name].astype(np.float32) for name in ARRAYS}
    except KeyError as error:
        raise ModelRejected(f"{path.name} is no Elman network: {error}; see ARRAYS") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelRejected(
            f"{path.name} is no NumPy archive, or it is damaged: {error}"
        ) from error


def describe(weights: dict[str, Array]) -> ModelAnatomy:
    """The anatomy, known from the format: nothing has to be probed."""
    hidden, features = weights["input_weight"].shape
    vocabulary, classes = len(weights["embedding"]), len(weights["output_weight"])
    recurrent = sum(weights[n].size for n in ("input_weight", "recurrent_weight", "bias"))
    return ModelAnatomy(
        inputs=(
            InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, vocabulary),
            InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
        ),
        outputs=(
            OutputAnatomy("logits", "FP32", (-1, classes), OutputRole.PER_SEQUENCE, 0),
            OutputAnatomy("hidden", "FP32", (-1, -1, hidden), OutputRole.PER_STEP, 0, (1,)),
        ),
        architecture=Architecture.RNN,
        evidence=("the file format holds Elman networks only",),
        sequential_depth="O(n)",
        recurrent_layers=(
            RecurrentLayer("elman", "rnn", "forward", features, hidden, operator="numpy"),
        ),
        parameters=(
            ParameterGroup("embedding", weights["embedding"].size),
            ParameterGroup("recurrent", recurrent),
            ParameterGroup("dense", weights["output_weight"].size),
        ),
        producer="numpy",
    )
