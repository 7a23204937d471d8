"""Three sequence models of equal size: Elman RNN, LSTM and Transformer encoder.

A body maps vectors [batch, sequence, `INPUT_WIDTH`] to hidden states [batch, sequence,
`output_width`]; `SequenceClassifier` and `SequenceTagger` put an embedding before it and a linear
head behind it.
All are written so that torch.onnx.export and torch.jit.script keep the batch and the sequence
axis dynamic, and so that attention stays visible as softmax(Q K^T / sqrt(d)) V.
"""

from collections.abc import Callable
from math import log, sqrt
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn

BodyName = Literal["rnn", "lstm", "transformer"]
BODY_NAMES: Final[tuple[BodyName, ...]] = get_args(BodyName)

INPUT_WIDTH: Final = 128


class RNNBody(nn.Module):
    """Two Elman layers of 276 units, h_t = tanh(W x_t + U h_{t-1} + b): 264,960 parameters."""

    output_width: Final = 276

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.RNN(INPUT_WIDTH, self.output_width, num_layers=2, batch_first=True)
        _make_orthogonal(self.recurrent)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states of the upper layer; step t depends on the steps up to t alone."""
        hidden: Tensor = self.recurrent(vectors)[0]
        return hidden


class LSTMBody(nn.Module):
    """Two LSTM layers of 128 units: 264,192 parameters."""

    output_width: Final = 128

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(INPUT_WIDTH, self.output_width, num_layers=2, batch_first=True)
        _make_orthogonal(self.recurrent)
        _open_forget_gates(self.recurrent)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states of the upper layer; step t depends on the steps up to t alone."""
        hidden: Tensor = self.recurrent(vectors)[0]
        return hidden


class Attention(nn.Module):
    """Multi-head self-attention, 8 heads of 16."""

    heads: Final = 8
    head_width: Final = 16

    def __init__(self) -> None:
        super().__init__()
        width = self.heads * self.head_width
        self.query = nn.Linear(INPUT_WIDTH, width)
        self.key = nn.Linear(INPUT_WIDTH, width)
        self.value = nn.Linear(INPUT_WIDTH, width)
        self.out = nn.Linear(width, INPUT_WIDTH)

    def forward(self, vectors: Tensor, hidden_keys: Tensor) -> Tensor:
        """Attend to all keys but `hidden_keys`, which spreads to [batch, 1, query, key]."""
        query = self.split_heads(self.query(vectors))
        key = self.split_heads(self.key(vectors))
        value = self.split_heads(self.value(vectors))
        scores = query @ key.transpose(-2, -1) / sqrt(self.head_width)
        weights = scores.masked_fill(hidden_keys, float("-inf")).softmax(-1)
        attended: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return attended

    def split_heads(self, vectors: Tensor) -> Tensor:
        """[batch, sequence, heads * head_width] to [batch, heads, sequence, head_width]."""
        batch, sequence, _ = vectors.shape
        return vectors.view(batch, sequence, self.heads, self.head_width).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Pre-norm encoder layer: attention, then a feed-forward net of 256 units."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(INPUT_WIDTH)
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(INPUT_WIDTH)
        self.feed_forward = nn.Sequential(
            nn.Linear(INPUT_WIDTH, 256), nn.ReLU(), nn.Linear(256, INPUT_WIDTH)
        )

    def forward(self, vectors: Tensor, hidden_keys: Tensor) -> Tensor:
        """Shapes as in `Attention`."""
        vectors = vectors + self.attention(self.attention_norm(vectors), hidden_keys)
        step: Tensor = self.feed_forward(self.feed_forward_norm(vectors))
        return vectors + step


class TransformerBody(nn.Module):
    """Transformer encoder of two layers with sinusoidal positions: 264,960 parameters.

    Positions are computed for the length at hand (Vaswani et al. 2017), so no length is too long.
    A causal one sees no later positions; padding on the right is then hidden without more.
    """

    output_width: Final = INPUT_WIDTH
    causal: Final[bool]

    def __init__(self, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.layers = nn.ModuleList([TransformerLayer(), TransformerLayer()])
        exponents = torch.arange(0, INPUT_WIDTH, 2) / INPUT_WIDTH
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(-log(10_000) * exponents), persistent=False)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states; positions from `lengths` on are padding and change no other position."""
        position = torch.arange(vectors.shape[1], device=vectors.device)
        angles = position.unsqueeze(1) * self.frequencies
        vectors = vectors + torch.cat((angles.sin(), angles.cos()), dim=1)
        if self.causal:
            hidden_keys = position.unsqueeze(0) > position.unsqueeze(1)
        else:
            hidden_keys = (position >= lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(1)
        for layer in self.layers:
            vectors = layer(vectors, hidden_keys)
        return vectors


class SequenceClassifier(nn.Module):
    """Embedding, body, and a linear head that reads the last real position."""

    def __init__(self, body: BodyName, *, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, INPUT_WIDTH)
        self.body = _BODIES[body]()
        self.head = nn.Linear(self.body.output_width, labels)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits, float32 [batch, labels].

        `tokens` is int64 [batch, sequence], padded on the right with any token ids; `lengths` is
        int64 [batch], each from 1 to `sequence`.
        """
        hidden = self.body(self.embedding(tokens), lengths)
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
        logits: Tensor = self.head(hidden.gather(1, last)[:, 0])
        return logits


class SequenceTagger(nn.Module):
    """Embedding, body and a linear head at every position.

    Every body sees a word beside the word before it, each `INPUT_WIDTH / 2` wide, without extra
    parameters. No position sees a later one, so padding on the right changes nothing.
    """

    def __init__(self, body: BodyName, *, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, INPUT_WIDTH // 2)
        self.body = TransformerBody(causal=True) if body == "transformer" else _BODIES[body]()
        self.head = nn.Linear(self.body.output_width, labels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, float32 [batch, sequence, labels], of `tokens`, int64 [batch, sequence]."""
        words = self.embedding(tokens)
        before = torch.cat((torch.zeros_like(words[:, :1]), words[:, :-1]), dim=1)
        # All positions are taken for real: none reads what comes after it.
        lengths = torch.full_like(tokens[:, 0], tokens.shape[1])
        logits: Tensor = self.head(self.body(torch.cat((words, before), dim=2), lengths))
        return logits


_BODIES: Final[dict[BodyName, Callable[[], RNNBody | LSTMBody | TransformerBody]]] = {
    "rnn": RNNBody,
    "lstm": LSTMBody,
    "transformer": TransformerBody,
}


def _make_orthogonal(recurrent: nn.RNNBase) -> None:
    """Start each recurrent matrix (of each gate) as a rotation, so that nothing fades at once."""
    for name, weights in recurrent.named_parameters():
        if name.startswith("weight_hh"):
            for gate in weights.detach().chunk(weights.shape[0] // recurrent.hidden_size):
                nn.init.orthogonal_(gate)
        elif name.startswith("bias"):
            nn.init.zeros_(weights)


def _open_forget_gates(lstm: nn.LSTM) -> None:
    """Set the forget bias to 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    for name, bias in lstm.named_parameters():
        if name.startswith("bias_ih"):
            _, forget, _, _ = bias.detach().chunk(4)  # input, forget, cell, output
            forget.fill_(1.0)
