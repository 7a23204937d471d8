"""One attention layer with few or many heads, at equal cost: what do more heads see?

The width is 512 throughout, so one head of 512, two of 256, four of 128 and eight of 64 all have
3 * 512 * 512 = 786,432 parameters in their projections of query, key and value.
"""

from math import log, sqrt
from typing import Final

import torch
from torch import Tensor, nn

from seqlens_zoo.antecedent import LABELS, VOCABULARY

WIDTH: Final = 512
HEADS: Final = (1, 2, 4, 8)


class HeadsModel(nn.Module):
    """Answers the antecedent task with a single attention layer of `heads` heads."""

    heads: Final[int]

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(len(VOCABULARY), WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, len(LABELS))
        exponents = torch.arange(0, WIDTH, 2) / WIDTH
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(-log(10_000) * exponents), persistent=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits, float32 [batch, labels]; inputs as of `SequenceClassifier`."""
        position = torch.arange(tokens.shape[1], device=tokens.device)
        angles = position.unsqueeze(1) * self.frequencies
        vectors = self.embedding(tokens) + torch.cat((angles.sin(), angles.cos()), dim=1)
        padding = (position >= lengths.unsqueeze(1)).unsqueeze(1).unsqueeze(1)
        vectors = vectors + self._attend(self.norm(vectors), padding)
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, WIDTH)
        logits: Tensor = self.head(vectors.gather(1, last)[:, 0])
        return logits

    def _attend(self, vectors: Tensor, padding: Tensor) -> Tensor:
        batch, sequence, _ = vectors.shape
        shape = (batch, sequence, self.heads, WIDTH // self.heads)
        query, key, value = (
            part(vectors).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / sqrt(WIDTH // self.heads)
        weights = scores.masked_fill(padding, float("-inf")).softmax(-1)
        attended: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return attended
