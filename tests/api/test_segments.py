"""Texts, ids and padded tensors for a model that also takes the segment of each position."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from numpy.typing import NDArray
from tests.conftest import StartServer
from tests.support.onnx_models import export
from torch import Tensor, nn
from tritonclient import grpc as triton

from seqlens_client import Client

WORDS = {"[UNK]": 0, "the": 1, "kitten": 2, "plays": 3}


class Segmented(nn.Module):
    """Ids and segments, both [batch, time], to values [batch, time, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(len(WORDS), 4), nn.Embedding(2, 4)

    def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
        return torch.tanh(self.words(ids) + self.kinds(kinds))


@pytest.fixture(scope="module")
def module() -> Segmented:
    torch.manual_seed(0)
    return Segmented().eval()


@pytest.fixture(scope="module")
def address(
    module: Segmented, tmp_path_factory: pytest.TempPathFactory, serve_for_module: StartServer
) -> str:
    folder: Path = tmp_path_factory.mktemp("repository") / "segmented"
    (folder / "1").mkdir(parents=True)
    names = ["input_ids", "token_type_ids"]
    ids = torch.ones(2, 6, dtype=torch.int64)
    model = export(module, [ids, ids], names, {name: [0, 1] for name in names}, ["y"])
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return serve_for_module(folder.parent).grpc


def expected(module: Segmented, ids: list[int], kinds: list[int]) -> NDArray[np.float32]:
    with torch.no_grad():
        answer: NDArray[np.float32] = module(torch.tensor([ids]), torch.tensor([kinds]))[0].numpy()
    return answer


def test_texts_and_bare_ids_are_one_segment(address: str, module: Segmented) -> None:
    with Client(address) as client:
        texts = client.infer("segmented", ["the kitten plays", "kitten"])
        ids = client.infer("segmented", [[1, 2, 3], [2]])
    for answers in (texts, ids):
        for answer, row in zip(answers, ([1, 2, 3], [2]), strict=True):
            np.testing.assert_allclose(
                answer.outputs["y"], expected(module, row, [0] * len(row)), atol=1e-6
            )


def test_segments_that_are_given_count(address: str, module: Segmented) -> None:
    with Client(address) as client:
        given = {"input_ids": np.array([1, 2]), "token_type_ids": np.array([0, 1])}
        mixed = client.infer("segmented", [given, [1, 2]])
    np.testing.assert_allclose(mixed[0].outputs["y"], expected(module, [1, 2], [0, 1]), atol=1e-6)
    np.testing.assert_allclose(mixed[1].outputs["y"], expected(module, [1, 2], [0, 0]), atol=1e-6)


def test_tritonclient_may_leave_segments_out(address: str, module: Segmented) -> None:
    ids = triton.InferInput("input_ids", [2, 2], "INT64")
    ids.set_data_from_numpy(np.array([[1, 2], [3, 1]]))
    with triton.InferenceServerClient(address) as client:
        answer = client.infer("segmented", [ids]).as_numpy("y")
    rows = [expected(module, row, [0, 0]) for row in ([1, 2], [3, 1])]
    np.testing.assert_allclose(answer, np.stack(rows), atol=1e-6)
