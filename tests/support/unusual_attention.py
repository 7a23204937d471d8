"""Small modules that attend in unusual ways, or seem to. Each keeps its weights as ``maps``."""

from typing import ClassVar

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS = 40, 16, 4


class Unusual(nn.Module):
    """``maps`` are those of the last call, [batch, head, query, key] each, in order."""

    example: ClassVar[tuple[str, ...]] = ("tokens",)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.maps: list[Tensor] = []
        self.more()

    def more(self) -> None:
        """Further parameters."""

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    def join(self, y: Tensor) -> Tensor:
        return self.output(y.transpose(1, 2).flatten(2))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))

    def scores(self, x: Tensor) -> Tensor:
        query, key, _ = self.parts(x)
        return query @ key.transpose(-1, -2)

    def keep(self, *maps: Tensor) -> None:
        self.maps = [one.detach() for one in maps]


class TalkingHeads(Unusual):
    """Heads are mixed before the softmax and after it."""

    def more(self) -> None:
        self.before, self.after = (nn.Linear(HEADS, HEADS, bias=False) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        scores = self.before(self.scores(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = scores.softmax(-1)
        self.keep(weights)
        mixed = self.after(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.join(mixed @ self.parts(x)[2])


class Differential(Unusual):
    """One softmax is taken off another."""

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.parts(self.table(tokens))
        pairs = zip(query.chunk(2, -1), key.chunk(2, -1), strict=True)
        first, second = ((q @ k.transpose(-1, -2)).softmax(-1) for q, k in pairs)
        self.keep(first, second)
        return self.join((first - 0.3 * second) @ value)


class Flattened(Unusual):
    """The softmax sees the queries of all sequences as one axis, as OpenNMT has it."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        weights = scores.view(-1, scores.shape[2]).softmax(-1).view(scores.shape)
        self.keep(weights[:, None])
        return self.output(weights @ x)


class SeveralPools(Unusual):
    """Three softmaxes over time that lie side by side on the last axis."""

    def more(self) -> None:
        self.scorer = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        weights = self.scorer(torch.tanh(self.query(x))).softmax(1).transpose(1, 2)
        self.keep(weights[:, :, None])
        return self.output((weights @ x).mean(1))


class Sink(Unusual):
    """One more key that has no value takes what no other does."""

    def more(self) -> None:
        self.sink = nn.Parameter(torch.randn(HEADS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        scores = self.scores(x)
        sink = self.sink.view(1, HEADS, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], -1).softmax(-1)
        self.keep(weights)
        return self.join(weights[..., :-1] @ self.parts(x)[2])


class OverAnotherInput(Unusual):
    """The decoder of two files: what it reads of the encoder is an input, and so is its mask."""

    example: ClassVar[tuple[str, ...]] = ("tokens", "memory", "memory_mask")

    def forward(self, tokens: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        query = self.split(self.query(self.table(tokens)))
        key, value = self.split(self.key(memory)), self.split(self.value(memory))
        hidden = memory_mask[:, None, None] == 0
        weights = (query @ key.transpose(-1, -2)).masked_fill(hidden, -1e9).softmax(-1)
        self.keep(weights)
        return self.join(weights @ value)


class Cached(Unusual):
    """A decoder that goes on after earlier steps."""

    example: ClassVar[tuple[str, ...]] = ("tokens", "past_key", "past_value")

    def forward(self, tokens: Tensor, past_key: Tensor, past_value: Tensor) -> Tensor:
        query, key, value = self.parts(self.table(tokens))
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        return self.join((query @ key.transpose(-1, -2)).softmax(-1) @ value)


class Channels(Unusual):
    """Attention among channels: its map has no positions."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        weights = (self.query(x).transpose(1, 2) @ self.key(x)).softmax(-1)
        return self.output((weights @ self.value(x).transpose(1, 2)).transpose(1, 2))


class Windows(Unusual):
    """Sequences cut into windows of four, each a row of its own."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        padded = nn.functional.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        windows = [self.split(part(padded).view(-1, 4, WIDTH)) for part in (self.query, self.key)]
        weights = (windows[0] @ windows[1].transpose(-1, -2)).softmax(-1)
        value = self.split(self.value(padded).view(-1, 4, WIDTH))
        return self.join(weights @ value).view(padded.shape)[:, : x.shape[1]]


class ReversedKeys(Unusual):
    """Keys and values come from the sequence read backwards."""

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.parts(self.table(tokens))[0]
        _, key, value = self.parts(self.table(tokens.flip(1)))
        return self.join((query @ key.transpose(-1, -2)).softmax(-1) @ value)


class ReversedQueries(Unusual):
    """Queries come from the sequence read backwards."""

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.parts(self.table(tokens.flip(1)))[0]
        _, key, value = self.parts(self.table(tokens))
        return self.join((query @ key.transpose(-1, -2)).softmax(-1) @ value)


class Band(Unusual):
    """Each position looks at five; their weights are skewed into a square, as Longformer's are."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        length = x.shape[1]
        key, value = (nn.functional.pad(part(x), (0, 0, 2, 2)) for part in (self.key, self.value))
        around = torch.stack([key[:, place : place + length] for place in range(5)], 2)
        weights = (around @ self.query(x)[..., None]).squeeze(-1).softmax(-1)
        flat = nn.functional.pad(weights, (0, length)).flatten(1)
        square = flat[:, : length * (length + 4)].view(-1, length, length + 4)
        return self.output(square @ value)


class Sigmoid(Unusual):
    """Weights of which each is by itself."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.join(self.scores(x).sigmoid() @ self.parts(x)[2])


class Experts(Unusual):
    """A gate over three layers."""

    def more(self) -> None:
        self.gate = nn.Linear(WIDTH, 3)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        answers = torch.stack([expert(x) for expert in self.experts], 2)
        return (self.gate(x).softmax(-1)[:, :, None] @ answers)[:, :, 0]


class Gates(Unusual):
    """Squeeze and excite: a softmax over channels scales them, and they are summed over time."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.output((x * self.query(x.mean(1)).softmax(-1)[:, None]).sum(1))


class Tags(Unusual):
    """Probabilities of tags, weighed with transitions that depend on the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        transitions = self.query(x)[..., None] * self.key(x)[..., None, :]
        return (self.output(x).softmax(-1)[:, :, None] @ transitions)[:, :, 0]
