"""Where models run: what was asked for against what this machine and installation have."""

import re

from seqlens.backends.base import Device
from seqlens.errors import DeviceMissing

_FORM = re.compile(r"auto|cpu|cuda(?::(\d+))?")


def parse_device(text: str) -> Device:
    """Read ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises ``ValueError`` for anything else."""
    match = _FORM.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"device {text!r}: expected auto, cpu, cuda or cuda:N")
    return Device(match[0].partition(":")[0], int(match[1] or 0))


def choose_device(asked: Device, cuda_devices: int, *, library: str, advice: str) -> Device:
    """The device to use: what was asked for, or for ``auto`` the first CUDA device, else the CPU.

    ``cuda_devices`` is how many the library can use. Raises ``DeviceMissing``, with ``advice`` on
    what to install, for one that is asked for but not there.
    """
    if asked.kind == "auto":
        return Device("cuda") if cuda_devices else Device("cpu")
    if asked.kind == "cuda" and asked.index >= cuda_devices:
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(cuda_devices))])
        hint = f". {advice}" if not cuda_devices else ""
        raise DeviceMissing(
            f"device {asked} is not available to {library}; available: {there}{hint}",
            field="device",
            got=str(asked),
            expected=there,
        )
    return asked
