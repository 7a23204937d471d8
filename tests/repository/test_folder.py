import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.errors import ModelRejected
from seqlens.repository.folder import list_models

SUFFIXES = (".onnx", ".pt")


def lay(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"model")
    return folder


def versions(folder: Path, name: str) -> dict[int, str]:
    found = list_models(folder, SUFFIXES).model(name)
    assert found is not None
    return {v.version: v.path.name if v.path else v.reason for v in found.versions}


def test_models_and_versions_are_found_ascending_as_numbers(tmp_path: Path) -> None:
    lay(tmp_path, "b/10/model.onnx", "b/9/model.pt", "a/1/model.onnx")
    listing = list_models(tmp_path, SUFFIXES)
    assert [model.name for model in listing.models] == ["a", "b"]
    assert list(versions(tmp_path, "b")) == [9, 10]
    assert listing.ignored == {}


def test_one_models_folder_is_served(tmp_path: Path) -> None:
    folder = lay(tmp_path / "tagger", "1/model.onnx", "2/model.onnx", "tokenizer.json")
    (model,) = list_models(folder, SUFFIXES).models
    assert (model.name, model.folder, len(model.versions)) == ("tagger", folder, 2)


def test_a_file_directly_in_a_models_folder_is_version_one(tmp_path: Path) -> None:
    folder = lay(tmp_path / "tagger", "weights.onnx", "labels.txt")
    assert versions(folder, "tagger") == {1: "weights.onnx"}
    assert versions(tmp_path, "tagger") == {1: "weights.onnx"}


def test_a_single_file_is_named_after_itself(tmp_path: Path) -> None:
    lay(tmp_path, "Foo.v2.ONNX")
    assert versions(tmp_path / "Foo.v2.ONNX", "Foo.v2") == {1: "Foo.v2.ONNX"}


def test_the_file_called_model_wins_over_others(tmp_path: Path) -> None:
    lay(tmp_path, "a/1/model.onnx", "a/1/calibration.onnx", "a/1/model.onnx.data")
    assert versions(tmp_path, "a") == {1: "model.onnx"}


def test_two_model_files_in_one_version_are_refused_by_name(tmp_path: Path) -> None:
    lay(tmp_path, "a/1/model.onnx", "a/1/model.pt", "a/2/x.onnx", "a/2/y.onnx", "a/3/x.onnx")
    found = versions(tmp_path, "a")
    assert "model.onnx, model.pt" in found[1]
    assert "x.onnx, y.onnx" in found[2]
    assert found[3] == "x.onnx"


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "empty/readme.md", "hollow/1/notes.txt")
    listing = list_models(tmp_path, SUFFIXES)
    assert "no version; expected 1/model.onnx or 1/model.pt" in listing.model("empty").reason
    assert "no model file; expected one of model.onnx" in versions(tmp_path, "hollow")[1]


def test_what_is_passed_over_has_its_reason(tmp_path: Path) -> None:
    files = ("a/1/model.onnx", "a/model.onnx", "a/01/model.onnx", "a/0/model.onnx", "stray.onnx2")
    listing = list_models(lay(tmp_path, *files, "a/assets/x"), SUFFIXES)
    assert list(versions(tmp_path, "a")) == [1]
    assert {path.relative_to(tmp_path).as_posix() for path in listing.ignored} == {
        "a/model.onnx", "a/01", "a/0", "a/assets", "stray.onnx2",
    }  # fmt: skip
    assert all(listing.ignored.values())


def test_hidden_entries_are_passed_over_in_silence(tmp_path: Path) -> None:
    lay(tmp_path, ".git/1/model.onnx", "a/1/model.onnx", "a/1/.model.pt", "a/.ipynb/x")
    listing = list_models(tmp_path, SUFFIXES)
    assert [model.name for model in listing.models] == ["a"]
    assert versions(tmp_path, "a") == {1: "model.onnx"}
    assert listing.ignored == {}


@pytest.mark.parametrize("name", ["mo del", "modèle", "-x", "_unknown", "a" * 129, "a\nb", "a:b"])
def test_names_with_odd_characters_are_refused(tmp_path: Path, name: str) -> None:
    lay(tmp_path, f"{name}/1/model.onnx", "good/1/model.onnx")
    listing = list_models(tmp_path, SUFFIXES)
    assert "is not allowed" in listing.model(name).reason
    assert listing.model(name).versions == ()
    assert listing.model("good").reason == ""


def test_a_folder_that_cannot_be_read_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "a/1/model.onnx", "b/1/model.onnx", "b/2/model.onnx", "c/1/model.onnx")
    closed, listed = {tmp_path / "a", tmp_path / "b" / "2"}, Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:  # root, whom containers run as, may read anything
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert list_models(tmp_path, SUFFIXES).model("a").reason == "cannot be read: Permission denied"
    assert versions(tmp_path, "b") == {1: "model.onnx", 2: "cannot be read: Permission denied"}
    assert versions(tmp_path, "c") == {1: "model.onnx"}


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="cannot be read: No such file"):
        list_models(tmp_path / "nowhere", SUFFIXES)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "model.h5")
    with pytest.raises(ModelRejected, match=r"expected one of \.onnx, \.pt"):
        list_models(tmp_path / "model.h5", SUFFIXES)


@given(names=st.sets(st.text(string.ascii_letters + "0._-", min_size=1, max_size=8), max_size=6))
def test_every_folder_is_a_model_or_hidden(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    names = {name.lower() for name in names} - {".", ".."}
    folder = tmp_path_factory.mktemp("repository")
    lay(folder, *(f"{name}/1/model.onnx" for name in names))
    found = {model.name for model in list_models(folder, SUFFIXES).models}
    assert found == {name for name in names if not name.startswith(".")}
