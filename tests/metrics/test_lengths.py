"""Every length has one range, and the ranges say what they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.metrics.lengths import MAX_BOUNDS, LengthRanges
from seqlens.settings import ServerSettings

rising_bounds = st.lists(
    st.integers(min_value=1, max_value=100_000), unique=True, max_size=MAX_BOUNDS
).map(sorted)


def holds(label: str, length: int) -> bool:
    if label.endswith("+"):
        return length >= int(label[:-1])
    low, high = map(int, label.split("-"))
    return low <= length <= high


def test_default_bounds_give_the_documented_ranges() -> None:
    ranges = LengthRanges(ServerSettings.__dataclass_fields__["length_buckets"].default)
    assert ranges.labels == (
        "1-16", "17-32", "33-64", "65-128", "129-256", "257-512", "513-1024", "1025+",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("length", "label"),
    [
        (0, "1-16"),
        (1, "1-16"),
        (16, "1-16"),
        (17, "17-20"),
        (20, "17-20"),
        (21, "21+"),
        (None, "none"),
    ],
)
def test_borders_belong_to_the_lower_range(length: int | None, label: str) -> None:
    assert LengthRanges((16, 20)).label(length) == label


@given(rising_bounds, st.integers(min_value=1, max_value=200_000))
def test_a_length_lies_in_its_range_and_in_no_other(bounds: list[int], length: int) -> None:
    ranges = LengthRanges(bounds)
    assert [label for label in ranges.labels if holds(label, length)] == [ranges.label(length)]


@given(rising_bounds)
def test_there_is_one_range_more_than_bounds(bounds: list[int]) -> None:
    ranges = LengthRanges(bounds)
    assert len(set(ranges.labels)) == len(bounds) + 1


@pytest.mark.parametrize("bounds", [(0, 16), (16, 16), (32, 16), (-1,), tuple(range(1, 14))])
def test_bounds_that_make_no_ranges_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="length_buckets"):
        LengthRanges(bounds)
