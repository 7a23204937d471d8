"""Small attention models of every form, and their weights computed again in float64.

The references are written by hand or ask nn.MultiheadAttention itself for its weights; neither
looks at what the service does.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tests.support.torchscript_modules import CLASSES, LONGEST, VOCABULARY
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS = 12, 2, 2


class Attention(nn.Module):
    """Multi-head self-attention with a residual; how scores are mixed is left to subclasses."""

    causal, padded, groups = False, True, HEADS

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shared = HEADS, self.groups
        self.query, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        narrow = WIDTH // HEADS * self.groups
        self.key, self.value = nn.Linear(WIDTH, narrow), nn.Linear(WIDTH, narrow)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (self.shared, -1)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (self.shared, -1)).transpose(1, 2)
        return x + self.out(self.mix(q, k, v, padding).transpose(1, 2).flatten(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return self.weights(q, k, padding) @ v

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return torch.softmax(scores.masked_fill(padding[:, None, None], -math.inf), -1)

    def reference(self, x: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's answer and its weights, by a way that all forms share."""
        q, k, v = (
            f(x).reshape(*x.shape[:2], n, -1).transpose(1, 2)
            for f, n in ((self.query, HEADS), (self.key, self.groups), (self.value, self.groups))
        )
        k, v = (torch.cat([t[:, i : i + 1] for i in self._shared()], 1) for t in (k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (WIDTH // HEADS) ** -0.5
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        hidden |= padding[:, None, None] if self.padded else hidden
        later = torch.arange(x.shape[1])
        hidden |= later[None] > later[:, None] if self.causal else hidden
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        y = torch.einsum("bhqk,bhkd->bqhd", weights * self.scales(), v).flatten(2)
        return x + self.out(y), weights

    def _shared(self) -> list[int]:
        return [head * self.groups // HEADS for head in range(HEADS)]

    def scales(self) -> Tensor:
        """What each head is multiplied by behind its weights, [heads, 1, 1]."""
        return torch.ones(HEADS, 1, 1, dtype=torch.float64)


class Causal(Attention):
    """Scores of later positions hidden by a constant table."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("later", torch.ones(LONGEST, LONGEST).triu(1).bool())

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(self.later[: q.shape[2], : q.shape[2]], -math.inf)
        return torch.softmax(scores.masked_fill(padding[:, None, None], -math.inf), -1)


class Einsum(Attention):
    """Both products by einsum."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
        weights = torch.softmax(scores.masked_fill(padding[:, None, None], -math.inf), -1)
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class Exponentials(Attention):
    """Exponentials over their sum, padding multiplied away."""

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(padding[:, None, None], -1e9)
        raised = torch.exp(scores - scores.amax(-1, keepdim=True))
        return raised / (raised.sum(-1, keepdim=True) + 1e-12)


class Masked(Attention):
    """Exponentials with padding multiplied away, then divided by what is left, in place."""

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        raised = torch.exp(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]))
        raised = raised * (~padding[:, None, None]).to(raised.dtype)
        raised.div_(raised.sum(-1, keepdim=True).clamp(min=1e-9))
        return raised


class LogSums(Attention):
    """The exponential of scores less the logarithm of their summed exponentials."""

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(padding[:, None, None], -1e9)
        return torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True))


class Logarithms(Attention):
    """The exponential of a log_softmax."""

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        hidden = scores.masked_fill(padding[:, None, None], -1e9)
        return torch.exp(torch.log_softmax(hidden, -1))


class Guarded(Attention):
    """Behind the softmax a guard against rows of NaN, a scale for each head, and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.register_buffer("head_scales", torch.tensor([0.5, 1.0]).reshape(2, 1, 1))

    def weights(self, q: Tensor, k: Tensor, padding: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        weights = torch.softmax(scores.masked_fill(padding[:, None, None], -math.inf), -1)
        weights = torch.where(torch.isnan(weights), torch.zeros_like(weights), weights)
        return self.dropout(weights * self.head_scales)

    def scales(self) -> Tensor:
        return self.head_scales.double()


class BoolMasked(Attention):
    """scaled_dot_product_attention with a mask of truth values."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, ~padding[:, None, None])


class FloatMasked(Attention):
    """The same with a mask of numbers, causal and of padding at once."""

    causal = True

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        places = torch.arange(q.shape[2])
        hidden = padding[:, None, None] | (places[None] > places[:, None])
        mask = torch.zeros_like(hidden, dtype=q.dtype).masked_fill(hidden, -math.inf)
        return functional.scaled_dot_product_attention(q, k, v, mask)


class IsCausal(Attention):
    """The same, told to be causal, with a scale of its own."""

    causal, padded = True, False

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        scale = 2 / math.sqrt(q.shape[-1])
        return functional.scaled_dot_product_attention(q, k / 2, v, is_causal=True, scale=scale)


class Grouped(Attention):
    """All heads of the queries share the keys and values of one."""

    groups = 1

    def mix(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        mask = ~padding[:, None, None]
        return functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


class Classifier(nn.Module):
    """Two layers of one form of attention. Its class softmax weighs constants and is none."""

    def __init__(self, form: type[Attention]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(form() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.table = nn.Parameter(torch.randn(CLASSES, WIDTH))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, padding)
        return torch.softmax(self.head(x), -1) @ self.table

    def reference(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        """Weights of each layer [batch, heads, time, time] in float64."""
        module = copy.deepcopy(self).double()
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        x, maps = module.embedding(tokens), []
        for layer in module.layers:
            x, weights = layer.reference(x, padding)
            maps.append(weights)
        return maps


class Torchs(nn.Module):
    """What nn.MultiheadAttention takes part in; its weights are asked of it in float64."""

    def reference(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        """Weights of each attention [batch, heads, queries, keys] in order of execution."""
        module, maps = copy.deepcopy(self).double(), []
        for attention in module.modules():
            if isinstance(attention, nn.MultiheadAttention):
                attention.forward = _telling(attention.forward, maps)
        with slow_path():
            module(tokens, lengths)
        return maps


def _telling(forward: Any, maps: list[Tensor]) -> Any:
    def told(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        kwargs |= {"need_weights": True, "average_attn_weights": False}
        y, weights = forward(*args, **kwargs)
        maps.append(weights)
        return y, weights

    return told


@contextmanager
def slow_path() -> Iterator[None]:
    """Without the fused kernels of nn.TransformerEncoder."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


class Encoder(Torchs):
    """nn.TransformerEncoder over embedded tokens."""

    def __init__(self, norm_first: bool = False, nested: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 24, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=nested)
        for parameter in self.encoder.parameters():  # layers are made as equal copies
            nn.init.normal_(parameter, std=0.4)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        return self.head(self.encoder(self.embedding(tokens), src_key_padding_mask=padding))


class CausalEncoder(Encoder):
    """The same with a causal mask, which leaves no room for padding in the fused kernel."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        y = self.encoder(self.embedding(tokens), mask=places[None] > places[:, None])
        return self.head(y) * (lengths > 0)[:, None, None]


class BothMasksEncoder(Encoder):
    """The same with both masks."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        padding, later = places[None] >= lengths[:, None], places[None] > places[:, None]
        x = self.embedding(tokens)
        return self.head(self.encoder(x, mask=later, src_key_padding_mask=padding))


class MultiHead(Torchs):
    """nn.MultiheadAttention alone, with its weights asked for or not."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        self.need_weights = need_weights

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        x = self.embedding(tokens)
        y = self.attention(x, x, x, key_padding_mask=padding, need_weights=self.need_weights)
        return y[0]


class Pooling(Torchs):
    """A learned query looks over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.asked = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(tokens.shape[1])[None] >= lengths[:, None]
        x, query = self.embedding(tokens), self.asked.expand(tokens.shape[0], -1, -1)
        return self.attention(query, x, x, key_padding_mask=padding, need_weights=False)[0]


class EncoderDecoder(Torchs):
    """nn.Transformer: self-attention, causal self-attention and cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, 24, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1])
        x = self.embedding(tokens)
        later = places[None] > places[:, None]
        return self.transformer(x, x.flip(1), tgt_mask=later) * (lengths > 0)[:, None, None]


MODELS: dict[str, tuple[Any, int]] = {  # how to make one, and how many maps it has
    **{
        form.__name__: ((lambda form=form: Classifier(form)), LAYERS)
        for form in (Attention, Causal, Einsum, Exponentials, Logarithms, Guarded, Masked, LogSums)
    },
    **{
        form.__name__: ((lambda form=form: Classifier(form)), LAYERS)
        for form in (BoolMasked, FloatMasked, IsCausal, Grouped)
    },
    "Encoder": (Encoder, LAYERS),
    "Encoder norm_first": (lambda: Encoder(norm_first=True), LAYERS),
    "Encoder nested": (lambda: Encoder(nested=True), LAYERS),
    "CausalEncoder": (CausalEncoder, LAYERS),
    "BothMasksEncoder": (BothMasksEncoder, LAYERS),
    "MultiHead weights": (lambda: MultiHead(True), 1),
    "MultiHead": (lambda: MultiHead(False), 1),
    "Pooling": (Pooling, 1),
    "EncoderDecoder": (EncoderDecoder, 3),
}
