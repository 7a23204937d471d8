import collections
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.support.torchscript_modules import (
    LENGTHS,
    TOKENS,
    VOCABULARY,
    WIDTH,
    Counter,
    Encoder,
    Recurrent,
    TimeMajor,
    made,
    quiet,
)
from torch import Tensor, nn

from seqlens.backends.base import Device, LoadOptions
from seqlens.backends.torchscript import TorchScriptBackend
from seqlens.errors import BackendFailed, DeviceMissing, ModelRejected
from seqlens.graphs.anatomy import Architecture, InputRole, OutputRole

CPU = LoadOptions(device=Device("cpu"))
SILERO = resources.files("silero_vad") / "data" / "silero_vad.jit"


def saved(path: Path, module: nn.Module, *example: Tensor) -> Path:
    with quiet():
        torch.jit.save(made(module, *example), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_roles_and_axes_of_a_scripted_model(file: Path) -> None:
    anatomy = TorchScriptBackend().load(saved(file, Encoder()), CPU).anatomy
    tokens, lengths = anatomy.inputs
    assert (tokens.role, tokens.batch_axis, tokens.time_axis) == (InputRole.SEQUENCE, 0, 1)
    assert (tokens.vocabulary_size, lengths.role) == (VOCABULARY, InputRole.LENGTHS)
    (output,) = anatomy.outputs
    assert (output.name, output.role, output.time_axes) == ("output_0", OutputRole.PER_STEP, (1,))
    assert (anatomy.architecture, anatomy.max_length) == (Architecture.TRANSFORMER, 40)


def test_a_traced_model_reads_like_a_scripted_one(tmp_path: Path) -> None:
    backend = TorchScriptBackend()
    scripted = backend.load(saved(tmp_path / "s.pt", Encoder()), CPU).anatomy
    traced = backend.load(saved(tmp_path / "t.pt", Encoder(), TOKENS, LENGTHS), CPU).anatomy
    assert traced.inputs == scripted.inputs
    assert traced.outputs == scripted.outputs


def test_time_major_models_and_nested_results(file: Path) -> None:
    engine = TorchScriptBackend().load(saved(file, TimeMajor()), CPU)
    (features,) = engine.anatomy.inputs
    assert (features.time_axis, features.batch_axis, features.shape) == (0, 1, (-1, -1, WIDTH))
    answers = engine.run({"features": np.ones((5, 2, WIDTH), np.float32)})
    assert {n: a.shape for n, a in answers.items()} == {
        "output_0": (5, 2, 8),
        "output_1": (1, 2, 8),
        "output_2": (1, 2, 8),
    }


def test_answers_are_torchs_own(file: Path) -> None:
    module = Recurrent("GRU", bidirectional=True).eval()
    engine = TorchScriptBackend().load(saved(file, module), CPU)
    answer = engine.run({"tokens": TOKENS.numpy(), "lengths": LENGTHS.numpy()})["output_0"]
    np.testing.assert_allclose(answer, module(TOKENS, LENGTHS).detach().numpy(), atol=1e-6)


class Named(NamedTuple):
    logits: Tensor
    state: tuple[Tensor, Tensor]


class NamedOutputs(nn.Module):
    def forward(self, features: Tensor) -> Named:
        return Named(features * 2, (features.sum(1), features.mean(1)))


class DictOutputs(nn.Module):
    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"doubled": features * 2, "sums": features.sum(1)}


@pytest.mark.parametrize(
    ("module", "names"),
    [(NamedOutputs(), ["logits", "state_0", "state_1"]), (DictOutputs(), ["doubled", "sums"])],
)
def test_outputs_keep_the_names_that_the_module_gives(
    file: Path, module: nn.Module, names: list[str]
) -> None:
    engine = TorchScriptBackend().load(saved(file, module), CPU)
    assert [output.name for output in engine.anatomy.outputs] == names


class OptionalMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1)
        return x.sum(1)


def test_an_optional_mask_is_an_input(file: Path) -> None:
    anatomy = TorchScriptBackend().load(saved(file, OptionalMask()), CPU).anatomy
    mask = anatomy.input("attention_mask")
    assert mask is not None
    assert (mask.role, mask.mask_marks) == (InputRole.MASK, "real")


class TupleState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(WIDTH, 4)

    def forward(self, features: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        return self.layers(features, state)[0]


def test_a_required_tuple_is_refused_with_advice(file: Path) -> None:
    with pytest.raises(ModelRejected, match=r"state \(Tuple\[Tensor, Tensor\]\).*wrap the model"):
        TorchScriptBackend().load(saved(file, TupleState()), CPU)


def test_a_module_that_counts_answers_each_call_as_the_first(file: Path) -> None:
    engine = TorchScriptBackend().load(saved(file, Counter()), CPU)
    assert engine.capabilities.keeps_state
    first, second = ({"tokens": np.full((1, n), n, np.int64)} for n in (3, 5))
    alone = engine.run(first)["output_0"], engine.run(second)["output_0"]
    for _ in range(2):
        np.testing.assert_array_equal(engine.run(first)["output_0"], alone[0])
        np.testing.assert_array_equal(engine.run(second)["output_0"], alone[1])


def test_a_pure_module_is_not_copied(file: Path) -> None:
    assert not TorchScriptBackend().load(saved(file, Encoder()), CPU).capabilities.keeps_state


def test_silero_vad_gives_interleaved_requests_what_each_gets_alone() -> None:
    path = Path(str(SILERO))
    engine = TorchScriptBackend().load(path, CPU)
    assert engine.capabilities.keeps_state
    assert engine.anatomy.architecture is Architecture.LSTM
    assert engine.anatomy.fixed_length == 512
    wave = 0.1 * np.sin(2 * np.pi * 220 * np.arange(1024) / 16000)
    chunks = wave.astype(np.float32).reshape(2, 1, 512)
    rate = np.array(16000, np.int64)
    alone = [engine.run({"x": chunk, "sr": rate})["output_0"] for chunk in chunks]
    assert alone[0][0, 0] == pytest.approx(0.084842, abs=1e-5)  # as the ONNX file's first chunk
    again = [engine.run({"x": chunks[i], "sr": rate})["output_0"] for i in (1, 0, 1)]
    np.testing.assert_array_equal(again, [alone[1], alone[0], alone[1]])


def second_call_seconds(run: Callable[[int], object]) -> float:
    """Time of the call in which torch's profiling executor compiles what it saw in the first."""
    run(7)
    start = time.perf_counter()
    run(11)
    return time.perf_counter() - start


def test_early_calls_do_not_wait_for_a_compiler(file: Path) -> None:
    backend = TorchScriptBackend()
    anatomy = backend.load(saved(file, Encoder()), CPU).anatomy

    def served() -> float:
        engine = backend.load(file, LoadOptions(device=Device("cpu"), anatomy=anatomy))
        return second_call_seconds(
            lambda n: engine.run({"tokens": np.ones((1, n), np.int64), "lengths": np.array([n])})
        )

    @torch.inference_mode()
    def as_torch_would() -> float:
        with quiet():
            module = torch.jit.load(file).eval()
        return second_call_seconds(
            lambda n: module(torch.ones(1, n, dtype=torch.int64), torch.tensor([n]))
        )

    # Measured: 0.3 ms against 80 ms.
    assert min(served() for _ in range(3)) < as_torch_would() / 5


def test_lanes_use_one_thread_each_even_if_they_ran_torch_before(file: Path) -> None:
    engine = TorchScriptBackend().load(saved(file, Encoder()), CPU)
    seen: list[int] = []

    def lane() -> None:
        torch.set_num_threads(3)
        torch.ones(8) @ torch.ones(8)
        engine.run({"tokens": TOKENS.numpy(), "lengths": LENGTHS.numpy()})
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=lane)
    thread.start()
    thread.join()
    assert seen == [1]


def test_a_failing_module_gives_its_own_reason(file: Path) -> None:
    engine = TorchScriptBackend().load(saved(file, Recurrent()), CPU)
    with pytest.raises(BackendFailed, match=r"index out of range"):
        engine.run({"tokens": TOKENS.numpy() + VOCABULARY, "lengths": LENGTHS.numpy()})


def test_an_old_state_dict_is_recognised_and_never_unpickled(file: Path) -> None:
    torch.save(collections.OrderedDict(weight=torch.ones(2)), file)
    with pytest.raises(ModelRejected, match=r"state_dict.*torch\.jit\.script"):
        TorchScriptBackend().load(file, CPU)
    torch.save({"weight": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelRejected, match=r"pickle"):
        TorchScriptBackend().load(file, CPU)


def test_another_zip_archive_is_recognised(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelRejected, match=r"zip archive without TorchScript"):
        TorchScriptBackend().load(file, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_refused_with_advice(file: Path) -> None:
    with pytest.raises(DeviceMissing, match=r"cuda:0 .*torch.*For CUDA, install"):
        TorchScriptBackend().load(saved(file, Encoder()), LoadOptions(device=Device("cuda")))
    auto = TorchScriptBackend().load(file, LoadOptions())
    assert auto.capabilities.device == Device("cpu")


def test_without_torch_the_backend_says_what_to_install(file: Path) -> None:
    file.write_bytes(b"")
    program = f"""
import sys
from importlib import abc
from pathlib import Path
class NoTorch(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch())
from seqlens.backends.base import LoadOptions
from seqlens.backends.torchscript import TorchScriptBackend
from seqlens.errors import ModelRejected
try:
    TorchScriptBackend().load(Path({str(file)!r}), LoadOptions())
except ModelRejected as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'seqlens[torchscript]'" in run.stdout


def test_importing_the_backend_does_not_import_torch() -> None:
    program = "import sys, seqlens.backends.torchscript; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
