"""g2p-en's network from its weights: a GRU reads letters, another one speaks phonemes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

WIDTH, LETTERS, PHONEMES = 256, 29, 74
END_OF_WORD, START, STOP = 2, 2, 3


class Encoder(nn.Module):
    """Letters [batch, time] to all states [batch, time, 256] and the last one [1, batch, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, WIDTH)
        self.layer = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, letters: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.layer(self.embedding(letters))
        return states, last


class EncoderDecoder(nn.Module):
    """Letters [batch, s] and the phonemes so far [batch, t] to logits [batch, t, 74]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.embedding = nn.Embedding(PHONEMES, WIDTH)
        self.layer = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.output = nn.Linear(WIDTH, PHONEMES)

    def forward(self, letters: Tensor, phonemes: Tensor) -> Tensor:
        _, last = self.encoder(letters)
        return self.output(self.layer(self.embedding(phonemes), last)[0])


def load_graphemes(weights: Path) -> EncoderDecoder:
    """The model with the arrays of ``checkpoint20.npz``, which PyTorch's GRU takes as they are."""
    stored, module = np.load(weights), EncoderDecoder()
    state = {"output.weight": stored["fc_w"], "output.bias": stored["fc_b"]}
    for prefix, part in (("encoder.", "enc"), ("", "dec")):
        state[f"{prefix}embedding.weight"] = stored[f"{part}_emb"]
        for kind, short in (("weight", "w"), ("bias", "b")):
            for gate in ("ih", "hh"):
                state[f"{prefix}layer.{kind}_{gate}_l0"] = stored[f"{part}_{short}_{gate}"]
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module.eval()


def letters_of(word: str) -> np.ndarray:
    """Ids [1, time] of a word, its end included: a is 3."""
    return np.array([[*(ord(letter) - ord("a") + 3 for letter in word), END_OF_WORD]])
