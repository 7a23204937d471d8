"""Parameters of requests, inputs and outputs that have a meaning; all others are ignored.

Both edges read them as plain values, so that a parameter means the same over gRPC and REST.
"""

from collections.abc import Mapping

from seqlens.api.requests import RequestedOutput, SharedPlace, Urgency, deadline_in
from seqlens.errors import InvalidRequest

Parameter = bool | int | float | str | None
Parameters = Mapping[str, Parameter]

LARGEST_NUMBER = 2**64 - 1


def read_urgency(parameters: Parameters, time_remaining: float | None = None) -> Urgency:
    """Of a request: ``priority``, and the nearer of ``timeout`` and the caller's own deadline.

    ``timeout`` is in microseconds, ``time_remaining`` in seconds. Raises ``InvalidRequest``.
    """
    if not parameters and time_remaining is None:
        return Urgency()
    allowed = [] if time_remaining is None else [time_remaining]
    if microseconds := read_number(parameters, "timeout", "parameters"):
        allowed.append(microseconds / 1e6)
    return Urgency(
        deadline=deadline_in(min(allowed, default=None)),
        priority=read_number(parameters, "priority", "parameters"),
    )


def read_sequence_id(parameters: Parameters) -> int | str:
    """Of a request: the sequence that it belongs to; 0 and "" stand for none.

    Raises ``InvalidRequest``.
    """
    value = parameters.get("sequence_id")
    if value is None:
        return 0
    # Python's bool is an int as well. Negative numbers are hashes that clients made in int64.
    if isinstance(value, str) or type(value) is int:
        return value
    raise InvalidRequest(
        "parameters.sequence_id", got=repr(value), expected="an integer or a string"
    )


def read_output(name: str, parameters: Parameters) -> RequestedOutput:
    """One output that is asked for. Raises ``InvalidRequest``."""
    if not parameters:
        return RequestedOutput(name)
    field = f"outputs.{name}.parameters"
    return RequestedOutput(
        name,
        classes=read_number(parameters, "classification", field),
        place=read_place(parameters, field),
    )


def read_place(parameters: Parameters, field: str) -> SharedPlace | None:
    """Where in shared memory a tensor lies; None: in the message.

    As in the reference server an input has exactly as many bytes as its place, and an output at
    most as many. Raises ``InvalidRequest``.
    """
    region = parameters.get("shared_memory_region")
    if region is None or region == "":
        return None
    if not isinstance(region, str):
        raise InvalidRequest(
            f"{field}.shared_memory_region", got=repr(region), expected="the name of a region"
        )
    if parameters.get("shared_memory_byte_size") is None:
        raise InvalidRequest(
            f"{field}.shared_memory_byte_size", got="nothing", expected="the tensor's size in bytes"
        )
    return SharedPlace(
        region,
        offset=read_number(parameters, "shared_memory_offset", field),
        byte_size=read_number(parameters, "shared_memory_byte_size", field),
    )


def read_number(parameters: Parameters, name: str, field: str) -> int:
    """An integer that is not negative, 0 if it is not there. Raises ``InvalidRequest``."""
    value = parameters.get(name)
    if value is None:
        return 0
    # Python's bool is an int as well.
    if type(value) is int and 0 <= value <= LARGEST_NUMBER:
        return value
    raise InvalidRequest(
        f"{field}.{name}", got=repr(value), expected=f"an integer from 0 to {LARGEST_NUMBER}"
    )


def read_flag(parameters: Parameters, name: str, field: str) -> bool | None:
    """True, false, or None if it is not there. Raises ``InvalidRequest``."""
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f"{field}.{name}", got=repr(value), expected="true or false")
