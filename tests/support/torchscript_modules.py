"""Small PyTorch modules of each kind, scripted or traced, for the tests of TorchScript."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HIDDEN, CLASSES, LONGEST = 23, 12, 8, 5, 40


class Recurrent(nn.Module):
    """Embedding, two recurrent layers, packed by lengths, one answer a sequence."""

    def __init__(self, kind: str = "LSTM", bidirectional: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = getattr(nn, kind)(
            WIDTH, HIDDEN, 2, batch_first=True, bidirectional=bidirectional
        )
        self.head = nn.Linear(HIDDEN * (1 + bidirectional), CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        x = self.embedding(tokens)
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        y, _ = nn.utils.rnn.pad_packed_sequence(
            self.layers(packed)[0], batch_first=True, total_length=tokens.size(1)
        )
        return self.head(y[torch.arange(tokens.size(0)), lengths - 1])


class Continued(nn.Module):
    """An LSTM that starts from the states that it is given and returns the last ones."""

    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True, bidirectional=bidirectional)

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, last = self.layers(self.embedding(tokens), (h, c))
        return y, last[0], last[1]


class Packed(nn.Module):
    """Features [time, batch, width] and lengths, packed, to classes at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(WIDTH, HIDDEN, bidirectional=True)
        self.output = nn.Linear(2 * HIDDEN, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.output(nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0])[0])


class TimeMajor(nn.Module):
    """Time-major, every step answered, and a nested result (y, (h, c))."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(WIDTH, HIDDEN)

    def forward(self, features: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.layers(features)
        return y, state


class Encoder(nn.Module):
    """nn.TransformerEncoder with a position table and a padding mask made from lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(tokens.size(1), device=tokens.device)
        padding = places[None] >= lengths[:, None]
        x = self.embedding(tokens) + self.positions(places)[None]
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class EncoderDecoder(nn.Module):
    """Self-attention twice and cross-attention once."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.transformer = nn.Transformer(WIDTH, 2, 1, 1, 24, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.transformer(self.embedding(source), self.embedding(target))


class HandWritten(nn.Module):
    """Softmax attention by hand; its class softmax weighs a constant table and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.register_buffer("positions", torch.randn(1, LONGEST, WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.table = nn.Parameter(torch.randn(CLASSES, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[:, : tokens.size(1)]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 3.5
        y = torch.softmax(scores, -1) @ self.value(x)
        return torch.softmax(self.head(y), -1) @ self.table


class Additive(nn.Module):
    """A GRU whose states are pooled by additive attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.inner, self.score = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.layers(self.embedding(tokens))
        weights = torch.softmax(self.score(torch.tanh(self.inner(y))), 1)
        return torch.softmax((weights * y).sum(1), -1)


class CellLoop(nn.Module):
    """A GRU cell in a loop, and a hand-written cell in another."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.cell = nn.GRUCell(WIDTH, HIDDEN)
        self.update = nn.Linear(HIDDEN, HIDDEN)
        self.size = HIDDEN

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        h = torch.zeros(tokens.size(0), self.size)
        for step in range(tokens.size(1)):
            h = self.cell(x[:, step], h)
        g = torch.zeros(tokens.size(0), self.size)
        for step in range(tokens.size(1)):
            g = torch.tanh(self.update(g) + x[:, step, : self.size])
        return h + g


class Counter(nn.Module):
    """Adds up what it has seen, in an attribute and in a buffer that it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.calls = 0
        self.register_buffer("total", torch.zeros(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        self.total.add_(self.embedding(tokens).sum((0, 1)))
        x = self.embedding(tokens).cumsum(1)
        return x[:, : tokens.size(1)] + self.total + self.calls


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of torch's exporters, which say that TorchScript is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def exported(module: nn.Module, *example: Tensor) -> Any:
    """The module as it comes back from a file: scripted, or traced if there is an example."""
    with quiet():
        return from_file(made(module, *example))


def frozen(module: nn.Module) -> Any:
    """The scripted module with its weights turned into constants, as it comes back from a file."""
    with quiet():
        return from_file(torch.jit.freeze(made(module)))


def from_file(module: Any) -> Any:
    """A TorchScript module saved and loaded again."""
    buffer = io.BytesIO()
    with quiet():
        torch.jit.save(module, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer).eval()


def made(module: nn.Module, *example: Tensor) -> Any:
    """The module scripted, or traced if there is an example."""
    module = module.eval()
    return (
        torch.jit.trace(module, example, check_trace=False) if example else torch.jit.script(module)
    )


TOKENS = torch.arange(14).reshape(2, 7) + 1
LENGTHS = torch.tensor([7, 5])
