"""Running TorchScript modules on lanes, so that an answer depends on nothing but its inputs."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.jit._fuser import optimized_execution

from seqlens.backends.base import Capabilities, Device, LoadOptions
from seqlens.backends.devices import choose_device
from seqlens.backends.tapped import TappedModel
from seqlens.backends.torchscript_file import read_module
from seqlens.errors import BackendFailed, ModelRejected
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.signature import Signature, as_stated, stated_names
from seqlens.graphs.torchscript_flow import Flow
from seqlens.graphs.torchscript_graph import PLAIN_DATATYPES, read_torchscript, served_arguments
from seqlens.graphs.torchscript_state import kept_attributes
from seqlens.sequences import Array, Tensors

Module = Any  # torch.jit.ScriptModule: its methods are made at run time


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


def _find_anatomy(path: Path, runner: "Runner", options: LoadOptions) -> ModelAnatomy:
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


class Runner:
    """One module and how to call it, by the names that ``signature`` declares."""

    def __init__(
        self, module: Module, device: Device, keeps_state: bool, signature: Signature
    ) -> None:
        self.module = module
        self.device = device
        self.keeps_state = keeps_state
        self.signature = signature
        served = served_arguments(module)
        self._to_argument = {
            argument.name: _plain if str(argument.type) in PLAIN_DATATYPES else self._tensor
            for argument in served
        }
        names = stated_names([a.name for a in served], signature.inputs, signature.source)
        self._argument_of = {names.get(a.name, a.name): a.name for a in served}

    def unserved_arguments(self) -> list[str]:
        """Arguments without a default that cannot be inputs, each with its type."""
        return [
            f"{argument.name} ({argument.type})"
            for argument in self.module.forward.schema.arguments[1:]
            if argument.name not in self._to_argument and not argument.has_default_value()
        ]

    def required_inputs(self) -> set[str]:
        """Inputs whose arguments have no default."""
        arguments = self.module.forward.schema.arguments[1:]
        required = {a.name for a in arguments if not a.has_default_value()}
        return {name for name, argument in self._argument_of.items() if argument in required}

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Run once on the calling thread; see ``Engine.run``. Raises ``BackendFailed``."""
        _use_one_thread()
        # Unoptimised: the profiling executor recompiles on the first calls, which then take up to
        # 140 ms instead of 1, and fuses what it saw later, so that equal calls may differ. Whole
        # recurrent and attention operators gain nothing from it (measured with torch 2.13).
        try:
            with torch.inference_mode(), optimized_execution(False):
                given = {self._argument_of[name]: array for name, array in inputs.items()}
                arguments = {n: self._to_argument[n](np.asarray(a)) for n, a in given.items()}
                answers = _arrays(self._callee()(**arguments))
        except Exception as error:  # whatever the module raises is the module's own failure
            raise BackendFailed(f"the TorchScript module failed: {_reason(error)}") from error
        return self._called(answers)

    def _called(self, answers: dict[str, Array]) -> dict[str, Array]:
        """The answers under the names that are declared for them."""
        declared = self.signature.outputs
        if not declared:
            return answers
        names = stated_names(list(answers), declared, self.signature.source)
        return {names.get(name, name): array for name, array in answers.items()}

    def _callee(self) -> Callable[..., Any]:
        """The module, or a copy that nobody else touches if running it changes it."""
        module: Callable[..., Any] = self.module
        return copy.deepcopy(module) if self.keeps_state else module

    def _tensor(self, array: Array) -> torch.Tensor:
        # torch warns of arrays that it could write to but must not; nothing here writes to them.
        writeable = array if array.flags.writeable else array.copy()
        return torch.from_numpy(np.ascontiguousarray(writeable)).to(str(self.device))


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
        return None

    def close(self) -> None:
        """Let go of the module."""
        self._runner = None


def _use_one_thread() -> None:
    # Setting it once at load would miss threads that have used torch before: each has its own.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _plain(array: Array) -> bool | int | float:
    value: bool | int | float = array.item()
    return value


def _arrays(result: Any) -> dict[str, Array]:
    leaves = list(_leaves(result, ""))
    return {name or f"output_{i}": _array(leaf) for i, (name, leaf) in enumerate(leaves)}


def _leaves(result: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every tensor of a result with its name, empty where it has only a place."""
    if isinstance(result, dict):
        for key, part in result.items():
            yield from _leaves(part, f"{name}_{key}" if name else str(key))
    elif isinstance(result, tuple | list):
        fields = getattr(result, "_fields", ())
        for number, part in enumerate(result):
            numbered = f"{name}_{number}" if name else ""
            yield from _leaves(part, fields[number] if fields and not name else numbered)
    elif result is not None:  # an optional output that is left out
        yield name, result


def _array(leaf: Any) -> Array:
    if not isinstance(leaf, torch.Tensor):
        return np.asarray(leaf)
    on_cpu = leaf.detach().cpu()
    # NumPy has no bfloat16; float32 holds each of its values exactly.
    array: Array = (on_cpu.float() if on_cpu.dtype is torch.bfloat16 else on_cpu).numpy()
    return array


def _reason(error: Exception) -> str:
    """The last line that says something: TorchScript puts a traceback of its source before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
