"""Keys: what a file of them may hold, and which requests pass."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from seqlens.api import watched
from seqlens.api.keys import MAX_FILE_BYTES, MAX_KEY_CHARACTERS, Keys, read_keys
from seqlens.errors import NotAuthenticated
from seqlens.settings import InvalidSetting

PRINTABLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
KEY = st.text(PRINTABLE, min_size=1, max_size=40).filter(lambda key: not key.startswith("#"))
NO_KEY = st.sampled_from(["", "   ", "# a comment", "  # of two words"])


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "keys.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def passes(keys: Keys, *authorization: str | bytes) -> bool:
    try:
        keys.check(authorization)
    except NotAuthenticated:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def two_keys(folder: Path) -> Keys:
    return Keys(written(folder, "first\nsecond\n"))


@given(
    lines=st.lists(st.tuples(NO_KEY, KEY, st.sampled_from(["", " ", "\t"])), min_size=1),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_every_line_that_is_no_comment_is_a_key(
    folder: Path, lines: list[tuple[str, str, str]], end: str
) -> None:
    text = end.join(f"{comment}{end}{space}{key}{space}" for comment, key, space in lines)
    assert read_keys(written(folder, text)) == [key.encode() for _, key, _ in lines]


@given(
    known=st.sets(KEY, min_size=1, max_size=5),
    came=KEY,
    scheme=st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]),
    as_bytes=st.booleans(),
)
def test_exactly_the_keys_of_the_file_pass(
    folder: Path, known: set[str], came: str, scheme: str, as_bytes: bool
) -> None:
    keys = Keys(written(folder, "\n".join(known)))
    for key in (*known, came):
        value = f"{scheme} {key}"
        assert passes(keys, value.encode() if as_bytes else value) is (key in known)


@given(value=st.text() | st.binary())
def test_whatever_else_comes_is_refused(two_keys: Keys, value: str | bytes) -> None:
    assert not passes(two_keys, value)


@pytest.mark.parametrize(
    ("authorization", "got"),
    [
        ([], "nothing"),
        (["Bearer first", "Bearer first"], "several"),
        (["Basic first"], "another scheme"),
        (["first"], "another scheme"),
        (["Bearer"], "a key that is not known"),
        (["Bearer "], "a key that is not known"),
        (["Bearer First"], "a key that is not known"),
        (["Bearer first second"], "a key that is not known"),
        (["Bearer s3cret-guess"], "a key that is not known"),
    ],
)
def test_a_refusal_says_what_came_and_never_repeats_it(
    two_keys: Keys, authorization: list[str], got: str
) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        two_keys.check(authorization)
    assert str(caught.value) == f"authorization: got {got}, expected 'Bearer KEY'"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "expected at least one key"),
        ("# nothing else\n\n", "expected at least one key"),
        ("good\ns3cret word\n", "line 2: expected printable ASCII characters without spaces"),
        ("schlüssel", "line 1: expected printable ASCII"),
        (b"\xff\xfes3cret", "line 1: expected printable ASCII"),
        ("\ufeffs3cret", "line 1: expected printable ASCII"),
        ("s3cret\0", "line 1: expected printable ASCII"),
        ("k" * (MAX_KEY_CHARACTERS + 1), "line 1: "),
        ("key\n" * (MAX_FILE_BYTES // 4 + 1), f"expected at most {MAX_FILE_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_not_shown(
    folder: Path, data: str | bytes, reason: str
) -> None:
    path = written(folder, data)
    with pytest.raises(InvalidSetting) as caught:
        Keys(path)
    assert str(caught.value).startswith(f"security.keys: {path}: {reason}")
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"security.keys: .*/none: No such file or directory"):
        Keys(folder / "none")


def test_keys_follow_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    path = written(tmp_path, "old")
    keys = Keys(path)
    for broken in ("", "two words", None):
        if broken is None:
            path.unlink()
        else:
            written(tmp_path, broken)
        with capture_logs() as logs:
            assert passes(keys, "Bearer old")
            assert passes(keys, "Bearer old")
        (line,) = logs  # once for each state of the file, however often it is looked at
        assert (line["log_level"], line["files"]) == ("error", [str(path)])
        assert "security.keys" in line["reason"]
    written(tmp_path, "new")
    assert passes(keys, "Bearer new")
    assert not passes(keys, "Bearer old")
