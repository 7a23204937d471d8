"""Recurrent nets of a few lines of numpy, opened up as any tapped model is.

The equations are those of the ONNX specification, written without a look at the service's.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from seqlens.backends.tapped import Look, RecurrentTrace, Seen
from seqlens.errors import NotInModel
from seqlens.graphs.anatomy import (
    Architecture,
    Cell,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
    RecurrentLayer,
)
from seqlens.sequences import Array, InputSequence, Tensors

VOCABULARY = 30
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@dataclass(frozen=True)
class Direction:
    """Weights of one layer in one direction, gates in ONNX's order."""

    cell: Cell
    layer: int
    reverse: bool
    w: Array
    r: Array
    wb: Array
    rb: Array
    linear_before_reset: bool = True
    peepholes: Array | None = None

    @property
    def units(self) -> int:
        return self.r.shape[1]

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """One step of a batch."""
        into, back = x @ self.w.T + self.wb, h @ self.r.T
        if self.cell == "rnn":
            return np.tanh(into + back + self.rb), c
        parts = GATES[self.cell]
        wx, rh = np.split(into, parts, axis=1), np.split(back, parts, axis=1)
        b = np.split(self.rb, parts)
        if self.cell == "lstm":
            pi, po, pf = np.split(
                np.zeros(3 * self.units, x.dtype) if self.peepholes is None else self.peepholes, 3
            )
            i = sigmoid(wx[0] + rh[0] + b[0] + pi * c)
            f = sigmoid(wx[2] + rh[2] + b[2] + pf * c)
            c = f * c + i * np.tanh(wx[3] + rh[3] + b[3])
            return sigmoid(wx[1] + rh[1] + b[1] + po * c) * np.tanh(c), c
        z, r = (sigmoid(wx[k] + rh[k] + b[k]) for k in (0, 1))
        if self.linear_before_reset:
            n = np.tanh(wx[2] + r * (rh[2] + b[2]))
        else:
            n = np.tanh(wx[2] + (r * h) @ self.r[2 * self.units :].T + b[2])
        return (1 - z) * n + z * h, c

    def run(self, x: Array, lengths: Array) -> Array:
        """Hidden states [batch, time, units]; 0 beyond the lengths."""
        batch, time, _ = x.shape
        h, c = np.zeros((2, batch, self.units), x.dtype)
        hidden = np.zeros((batch, time, self.units), x.dtype)
        for t in reversed(range(time)) if self.reverse else range(time):
            real = (t < lengths)[:, None]
            after, cell = self.step(x[:, t], h, c)
            h, c = np.where(real, after, h), np.where(real, cell, c)
            hidden[:, t] = np.where(real, after, 0)
        return hidden

    def trace(self, x: Array, hidden: Array, lengths: Array) -> RecurrentTrace:
        return RecurrentTrace(
            f"{self.cell}_{self.layer}{'_reverse' if self.reverse else ''}", self.layer, self.cell,
            self.reverse, x, hidden, tuple(int(n) for n in lengths), *(
                weights.astype(np.float64) for weights in (self.w, self.r, self.wb, self.rb)
            ), np.zeros((len(x), self.units)),
            np.zeros((len(x), self.units)) if self.cell == "lstm" else None,
            self.linear_before_reset, self.peepholes,
        )  # fmt: skip


@dataclass
class NumpyRecurrent:
    """Embedding, layers, and a linear head at each step or at the last (``logits``)."""

    anatomy: ModelAnatomy
    embedding: Array
    layers: list[tuple[Direction, ...]]
    head: Array
    per_step: bool
    taps = untapped = ()
    batches: list[int] = field(default_factory=list)  # rows of each run

    def run(self, inputs: Tensors, look: Look) -> Seen:
        tokens, lengths = inputs[self.anatomy.inputs[0].name], inputs["lengths"]
        self.batches.append(len(tokens))
        features = tokens.dtype.kind == "f"
        if features and (look.embedding or look.delta is not None):
            raise NotInModel("no embedding: features are their own")
        vectors = below = tokens if features else self.embedding[tokens]
        if look.delta is not None:
            vectors = below = vectors + look.delta
        traces = []
        for layer in self.layers:
            hidden = [one.run(below, lengths) for one in layer]
            traces += [o.trace(below, h, lengths) for o, h in zip(layer, hidden, strict=True)]
            below = np.concatenate(hidden, axis=2)
        read = below if self.per_step else below[np.arange(len(tokens)), lengths - 1]
        return Seen(
            {"logits": read @ self.head.T},
            embedding=vectors if look.embedding else None,
            hidden=below if look.hidden else None,
            recurrences=tuple(traces) if look.recurrences else (),
        )

    def product_error(self, inputs: Tensors, site: str) -> float | None:
        raise NotInModel(f"no site {site!r}")

    def gradient(self, inputs: Tensors, output: str, weights: Array) -> Array | None:
        return None

    def close(self) -> None:
        pass


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def recurrent(
    cell: Cell = "lstm",
    *,
    layers: int = 1,
    directions: tuple[bool, ...] = (False,),  # of each layer, True: reverse
    per_step: bool = True,
    linear_before_reset: bool = True,
    peepholes: bool = False,
    width: int = 6,
    units: int = 5,
    scale: float = 0.6,
    back: float = 1.0,  # of the recurrent weights, times the scale
    dtype: type = np.float64,
    seed: int = 0,
    **anatomy: object,
) -> NumpyRecurrent:
    """A random net."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: (scale * random.standard_normal(shape)).astype(dtype)  # noqa: E731
    gates, stack, below = GATES[cell], [], width
    for number in range(layers):
        stack.append(tuple(
            Direction(
                cell, number, reverse, draw(gates * units, below),
                (back * draw(gates * units, units)).astype(dtype),
                draw(gates * units), draw(gates * units), linear_before_reset,
                draw(3 * units) if peepholes else None,
            )
            for reverse in directions
        ))  # fmt: skip
        below = units * len(directions)
    found = replace(_anatomy(cell, stack, width, per_step, dtype), **anatomy)
    return NumpyRecurrent(found, draw(VOCABULARY, width), stack, draw(4, below), per_step)


def features(width: int = 6) -> tuple[InputAnatomy, ...]:
    """Inputs of a net that reads vectors instead of tokens: for ``recurrent(inputs=...)``."""
    return (
        InputAnatomy("vectors", "FP64", (-1, -1, width), InputRole.SEQUENCE, 0, 1),
        InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
    )


def tokens(length: int, seed: int = 0) -> InputSequence:
    """A random sequence."""
    drawn = np.random.default_rng(seed).integers(0, VOCABULARY, length)
    return InputSequence({"tokens": drawn}, length)


def _anatomy(
    cell: Cell, stack: list[tuple[Direction, ...]], width: int, per_step: bool, dtype: type
) -> ModelAnatomy:
    reverse = [one.reverse for one in stack[0]]
    direction = "bidirectional" if len(reverse) > 1 else "reverse" if reverse[0] else "forward"
    shape = (-1, -1, 4) if per_step else (-1, 4)
    role = OutputRole.PER_STEP if per_step else OutputRole.PER_SEQUENCE
    precision = f"fp{8 * np.dtype(dtype).itemsize}"
    return ModelAnatomy(
        inputs=(
            InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1, VOCABULARY),
            InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
        ),
        outputs=(
            OutputAnatomy("logits", precision.upper(), shape, role, 0, (1,) if per_step else ()),
        ),
        architecture=Architecture(cell),
        evidence=(),
        sequential_depth="O(n)",
        recurrent_layers=tuple(
            RecurrentLayer(f"layer{n}", cell, direction, width, one[0].units)
            for n, one in enumerate(stack)
        ),
        precision=precision,
    )
