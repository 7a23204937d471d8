"""Parameters that mean something are read strictly, all others do not matter."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlens.api.parameters import (
    LARGEST_NUMBER,
    Parameter,
    read_flag,
    read_output,
    read_place,
    read_sequence_id,
    read_urgency,
)
from seqlens.api.requests import RequestedOutput, SharedPlace, Urgency
from seqlens.errors import InvalidRequest

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
MEANINGFUL = {
    "priority",
    "timeout",
    "sequence_id",
    "classification",
    "shared_memory_region",
    "shared_memory_offset",
    "shared_memory_byte_size",
}


@given(st.dictionaries(st.text().filter(lambda name: name not in MEANINGFUL), VALUES))
def test_unknown_parameters_are_ignored_whatever_their_type(
    unknown: dict[str, Parameter],
) -> None:
    assert read_urgency(unknown) == Urgency()
    assert read_sequence_id(unknown) == 0
    assert read_output("y", unknown) == RequestedOutput("y")
    assert read_place(unknown, "f") is None


@pytest.mark.parametrize("name", ["headers", "sequence_start", "sequence_end", "triton_x"])
@pytest.mark.parametrize("value", [True, 1, "x", 0.5, None])
def test_reserved_parameters_are_ignored_as_well(name: str, value: Parameter) -> None:
    assert read_urgency({name: value}) == Urgency()
    assert read_sequence_id({name: value}) == 0


@given(st.integers(0, LARGEST_NUMBER))
def test_any_64_bit_number_is_a_priority(number: int) -> None:
    assert read_urgency({"priority": number}).priority == number


@pytest.mark.parametrize(
    ("microseconds", "remaining", "seconds"),
    [
        (2_000_000, None, 2.0),
        (2_000_000, 1.0, 1.0),
        (2_000_000, 60.0, 2.0),
        (0, 60.0, 60.0),
        (None, 60.0, 60.0),
        (LARGEST_NUMBER, 60.0, 60.0),
    ],
)
def test_the_nearer_of_timeout_and_deadline_counts(
    microseconds: int | None, remaining: float | None, seconds: float
) -> None:
    deadline = read_urgency({"timeout": microseconds}, remaining).deadline
    assert deadline == pytest.approx(time.monotonic() + seconds, abs=0.5)


@pytest.mark.parametrize("parameters", [{}, {"timeout": 0}, {"timeout": None}, {"priority": 3}])
def test_without_a_timeout_there_is_no_deadline(parameters: dict[str, Parameter]) -> None:
    assert read_urgency(parameters).deadline is None


@pytest.mark.parametrize("value", [0, "", None, 7, -7, 2**64 - 1, "talk", "0", "разговор"])
def test_sequences_are_named_by_numbers_or_texts(value: int | str | None) -> None:
    expected = 0 if value is None else value
    assert read_sequence_id({"sequence_id": value}) == expected


NUMBERS: dict[str, Callable[[Any], object]] = {
    "parameters.priority": lambda value: read_urgency({"priority": value}),
    "parameters.timeout": lambda value: read_urgency({"timeout": value}),
    "outputs.y.parameters.classification": lambda value: read_output(
        "y", {"classification": value}
    ),
    "outputs.y.parameters.shared_memory_offset": lambda value: read_output(
        "y",
        {
            "shared_memory_region": "r",
            "shared_memory_byte_size": 1,
            "shared_memory_offset": value,
        },
    ),
    "inputs.x.shared_memory_byte_size": lambda value: read_place(
        {"shared_memory_region": "r", "shared_memory_byte_size": value}, "inputs.x"
    ),
}


@pytest.mark.parametrize("field", NUMBERS)
@given(value=VALUES.filter(lambda value: value is not None))
def test_what_is_no_64_bit_number_is_refused_by_name(field: str, value: Any) -> None:
    if type(value) is int and 0 <= value <= LARGEST_NUMBER:
        NUMBERS[field](value)
        return
    with pytest.raises(InvalidRequest) as caught:
        NUMBERS[field](value)
    assert (caught.value.field, caught.value.got) == (field, repr(value))


@pytest.mark.parametrize("value", [True, 0.5, 2.0])
def test_a_sequence_needs_a_number_or_a_text(value: Parameter) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_sequence_id({"sequence_id": value})
    assert caught.value.field == "parameters.sequence_id"


def test_a_place_in_shared_memory() -> None:
    parameters: dict[str, Parameter] = {
        "shared_memory_region": "r",
        "shared_memory_byte_size": 0,
        "classification": 4,
    }
    assert read_output("y", parameters) == RequestedOutput("y", 4, SharedPlace("r", 0, 0))
    parameters["shared_memory_offset"] = LARGEST_NUMBER
    assert read_place(parameters, "f") == SharedPlace("r", LARGEST_NUMBER, 0)


@pytest.mark.parametrize("region", [None, ""])
def test_without_a_region_a_tensor_is_in_the_message(region: str | None) -> None:
    assert read_place({"shared_memory_region": region, "shared_memory_offset": -1}, "f") is None


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"shared_memory_region": "r"}, "f.shared_memory_byte_size"),
        (
            {"shared_memory_region": "r", "shared_memory_byte_size": None},
            "f.shared_memory_byte_size",
        ),
        ({"shared_memory_region": 7, "shared_memory_byte_size": 1}, "f.shared_memory_region"),
        ({"shared_memory_region": True, "shared_memory_byte_size": 1}, "f.shared_memory_region"),
    ],
)
def test_a_place_needs_the_name_of_a_region_and_a_size(
    parameters: dict[str, Parameter], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_place(parameters, "f")
    assert caught.value.field == field


def test_a_flag_is_true_or_false_or_not_there() -> None:
    assert [read_flag({"f": value}, "f", "") for value in (True, False, None)] == [
        True,
        False,
        None,
    ]
    assert read_flag({}, "f", "") is None
    for wrong in (0, 1, "true", 1.0):
        with pytest.raises(InvalidRequest) as caught:
            read_flag({"f": wrong}, "f", "parameters")
        assert caught.value.field == "parameters.f"
