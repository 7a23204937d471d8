"""A transformer of a few lines of numpy, opened up: float64, honest, or with one fault.

It stands for a backend of somebody else: nothing but the contract of ``TappedModel`` is known
of it. What its attention weights are is computed here directly, so tests have a reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqlens.backends.tapped import Look, Seen, Tap, Untapped
from seqlens.errors import BackendFailed, NotInModel
from seqlens.graphs.anatomy import (
    Architecture,
    AttentionSite,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.sequences import Array, Tensors

VOCABULARY, WIDTH, HEADS, CLASSES = 23, 8, 4, 5

Turn = Callable[[Array], Array]

# How a tensor [batch, head, query, key] lies in the graph, and back: by layout.
LAYOUTS: dict[str, tuple[tuple[str, ...], Turn, Callable[[Array, int], Array]]] = {
    "plain": (("batch", "head", "query", "key"), lambda w: w, lambda w, b: w),
    "transposed": (
        ("key", "query", "head", "batch"),
        lambda w: w.transpose(3, 2, 1, 0),
        lambda w, b: w.transpose(3, 2, 1, 0),
    ),
    "batch_and_head": (
        ("batch_and_head", "query", "key"),
        lambda w: w.reshape(-1, *w.shape[2:]),
        lambda w, b: w.reshape(b, -1, *w.shape[1:]),
    ),
    "head_and_batch": (
        ("head_and_batch", "query", "key"),
        lambda w: w.swapaxes(0, 1).reshape(-1, *w.shape[2:]),
        lambda w, b: w.reshape(-1, b, *w.shape[1:]).swapaxes(0, 1),
    ),
    "grouped": (
        ("batch", "head", "head", "query", "key"),
        lambda w: w.reshape(len(w), 2, -1, *w.shape[2:]),
        lambda w, b: w.reshape(b, -1, *w.shape[3:]),
    ),
}


@dataclass
class NumpyTransformer:
    """Two layers of self-attention over tokens, and what variants add or spoil.

    ``extra`` is one more site: "pooling" [batch, key], "experts" a gate [batch, query, 3],
    "cross" attention from tokens to a second input ``source``, "steps" [step, batch, key].
    """

    layout: str = "plain"
    extra: str = ""
    masked: bool = True  # padding is hidden
    causal: bool = False
    stride: int = 1  # positions that become one before any attention
    fixed_length: int | None = None
    fixed_batch: int | None = None
    max_length: int | None = None
    precision: str = "fp32"
    fault: str = ""  # fake, noisy, drifting, refusing, unnormalised, unfed, flat
    measured: bool = True
    product: float = 1e-9
    replaceable: bool = True
    runs: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        self.table = random.standard_normal((VOCABULARY, WIDTH))
        self.places = random.standard_normal((600, WIDTH)) * 0.3
        names = ["0.q", "0.k", "0.v", "1.q", "1.k", "1.v", "x.q", "x.k", "x.v"]
        self.matrices = {name: random.standard_normal((WIDTH, WIDTH)) / 2 for name in names}
        if self.fault == "flat":
            self.matrices["0.q"] = self.matrices["0.q"] * 0.0
        self.scorer = random.standard_normal(WIDTH)
        self.gate = random.standard_normal((WIDTH, 3))
        self.experts = random.standard_normal((3, WIDTH, WIDTH)) / 2
        self.output = random.standard_normal((WIDTH, CLASSES))

    @property
    def anatomy(self) -> ModelAnatomy:
        batch, time = self.fixed_batch or -1, self.fixed_length or -1
        inputs = [
            InputAnatomy(
                "tokens", "INT64", (batch, time), InputRole.SEQUENCE, 0, 1, vocabulary_size=23
            )
        ]
        if self.masked:
            inputs.append(InputAnatomy("lengths", "INT64", (batch,), InputRole.LENGTHS, 0))
        if self.extra == "cross":
            inputs.append(
                InputAnatomy(
                    "source", "INT64", (batch, -1), InputRole.SEQUENCE, 0, None, vocabulary_size=23
                )
            )
        return ModelAnatomy(
            tuple(inputs),
            (OutputAnatomy("logits", "FP64", (-1, -1, CLASSES), OutputRole.PER_STEP, 0, (1,)),),
            Architecture.TRANSFORMER,
            (),
            "O(1)",
            attention_sites=tuple(tap.site for tap in self.taps),
            fixed_length=self.fixed_length,
            fixed_batch=self.fixed_batch,
            max_length=self.max_length,
            precision=self.precision,
        )

    @property
    def taps(self) -> tuple[Tap, ...]:
        sites = [AttentionSite(f"layer{n}", n, "self", "Softmax") for n in range(2)]
        kinds: dict[str, Any] = {"cross": "cross", "experts": "additive"}
        if self.extra:
            kind = kinds.get(self.extra, "pooling")
            sites.append(AttentionSite(self.extra, 2, kind, "Softmax"))
        return tuple(Tap(site, self.measured, self.replaceable) for site in sites)

    @property
    def untapped(self) -> tuple[Untapped, ...]:
        return ()

    def run_plain(self, inputs: Tensors) -> dict[str, Array]:
        """As the serving engine gives it."""
        return self._forward(inputs, Look(), {})

    def run(self, inputs: Tensors, look: Look) -> Seen:
        self.runs.append(look)
        if unknown := {*look.sites, *look.replaced} - {tap.site.name for tap in self.taps}:
            raise NotInModel(f"no site {unknown}")
        if self.fault == "refusing" and "layer1" in {*look.sites, *look.replaced}:
            raise BackendFailed("layer1 cannot be run")
        weights: dict[str, Array] = {}
        outputs = self._forward(inputs, look, weights)
        return Seen(outputs, {name: weights[name] for name in look.sites})

    def product_error(self, inputs: Tensors, site: str) -> float | None:
        return None if self.measured else self.product

    def gradient(self, inputs: Tensors, output: str, weights: Array) -> Array | None:
        return None

    def close(self) -> None:
        pass

    def weights(self, tokens: Array, source: Array | None = None) -> dict[str, Array]:
        """Weights [head, query, key] of one sequence alone: the reference."""
        maps: dict[str, Array] = {}
        inputs = {"tokens": np.asarray(tokens)[np.newaxis]}
        if self.masked:
            inputs["lengths"] = np.array([len(tokens)])
        if source is not None:
            inputs["source"] = np.asarray(source)[np.newaxis]
        plain = NumpyTransformer(**{**self._settings(), "layout": "plain"})
        plain._forward(inputs, Look(), maps)
        return {name: one[0] if one.ndim == 4 else one[:, np.newaxis] for name, one in maps.items()}

    def _settings(self) -> Mapping[str, Any]:
        names = ("extra", "masked", "causal", "stride", "fixed_length", "fixed_batch", "fault")
        return {name: getattr(self, name) for name in names}

    def _forward(self, inputs: Tensors, look: Look, weights: dict[str, Array]) -> dict[str, Array]:
        tokens = inputs["tokens"]
        self._check(tokens)
        x = self.table[tokens] + self.places[: tokens.shape[1]]
        real = np.ones(tokens.shape, bool)
        if self.masked:
            real = np.arange(tokens.shape[1]) < inputs["lengths"][:, np.newaxis]
        if self.stride > 1:  # whole windows only
            kept = x.shape[1] // self.stride * self.stride
            x = x[:, :kept].reshape(len(x), -1, self.stride, WIDTH).mean(2)
            real = real[:, :kept].reshape(len(x), -1, self.stride).all(2)
        for number in range(2):
            x = x + self._attend(f"layer{number}", str(number), x, x, real, look, weights)
        x = self._extra(x, inputs, real, look, weights)
        if self.fault == "drifting" and look.sites:
            x = x + 1e-3
        return {"logits": np.tanh(x) @ self.output}

    def _check(self, tokens: Array) -> None:
        for size, only in zip(tokens.shape, (self.fixed_batch, self.fixed_length), strict=True):
            if only is not None and size != only:
                raise BackendFailed(f"got {size}, only {only} runs")
        if self.max_length is not None and tokens.shape[1] > self.max_length:
            raise BackendFailed("too long")
        if tokens.shape[1] < self.stride:
            raise BackendFailed("too short")

    def _attend(
        self,
        name: str,
        own: str,
        x: Array,
        memory: Array,
        real: Array,
        look: Look,
        weights: dict[str, Array],
    ) -> Array:
        q, k, v = (
            (source @ self.matrices[f"{own}.{part}"]).reshape(len(x), -1, HEADS, WIDTH // HEADS)
            for part, source in (("q", x), ("k", memory), ("v", memory))
        )
        scores = np.einsum("bqhw,bkhw->bhqk", q, k)
        scores = np.where(real[:, np.newaxis, np.newaxis], scores, -np.inf)
        if self.causal and memory is x:
            scores = np.where(np.tri(x.shape[1], dtype=bool), scores, -np.inf)
        own_weights = self._spoilt(name, softmax(scores))
        _, lay, back = LAYOUTS[self.layout]
        used = self._feed(name, lay(own_weights), look, weights)
        return np.einsum("bhqk,bkhw->bqhw", back(used, len(x)), v).reshape(len(x), -1, WIDTH)

    def _spoilt(self, name: str, weights: Array) -> Array:
        if self.fault == "noisy" and name == "layer1":
            noise = np.random.default_rng().random(weights.shape)
            weights = weights * (1 + 1e-3 * noise)
            return weights / weights.sum(-1, keepdims=True)
        return weights

    def _feed(self, name: str, tensor: Array, look: Look, weights: dict[str, Array]) -> Array:
        """Show a tensor, and use it, or what is put in its place."""
        shown = tensor * 1.001 if self.fault == "unnormalised" and name == "layer1" else tensor
        if self.fault == "fake" and name == "layer1":  # sums to one, but is used nowhere
            weights[name] = softmax(np.log(tensor + 1e-9) * 2)
            return tensor
        weights[name] = shown.astype(np.float16) if self.precision == "fp16" else shown
        replaced = look.replaced.get(name, tensor)
        if self.fault == "unfed" and name in look.replaced:  # put into the wrong place
            return replaced[::-1]
        return replaced

    def _extra(
        self, x: Array, inputs: Tensors, real: Array, look: Look, weights: dict[str, Array]
    ) -> Array:
        if self.extra == "pooling":
            scores = np.where(real, x @ self.scorer, -np.inf)
            pooled = self._feed("pooling", softmax(scores), look, weights)
            return x + np.einsum("bk,bkw->bw", pooled, x)[:, np.newaxis]
        if self.extra == "steps":
            queries = np.stack([x @ np.roll(self.scorer, step) for step in range(x.shape[1])])
            scores = np.where(real, queries, -np.inf)
            steps = self._feed("steps", softmax(scores), look, weights)
            return x + np.einsum("sbk,bkw->bsw", steps, x)
        if self.extra == "experts":
            gate = self._feed("experts", softmax(x @ self.gate), look, weights)
            return x + np.einsum("bqe,eiw,bqi->bqw", gate, self.experts, x)
        if self.extra == "cross":
            memory = self.table[inputs["source"]]
            shown = np.ones(memory.shape[:2], bool)
            return x + self._attend("cross", "x", x, memory, shown, look, weights)
        return x


def softmax(scores: Array) -> Array:
    with np.errstate(invalid="ignore"):
        exponents = np.exp(scores - scores.max(-1, keepdims=True))
    sums: Array = np.nan_to_num(exponents)
    return sums / np.maximum(sums.sum(-1, keepdims=True), 1e-300)
