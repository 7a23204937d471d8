"""Calls of torch's operators, as a dispatch mode sees them, with their operands by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Key = tuple[str, int]  # which memory a tensor lies in, while it lives


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that torch's compiler, which is not used here, need not know of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Hiding the mode from the compiler would load it: two seconds and 800 modules.
        return False


@dataclass(frozen=True, slots=True)
class Operator:
    """What is known of an operator before it is called."""

    name: str  # such as "aten::softmax", without the underscore of forms that work in place
    arguments: tuple[str, ...]
    writes: bool  # into one of its operands
    composite: bool  # made of other operators: the mode sees it whole

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Operands by their names in the schema; those left at their default are absent."""
        return {**dict(zip(self.arguments, args, strict=False)), **kwargs}


@cache
def operator_of(function: Any) -> Operator:
    """The operator that a dispatch mode is given as ``function``."""
    schema = function._schema
    name = schema.name
    if schema.is_mutable and name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return Operator(
        name=name,
        arguments=tuple(argument.name for argument in schema.arguments),
        writes=schema.is_mutable,
        composite=kernel(function.name(), "CompositeImplicitAutograd"),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator."""

    operator: Operator
    operands: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the operator."""
        return self.operator.name

    @property
    def tensors(self) -> list[Tensor]:
        """All operands that are tensors, also those in lists."""
        return list(tensors_in(self.operands.values()))

    def get(self, name: str, default: Any = None) -> Any:
        """The operand of this name."""
        return self.operands.get(name, default)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors of a value and of the tuples and lists in it."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple) or type(values) is type({}.values()):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, dict):
        yield from tensors_in(values.values())


def key_of(tensor: Tensor) -> Key:
    """The tensor's memory: views of one another have the same key."""
    try:
        return ("storage", int(tensor.untyped_storage()._cdata))
    except (RuntimeError, NotImplementedError):  # opaque tensors of oneDNN have no storage
        return ("tensor", id(tensor))
