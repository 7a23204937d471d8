from hypothesis import given
from hypothesis import strategies as st

from seqlens_wire.errors import MAX_CHARACTERS, ErrorDetails, from_metadata, to_metadata

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_CHARACTERS)


@given(TEXTS, TEXTS, TEXTS, st.none() | st.integers(0, 10**6))
def test_details_come_back(field: str, got: str, expected: str, pause: int | None) -> None:
    details = ErrorDetails(field, got, expected, None if pause is None else pause / 1000)
    assert from_metadata(to_metadata(details)) == details


@given(st.text(max_size=400).map(lambda text: text.encode("utf-8", "ignore").decode()))
def test_metadata_is_what_grpc_takes_and_small(text: str) -> None:
    metadata = to_metadata(ErrorDetails(text, text, text, 1.5))
    assert sum(len(key) + len(value) for key, value in metadata) < 8192
    assert all(" " < character <= "~" for _, value in metadata for character in value)


def test_long_texts_are_cut_with_a_mark() -> None:
    cut = from_metadata(to_metadata(ErrorDetails(got="x" * 1000))).got
    assert len(cut) == MAX_CHARACTERS
    assert cut.endswith("…")


def test_metadata_of_others_is_skipped() -> None:
    metadata = [("trace-bin", b"\0"), ("grpc-retry-pushback-ms", "-1"), ("seqlens-error-got", "3")]
    assert from_metadata(metadata) == ErrorDetails(got="3")
