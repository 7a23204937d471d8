"""Running TorchScript modules on lanes, so that an answer depends on nothing but its inputs."""

from dataclasses import replace
from pathlib import Path

import torch

from seqlens.backends.base import Capabilities, LoadOptions
from seqlens.backends.devices import choose_device
from seqlens.backends.tapped import TappedModel
from seqlens.backends.torchscript_file import read_module
from seqlens.backends.torchscript_runner import Runner
from seqlens.backends.torchscript_tapped import TorchScriptTapped
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.signature import Signature, as_stated
from seqlens.graphs.torchscript_flow import Flow
from seqlens.graphs.torchscript_graph import read_torchscript
from seqlens.graphs.torchscript_state import kept_attributes
from seqlens.sequences import Array, Tensors


def load(path: Path, options: LoadOptions) -> "TorchScriptEngine":
    """Load a file on the device that ``options`` names and find its anatomy."""
    device = choose_device(
        options.device,
        torch.cuda.device_count() if torch.cuda.is_available() else 0,
        library=f"torch {torch.__version__}",
        advice="For CUDA, install a torch that is built with it, and a driver",
    )
    module = read_module(path, str(device))
    keeps_state = bool(kept_attributes(Flow(module)))
    runner = Runner(module, device, keeps_state, options.signature or Signature())
    anatomy = options.anatomy or _find_anatomy(path, runner, options)
    return TorchScriptEngine(runner, anatomy)


def _find_anatomy(path: Path, runner: Runner, options: LoadOptions) -> ModelAnatomy:
    missing = runner.unserved_arguments()
    if missing:
        raise ModelRejected(
            f"{path.name}: forward takes {', '.join(missing)}, but inputs have to be tensors or "
            "numbers: wrap the model so that each tensor is an argument of its own, export again"
        )
    reading = as_stated(read_torchscript(runner.module), runner.signature)
    required = tuple(i for i in reading.inputs if i.name in runner.required_inputs())
    if runner.signature.inputs:  # all others keep their default, as with the declarer's server
        required = tuple(
            i for i in reading.inputs if i in required or runner.signature.input(i.name)
        )
        reading = replace(reading, inputs=required)
    try:
        return find_anatomy(reading, runner.run, options.overrides)
    except ModelRejected:
        if len(required) == len(reading.inputs):
            raise
    # Some optional argument cannot be given together with the others: leave all at their default.
    return find_anatomy(replace(reading, inputs=required), runner.run, options.overrides)


class TorchScriptEngine:
    """A loaded module. ``run`` may be called from several threads at the same time.

    Sets torch's threads to one for each thread that runs it: lanes are the parallelism.
    """

    def __init__(self, runner: Runner, anatomy: ModelAnatomy) -> None:
        self._runner: Runner | None = runner
        self._anatomy = anatomy
        self._capabilities = Capabilities(
            device=runner.device, concurrent_runs=True, keeps_state=runner.keeps_state
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    @property
    def anatomy(self) -> ModelAnatomy:
        """The anatomy of the module."""
        return self._anatomy

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run once. Inputs have exactly the datatypes of the anatomy; see ``Engine.run``."""
        if self._runner is None:
            raise BackendFailed("the TorchScript engine is closed")
        return self._runner.run(inputs)

    def tapped(self) -> TappedModel | None:
        """The same model, opened up; see ``seqlens.backends.base.Engine``."""
        if self._runner is None:
            raise BackendFailed("the TorchScript engine is closed")
        return TorchScriptTapped(self._runner, self._anatomy)

    def close(self) -> None:
        """Let go of the module."""
        self._runner = None
