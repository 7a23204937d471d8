from collections.abc import Callable
from pathlib import Path

import pytest

from seqlens.errors import ModelRejected
from seqlens.repository.content import graph_content, proof_key, whole_content
from seqlens.repository.folder import FoundModel


def versioned(folder: Path) -> tuple[FoundModel, Path]:
    path = folder / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"graph")
    (folder / "1" / "weight.0").write_bytes(b"weights")
    (folder / "labels.txt").write_text("a\nb\n")
    return FoundModel("m", folder), path


def test_equal_files_have_equal_content_wherever_they_lie(tmp_path: Path) -> None:
    one, other = versioned(tmp_path / "a"), versioned(tmp_path / "b")
    assert graph_content(*one) == graph_content(*other)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "1" / "model.onnx").write_bytes(b"grapH"),
        lambda folder: (folder / "1" / "weight.0").write_bytes(b"weightS"),
        lambda folder: (folder / "1" / "weight.0").rename(folder / "1" / "weight.1"),
        lambda folder: (folder / "1" / "weight.2").write_bytes(b""),
    ],
)
def test_any_change_of_graph_or_weights_changes_the_content(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    model = versioned(tmp_path)
    before = graph_content(*model)
    change(tmp_path)
    assert graph_content(*model) != before


def test_labels_count_for_the_whole_and_not_for_the_graph(tmp_path: Path) -> None:
    model, path = versioned(tmp_path)
    graph, whole = graph_content(model, path), whole_content(model, graph_content(model, path))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    assert graph_content(model, path) == graph
    assert whole_content(model, graph) != whole


def test_weights_beside_a_single_file_count(tmp_path: Path) -> None:
    path = tmp_path / "foo.onnx"
    path.write_bytes(b"graph")
    (tmp_path / "foo.onnx.data").write_bytes(b"weights")
    model = FoundModel("foo", tmp_path)
    before = graph_content(model, path)
    assert graph_content(model, path) == before
    (tmp_path / "foo.onnx.data").write_bytes(b"other weights")
    assert graph_content(model, path) != before


def test_a_file_that_has_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="cannot be read: No such file"):
        graph_content(FoundModel("foo", tmp_path), tmp_path / "foo.onnx")


def test_libraries_and_circumstances_change_the_key() -> None:
    keys = {
        proof_key("graph", {"torch": "2"}, ("cpu", 1)),
        proof_key("graph", {"torch": "3"}, ("cpu", 1)),
        proof_key("graph", {"torch": "2"}, ("cpu", 2)),
        proof_key("other", {"torch": "2"}, ("cpu", 1)),
    }
    assert len(keys) == 4
    assert proof_key("graph", {"torch": "2"}, ("cpu", 1)) in keys
