"""Devices: asked for, chosen, missing."""

import pytest

from seqlens.backends.base import Device
from seqlens.backends.devices import choose_device, parse_device
from seqlens.errors import DeviceMissing


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:3", Device("cuda", 3)),
        (" CUDA:0 ", Device("cuda", 0)),
    ],
)
def test_devices_are_read(text: str, device: Device) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "auto:1"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected auto, cpu, cuda or cuda:N"):
        parse_device(text)


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        (Device("auto"), 0, Device("cpu")),
        (Device("auto"), 2, Device("cuda", 0)),
        (Device("cpu"), 2, Device("cpu")),
        (Device("cuda", 1), 2, Device("cuda", 1)),
    ],
)
def test_the_device_asked_for_is_chosen(asked: Device, there: int, chosen: Device) -> None:
    assert choose_device(asked, there, library="X", advice="install Y") == chosen


def test_a_missing_device_says_what_is_there_and_what_to_install() -> None:
    with pytest.raises(DeviceMissing, match=r"cuda:0 is not available to X; available: cpu. Get Y"):
        choose_device(Device("cuda"), 0, library="X", advice="Get Y")
    with pytest.raises(DeviceMissing, match=r"available: cpu, cuda:0$"):
        choose_device(Device("cuda", 1), 1, library="X", advice="Get Y")
