"""One TorchScript module and how to call it, alone or with something that watches its operators."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.jit._fuser import optimized_execution

from seqlens.backends.base import Device
from seqlens.errors import BackendFailed
from seqlens.graphs.signature import Signature, stated_names
from seqlens.graphs.torchscript_graph import PLAIN_DATATYPES, served_arguments
from seqlens.sequences import Array, Tensors

Module = Any  # torch.jit.ScriptModule: its methods are made at run time
T = TypeVar("T")


class Watch(Protocol):
    """What looks at a run from inside."""

    def over(self, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """Watch what is called inside of it; may change the arguments first."""

    def answered(self, result: Any) -> None:
        """Take note of what the module answered."""


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
        self.argument_of = {names.get(a.name, a.name): a.name for a in served}

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
        return {name for name, argument in self.argument_of.items() if argument in required}

    def run(self, inputs: Tensors, watch: Watch | None = None) -> dict[str, Array]:
        """Run once on the calling thread; see ``Engine.run``. Raises ``BackendFailed``."""
        use_one_thread()
        # Unoptimised: the profiling executor recompiles on the first calls, which then take up to
        # 140 ms instead of 1, and fuses what it saw later, so that equal calls may differ. Whole
        # recurrent and attention operators gain nothing from it (measured with torch 2.13).
        try:
            with torch.inference_mode(), optimized_execution(False):
                arguments = self.arguments(inputs)
                with nullcontext() if watch is None else watch.over(arguments):
                    result = self._callee()(**arguments)
                if watch is not None:
                    watch.answered(result)
                answers = arrays(result)
        except Exception as error:  # whatever the module raises is the module's own failure
            raise BackendFailed(f"the TorchScript module failed: {reason(error)}") from error
        return self.named(answers)

    def arguments(self, inputs: Tensors) -> dict[str, Any]:
        """What ``forward`` takes, by the names of its arguments."""
        given = {self.argument_of[name]: array for name, array in inputs.items()}
        return {n: self._to_argument[n](np.asarray(a)) for n, a in given.items()}

    def named(self, answers: dict[str, T]) -> dict[str, T]:
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


def use_one_thread() -> None:
    """Set torch's threads of the calling thread to one."""
    # Setting it once at load would miss threads that have used torch before: each has its own.
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _plain(array: Array) -> bool | int | float:
    value: bool | int | float = array.item()
    return value


def arrays(result: Any) -> dict[str, Array]:
    """All values that a module answered, by name."""
    return {name: as_array(leaf) for name, leaf in leaves(result).items()}


def leaves(result: Any) -> dict[str, Any]:
    """Every tensor of a result by its own name, or by its place."""
    found = enumerate(_leaves(result, ""))
    return {name or f"output_{i}": leaf for i, (name, leaf) in found}


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


def as_array(leaf: Any) -> Array:
    """A tensor or number as an array, bfloat16 as float32."""
    if not isinstance(leaf, torch.Tensor):
        return np.asarray(leaf)
    on_cpu = leaf.detach().cpu()
    # NumPy has no bfloat16; float32 holds each of its values exactly.
    array: Array = (on_cpu.float() if on_cpu.dtype is torch.bfloat16 else on_cpu).numpy()
    return array


def reason(error: Exception) -> str:
    """The last line that says something: TorchScript puts a traceback of its source before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
