"""Values that follow their files."""

from pathlib import Path

import pytest

from seqlens.api import watched
from seqlens.api.watched import Watched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("a")
    return path


def test_the_value_is_the_same_until_the_file_changes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    value = Watched([file], lambda: [file.read_text()])
    first = value.current()
    assert value.current() is first == ["a"]
    file.write_text("bc")
    assert value.current() == ["bc"]


def test_the_file_is_not_looked_at_for_every_request(file: Path) -> None:
    value = Watched([file], file.read_text)
    file.write_text("bc")
    assert value.current() == "a"


def test_a_file_that_changes_while_it_is_read_is_read_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    later = ["and more", "the end of it"]

    def read() -> str:
        text = file.read_text()
        if text != "a" and later:
            file.write_text(text + later.pop(0))
        return text

    value = Watched([file], read)
    file.write_text("begun, ")
    seen = [value.current() for _ in range(3)]
    assert seen == ["a", "a", "begun, and morethe end of it"]


def test_a_file_that_is_put_in_place_of_another_is_seen(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    link = file.with_name("link")  # as secrets are mounted into containers
    link.symlink_to(file)
    value = Watched([link], link.read_text)
    other = file.with_name("other")
    other.write_text("b")
    new = file.with_name("new")
    new.symlink_to(other)
    new.rename(link)
    assert value.current() == "b"


def test_what_cannot_be_read_at_all_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(FileNotFoundError):
        Watched([path], path.read_text)
