"""all-MiniLM-L6-v2 from its weights, written by hand so that no model library is needed."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, WIDE, VOCABULARY, LONGEST = 6, 12, 384, 1536, 30_522, 512


class Layer(nn.Module):
    """Post-norm BERT layer."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attention_out, self.attention_norm = nn.Linear(WIDTH, WIDTH), norm()
        self.wide, self.narrow, self.norm = nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH), norm()

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: Tensor, penalty: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + penalty
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.attention_norm(x + self.attention_out(y))
        return self.norm(x + self.narrow(functional.gelu(self.wide(x))))


class MiniLm(nn.Module):
    """Token ids and attention mask [batch, time] to hidden states [batch, time, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = norm()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = self.positions(torch.arange(input_ids.shape[1]))
        x = self.norm(self.words(input_ids) + places + self.kinds.weight[0])
        penalty = (1.0 - attention_mask[:, None, None, :].float()) * -1e9
        for layer in self.layers:
            x = layer(x, penalty)
        return x


def norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-12)


_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
_EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "kinds": "token_type_embeddings",
    "norm": "LayerNorm",
}


def load_minilm(weights: Path) -> MiniLm:
    """The model with the weights of a ``model.safetensors``, in eval mode."""
    stored, module = load_file(weights), MiniLm()
    state = {name: stored[_stored_name(name)] for name in module.state_dict()}
    module.load_state_dict(state)
    return module.eval()


def _stored_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "layers":
        return f"encoder.layer.{parts[1]}.{_NAMES[parts[2]]}.{parts[3]}"
    return f"embeddings.{_EMBEDDINGS[parts[0]]}.{parts[1]}"
