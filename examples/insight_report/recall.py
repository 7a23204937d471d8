"""(e) Does a vanished gradient mean that the first word is forgotten? An RNN that recalls it."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from insight_report import charts
from insight_report.export import exported, write
from insight_report.section import Figures, Picture, Section
from insight_report.words import percent
from seqlens_client import Client
from seqlens_zoo.tasks import LEDGER

MODEL: Final = "recall-rnn"
TOKENS, LENGTH, UNITS = 7, 32, 64
STEPS, TEXTS, SEQUENCES = 1_500, 64, 6


class RecallRNN(nn.Module):
    """Says the first token of a sequence at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, UNITS // 2)
        self.recurrent = nn.RNN(UNITS // 2, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, sequence, tokens] of `tokens`, int64 [batch, sequence]."""
        logits: Tensor = self.head(self.recurrent(self.embedding(tokens))[0])
        return logits


def add_recall(repository: Path) -> str:
    """Train the model, if it is not there yet, and export it."""
    folder = repository / MODEL
    if exported(folder):
        return folder.name
    torch.manual_seed(0)
    model = RecallRNN()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        rng = np.random.default_rng((0, step))
        tokens = torch.from_numpy(rng.integers(0, TOKENS, (TEXTS, LENGTH)))
        logits = model(tokens)
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, :1].expand(-1, LENGTH).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return write(LEDGER, model.eval().requires_grad_(False), folder)


def measure(client: Client) -> Figures:
    rng = np.random.default_rng(23)
    sequences = list(rng.integers(0, TOKENS, (SEQUENCES, LENGTH)))
    answer = client.influence(
        MODEL,
        sequences,
        measures=("occlusion", "jacobian"),
        output_positions=[-1],
        replacement_tokens=list(range(TOKENS)),
        timeout=300,
    )
    rows = {
        kind: np.mean([m.shares[0] for m in answer.maps if m.measure == kind], axis=0).tolist()
        for kind in ("occlusion", "jacobian")
    }
    many = list(rng.integers(0, TOKENS, (100, LENGTH)))
    right, follows = [], []
    for tokens in many:
        other = tokens.copy()
        other[0] = (tokens[0] + 1) % TOKENS
        said, instead = (
            result.output[-1].argmax() for result in client.infer(MODEL, [tokens, other])
        )
        right.append(said == tokens[0])
        follows.append(said == tokens[0] and instead == other[0])
    return {
        "length": LENGTH,
        "accuracy": float(np.mean(right)),
        "answers_that_follow": float(np.mean(follows)),
        "shares": rows,  # of each position in the last answer
    }


def sentences(figures: Figures) -> list[str]:
    shares = {kind: row[0] for kind, row in figures["shares"].items()}
    return [
        f"An RNN trained to say the first of {figures['length']} tokens does so at the last one in "
        f"{percent(figures['accuracy'])} of the sequences; with another first token its answer "
        f"follows in {percent(figures['answers_that_follow'])}.",
        f"There the first token has {percent(shares['occlusion'])} of the influence by occlusion, "
        f"and {percent(shares['jacobian'])} of the gradient.",
    ]


def pictures(figures: Figures) -> list[Picture]:
    positions = [str(position) for position in range(figures["length"])]
    caption = "What the last answer depends on, and where its gradient goes, by position."
    return [Picture(charts.bars(positions, figures["shares"], "share"), caption)]


SECTION = Section(
    "recall",
    "Vanished, and still known?",
    "Does a model ignore a word at which its gradient has vanished?",
    measure,
    sentences,
    pictures,
)
