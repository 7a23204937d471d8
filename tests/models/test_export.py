import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from seqlens_zoo.export import EXPORTS, largest_difference
from seqlens_zoo.formats import FORMATS, ExportError
from seqlens_zoo.tasks import ANTECEDENT, LEDGER
from seqlens_zoo.weights import load_body


def run_export(*arguments):
    command = [sys.executable, "-W", "error", "-m", "seqlens_zoo.export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    done = run_export("--repository", folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def test_repository_has_six_models_with_tokenizer_and_labels(repository):
    files = {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}
    names = [f"{body}-onnx/1/model.onnx" for body in ("rnn", "lstm", "transformer")]
    names += [f"{body}-torchscript/1/model.pt" for body in ("rnn", "lstm", "transformer")]
    texts = [
        f"{e.name}/{file}"
        for e in EXPORTS["antecedent"]
        for file in ("tokenizer.json", "labels.txt")
    ]
    assert files == {*names, *texts}


@pytest.mark.parametrize("wanted", EXPORTS["antecedent"], ids=lambda wanted: wanted.name)
def test_export_answers_as_pytorch_does_at_any_batch_and_length(repository, wanted):
    form = FORMATS[wanted.format]
    run = form.load(ANTECEDENT, repository / wanted.name / "1" / form.file)
    assert largest_difference(run, ANTECEDENT, wanted.body) <= ANTECEDENT.tolerance
    assert run(np.full((1, 1_100), 2), np.array([1_100])).shape == (1, 40)


@pytest.mark.slow
def test_ledger_models_answer_at_every_position_as_pytorch_does(tmp_path):
    done = run_export("--task", "ledger", "--repository", tmp_path)
    assert done.returncode == 0, done.stderr
    for wanted in EXPORTS["ledger"]:
        form = FORMATS[wanted.format]
        run = form.load(LEDGER, tmp_path / wanted.name / "1" / form.file)
        assert largest_difference(run, LEDGER, wanted.body) <= LEDGER.tolerance
        assert run(np.full((1, 300), 2)).shape == (1, 300, 16)


def test_recurrent_layers_and_attention_stay_visible_in_the_graph(repository):
    def count(name, operator):
        graph = onnx.load(repository / name / "1" / "model.onnx").graph
        return sum(node.op_type == operator for node in graph.node)

    assert count("rnn-onnx", "RNN") == 2
    assert count("lstm-onnx", "LSTM") == 2
    assert count("transformer-onnx", "Softmax") == 2


def test_check_finds_an_export_that_reads_padding():
    model = load_body("lstm")

    def run(tokens, lengths):
        whole = torch.full((len(tokens),), tokens.shape[1])
        return model(torch.from_numpy(tokens), whole).numpy()

    assert largest_difference(run, ANTECEDENT, "lstm") > 1


def test_fixed_axis_is_refused(repository, tmp_path):
    model = onnx.load(repository / "rnn-onnx" / "1" / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="axis 1 of 'tokens': got 5"):
        FORMATS["onnx"].load(ANTECEDENT, tmp_path / "model.onnx")


def test_missing_weights_fail_the_command_with_their_path(tmp_path):
    done = run_export("--repository", tmp_path / "to", "--weights", tmp_path / "from")
    assert done.returncode == 1
    assert str(tmp_path / "from" / "antecedent" / "rnn.safetensors") in done.stderr
    assert not list(tmp_path.rglob("model.*"))
