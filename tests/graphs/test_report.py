"""The report tells people and programs the same."""

import io

import msgspec
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from rich.console import Console
from tests.support.onnx_models import Transformer, masked, recurrent

from seqlens.graphs.anatomy import AnatomyOverrides, ModelAnatomy
from seqlens.graphs.onnx_graph import read_onnx
from seqlens.graphs.probing import find_anatomy
from seqlens.graphs.report import render, to_json
from seqlens.sequences import Array, Tensors


def inspect(model: ModelProto) -> ModelAnatomy:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Tensors) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return find_anatomy(read_onnx(model), run, AnatomyOverrides())


def printed(anatomy: ModelAnatomy, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render(anatomy, console, title="model.onnx")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_holds_the_whole_anatomy() -> None:
    anatomy = inspect(masked(Transformer(), torch.int64))
    assert msgspec.json.decode(to_json(anatomy), type=ModelAnatomy) == anatomy


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_report_fits_its_console(width: int) -> None:
    text = printed(inspect(masked(Transformer(), torch.int64)), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert len(text.splitlines()) <= (45 if width >= 100 else 80)


def test_the_report_of_a_transformer() -> None:
    text = printed(inspect(masked(Transformer(), torch.int64)))
    for expected in (
        "model.onnx",
        "TRANSFORMER",
        "2 self-attention sites, 3 heads; no recurrence",
        "O(1)",
        "up to 40; in batches",
        "batch x time",
        "set where real",
        "ids below 23",
    ):
        assert expected in text


def test_the_report_of_a_recurrent_net_shows_directions_and_findings() -> None:
    text = printed(inspect(recurrent("LSTM", bidirectional=True, head="length")))
    for expected in ("LSTM", "bidirectional", "12 -> 8", "O(n)", "! lengths: positions beyond"):
        assert expected in text


def test_names_from_files_are_not_taken_for_markup() -> None:
    model = recurrent()
    model.graph.input[0].name = "[bold]x[/bold]"
    for node in model.graph.node:
        node.input[:] = ["[bold]x[/bold]" if name == "x" else name for name in node.input]
    assert "[bold]x[/bold]" in printed(inspect(model))
