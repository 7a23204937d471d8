"""Exact gradients by autograd, on a copy of the module that nobody else sees.

The copy is its own because the table of embeddings has to be marked as one to differentiate by,
and runs that see the mark keep their intermediate results.
"""

from typing import Any

import torch
from torch import Tensor
from torch.jit._fuser import optimized_execution

from seqlens.backends.tapped import Seen
from seqlens.backends.torchscript_calls import Call, OperatorMode, operator_of, tensors_in
from seqlens.backends.torchscript_file import private_copy
from seqlens.backends.torchscript_runner import Runner, as_array, leaves, use_one_thread
from seqlens.backends.torchscript_tracking import Nature
from seqlens.backends.torchscript_watch import Place, Wanted, Watch
from seqlens.sequences import Array, Tensors

HIDDEN = "hidden"
_ALIKE = {"rtol": 1e-3, "atol": 1e-5}  # kernels that can be differentiated round otherwise


class Differentiable:
    """A private copy of a module whose answers can be differentiated by its embedding."""

    def __init__(self, runner: Runner, embedding: Place | None, features: str | None) -> None:
        copied = private_copy(runner.module, str(runner.device))
        for parameter in copied.parameters():
            parameter.requires_grad_(False)
        self._runner = Runner(copied, runner.device, False, runner.signature)
        self._place, self._features = embedding, features

    def mark(self, inputs: Tensors) -> None:
        """Have the table of embeddings differentiated by. To be called once, before all else."""
        if self._features is None and self._place is not None:
            finder = _TableFinder(self._place)
            self._runner.run(inputs, finder)
            if finder.table is not None and finder.table.is_floating_point():
                finder.table.requires_grad_(True)

    def gradient(self, inputs: Tensors, output: str, weights: Array, seen: Seen) -> Array | None:
        """Derivative of ``sum(weights * output)`` by the embedding.

        ``seen`` tells what the embedding and the hidden vectors are on these inputs. None where
        torch cannot differentiate the module.
        """
        use_one_thread()
        finder = _ValueFinder(seen)
        try:
            with torch.inference_mode(False), torch.enable_grad(), optimized_execution(False):
                arguments = self._runner.arguments(inputs)
                if self._features is not None:
                    finder.embedding = arguments[self._features].clone().requires_grad_()
                    arguments[self._features] = finder.embedding
                with finder:
                    result = self._runner.module(**arguments)
                named = self._runner.named(leaves(result))
                target = finder.hidden if output == HIDDEN else named.get(output)
                return _derivative(target, weights, finder)
        except RuntimeError:  # an operator without a derivative: quantised and fused kernels
            return None


def _derivative(target: Any, weights: Array, finder: "_ValueFinder") -> Array | None:
    source = finder.embedding
    if source is None or not isinstance(target, Tensor) or not target.requires_grad:
        return None
    given = torch.tensor(weights).to(target.device, target.dtype)
    if given.shape != target.shape:  # hidden vectors of a module that puts time first
        given = given.reshape(target.shape) if given.dim() > target.dim() else given.swapaxes(0, 1)
    (found,) = torch.autograd.grad((target * given).sum(), source, allow_unused=True)
    return as_array(torch.zeros_like(source) if found is None else found)


class _TableFinder(Watch):
    """Catches the table that the embedding is looked up in."""

    def __init__(self, place: Place) -> None:
        super().__init__(Wanted())
        self.table: Tensor | None = None
        self._place = place

    def noted(self, place: Place, call: Call, result: Any, nature: Nature) -> None:
        """Keep the table of the one call."""
        super().noted(place, call, result, nature)
        if place == self._place:
            self.table = call.tensors[0]


class _ValueFinder(OperatorMode):
    """Catches embedding and hidden vectors by their values.

    With autograd the mode sees other, smaller operators than without, so their order tells
    nothing. What it returns becomes part of autograd's graph behind its back.
    """

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.embedding: Tensor | None = None
        self._found: list[Tensor] = []
        self._embedding = None if seen.embedding is None else torch.as_tensor(seen.embedding)
        self._hidden = None if seen.hidden is None else torch.as_tensor(seen.hidden)

    @property
    def hidden(self) -> Tensor | None:
        """The last tensor with the hidden vectors that can be differentiated."""
        return next((t for t in reversed(self._found) if t.requires_grad), None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the operator and compare what it gives."""
        result = func(*args, **(kwargs or {}))
        if operator_of(func).writes:
            return result
        for tensor in tensors_in(result):
            if self.embedding is None and _same(tensor, self._embedding):
                self.embedding = tensor
            if self._hidden is not None and _is_hidden(tensor, self._hidden):
                self._found.append(tensor)
        return result


def _same(tensor: Tensor, expected: Tensor | None) -> bool:
    return (
        expected is not None
        and tensor.shape == expected.shape
        and tensor.is_floating_point()
        and torch.equal(tensor.detach().cpu(), expected.to(tensor.dtype))
    )


def _is_hidden(tensor: Tensor, expected: Tensor) -> bool:
    if tensor.is_nested or not tensor.is_floating_point() or tensor.numel() != expected.numel():
        return False
    vectors = tensor.detach().cpu().to(expected.dtype)
    forms = (expected, expected.swapaxes(0, 1), expected[0])
    return any(
        vectors.shape == form.shape and torch.allclose(vectors, form, **_ALIKE, equal_nan=True)
        for form in forms
    )
