"""Small exported and hand-built ONNX models of each kind, for the tests of ONNX."""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

VOCABULARY, WIDTH, HIDDEN, CLASSES, LONGEST = 23, 12, 8, 5, 40


class Recurrent(nn.Module):
    """Two recurrent layers over ids or features, with a head."""

    def __init__(
        self,
        kind: str = "LSTM",
        *,
        bidirectional: bool = False,
        batch_first: bool = True,
        ids: bool = True,
        head: str = "steps",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH) if ids else nn.Identity()
        self.layers = getattr(nn, kind)(
            WIDTH, HIDDEN, 2, batch_first=batch_first, bidirectional=bidirectional
        )
        self.output = nn.Linear(HIDDEN * (1 + bidirectional), CLASSES)
        self.head, self.time = head, 1 if batch_first else 0

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        y = self.layers(self.embedding(x))[0]
        if self.head == "length":
            y = y[torch.arange(y.shape[0]), lengths - 1]
        elif self.head == "last":
            y = y.select(self.time, -1)
        return self.output(y)


class MaskedMean(nn.Module):
    """A bidirectional GRU whose outputs are averaged under a mask, as real encoders do."""

    def __init__(self, marks: str = "real") -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.GRU(WIDTH, HIDDEN, 1, batch_first=True, bidirectional=True)
        self.output = nn.Linear(HIDDEN * 2, CLASSES)
        self.marks = marks

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask.float() if self.marks == "real" else 1 - mask.float()
        y = self.layers(self.embedding(tokens))[0] * real.unsqueeze(-1)
        return self.output(y.sum(1) / real.sum(1, keepdim=True).clamp(min=1))


class Transformer(nn.Module):
    """Two layers of hand-written self-attention over ids with a position table and a mask."""

    def __init__(self, *, marks: str = "real", causal: bool = False, maps: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.output = nn.Linear(WIDTH, CLASSES)
        self.marks, self.causal, self.maps = marks, causal, maps

    def forward(self, tokens: Tensor, mask: Tensor) -> Any:
        steps = torch.arange(tokens.shape[1])
        x = self.embedding(tokens) + self.positions(steps)
        hidden = (mask == 0) if self.marks == "real" else (mask != 0)
        hidden = hidden[:, None, None, :]
        if self.causal:
            hidden = hidden | (steps[:, None] < steps[None, :])
        weights = x
        for block in self.blocks:
            x, weights = block(x, hidden)
        y = torch.softmax(self.output(x), -1)
        return (y, weights) if self.maps else y


class Block(nn.Module):
    """Pre-norm attention of three heads and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(WIDTH), 3
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, WIDTH // self.heads).transpose(1, 2)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        z = self.norm(x)
        q, k, v = self.split(self.query(z)), self.split(self.key(z)), self.split(self.value(z))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // self.heads)
        weights = torch.softmax(scores.masked_fill(hidden, -1e9), -1)
        y = (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return x + self.narrow(torch.relu(self.wide(x))), weights


class AdditivePooling(nn.Module):
    """Bahdanau attention of the last hidden state over all states of an LSTM."""

    def __init__(self, *, query: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.key, self.query = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.score, self.output = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, CLASSES)
        self.asks = query

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.layers(self.embedding(tokens))[0]
        mixed = self.key(y)
        if self.asks:
            mixed = mixed + self.query(y[:, -1:])
        weights = torch.softmax(self.score(torch.tanh(mixed)).squeeze(-1), -1)
        return self.output((weights.unsqueeze(1) @ y).squeeze(1))


class Stateful(nn.Module):
    """One LSTM whose state the caller carries."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(WIDTH, HIDDEN, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h_next, c_next) = self.layers(x, (h, c))
        return y, h_next, c_next


def export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    names: Sequence[str],
    axes: Mapping[str, Mapping[int, str] | Sequence[int]] | None = None,
    outputs: Sequence[str] | None = None,
    opset: int = 17,
) -> ModelProto:
    """Export with the legacy exporter. ``axes``: the free ones; None names b and t."""
    if axes is None:
        wide = {n: x.ndim > 1 for n, x in zip(names, inputs, strict=True)}
        axes = {n: {0: "b", 1: "t"} if wide[n] else {0: "b"} for n in names}
    return quietly(
        lambda buffer: torch.onnx.export(
            module.eval(),
            tuple(inputs),
            buffer,
            input_names=list(names),
            output_names=list(outputs or ["y"]),
            dynamic_axes=dict(axes),
            opset_version=opset,
            dynamo=False,
        )
    )


def quietly(write: Callable[[io.BytesIO], Any]) -> ModelProto:
    """Run an export without its warnings and parse what it wrote."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        write(buffer)
    return onnx.load_from_string(buffer.getvalue())


def recurrent(
    kind: str = "LSTM",
    *,
    bidirectional: bool = False,
    batch_first: bool = True,
    ids: bool = True,
    head: str = "steps",
) -> ModelProto:
    """An exported ``Recurrent``; head "length" reads lengths, "last" and "steps" do not."""
    torch.manual_seed(0)
    module = Recurrent(
        kind, bidirectional=bidirectional, batch_first=batch_first, ids=ids, head=head
    )
    shape = (2, 6) if batch_first else (6, 2)
    x = torch.ones(shape, dtype=torch.int64) if ids else torch.randn(*shape, WIDTH)
    names = ("b", "t") if batch_first else ("t", "b")
    axes = {"x": dict(enumerate(names)), "lengths": {0: "b"}}
    inputs = [x, torch.tensor([6, 4])] if head == "length" else [x]
    return export(module, inputs, list(axes)[: len(inputs)], axes)


def masked(
    module: nn.Module,
    dtype: torch.dtype,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> ModelProto:
    """An exported module of tokens and mask. Every free axis has a name of its own."""
    tokens, mask = torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6).to(dtype)
    if getattr(module, "marks", "real") == "padding":
        mask = torch.zeros_like(mask)
    free = {"tokens": [0, 1], "mask": [0, 1]}
    return export(module, [tokens, mask], ["tokens", "mask"], free, outputs, opset)


def built(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str | None]]],
    constants: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> ModelProto:
    """A model made of nodes by hand."""
    graph = helper.make_graph(
        list(nodes),
        "hand-built",
        [helper.make_tensor_value_info(n, *each) for n, each in inputs.items()],
        [helper.make_tensor_value_info(n, *each) for n, each in outputs.items()],
        [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
