"""perf_analyzer, the load generator of the reference server: fetched, run, and its report read."""

import csv
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.dropin.installing import call, folder_with, pip

# PyPI's package of that name is empty; tritonclient brought the program along up to 2.60, and
# 2.51 is the last that runs with a glibc older than 2.38. It is linked against CUDA's runtime,
# even where there is no GPU, and against libb64, which PyPI does not have and Debian has.
PINS = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")
DEBIAN_PACKAGE = "libb64-0d"

STAGES = {
    "queue": "Server Queue",
    "batch": "Server Compute Input",
    "compute": "Server Compute Infer",
    "encode": "Server Compute Output",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What perf_analyzer found at one concurrency."""

    requests: int  # answered, as the server counts them
    sequences: int
    executions: int
    per_second: float
    microseconds: dict[str, int]  # mean time in each stage of a request, rounded down


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """The program and the libraries that it needs."""

    program: Path
    libraries: tuple[Path, ...]

    def run(self, report: Path, *arguments: str) -> list[Measured]:
        """Measure once at each concurrency; raises ``AssertionError`` with what it wrote."""
        done = self.try_to_run("-v", "--verbose-csv", "-f", str(report), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return _measured(done.stdout, report)

    def try_to_run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever that is."""
        environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries))}
        return subprocess.run(
            [self.program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def perf_analyzer() -> PerfAnalyzer:
    """The program, fetched once. Skips the test where it cannot be had or does not start."""
    folder = folder_with("perf_analyzer", f"{PINS} {DEBIAN_PACKAGE}", _fetch)
    libraries = sorted({path.parent for path in folder.rglob("*.so*")})
    found = PerfAnalyzer(folder / "bin" / "perf_analyzer", tuple(libraries))
    try:
        started = found.try_to_run("--version")
    except OSError as error:
        pytest.skip(f"perf_analyzer does not run on this machine: {error}")
    if started.returncode != 0:
        pytest.skip(f"perf_analyzer does not start: {started.stderr.strip().splitlines()[-1]}")
    return found


def _fetch(folder: Path) -> None:
    pip(sys.executable, "--no-deps", "--target", str(folder), *PINS)
    if ctypes.util.find_library("b64"):
        return
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("perf_analyzer needs libb64, which neither is there nor can be had from Debian")
    # Taken apart instead of installed, which leaves the system as it was.
    call("apt-get", "download", "-qq", DEBIAN_PACKAGE, folder=folder)
    package = next(folder.glob(f"{DEBIAN_PACKAGE}_*.deb"))
    call("dpkg-deb", "-x", str(package), str(folder))


def _measured(told: str, report: Path) -> list[Measured]:
    with report.open() as lines:
        rows = list(csv.DictReader(lines))
    rows.sort(key=lambda row: int(row["Concurrency"]))
    counts = (
        [int(count) for count in re.findall(rf"{what} count: (\d+)", told)]
        for what in ("Successful request", "Inference", "Execution")
    )
    return [
        Measured(
            requests,
            sequences,
            executions,
            float(row["Inferences/Second"]),
            {stage: int(row[column]) for stage, column in STAGES.items()},
        )
        for row, requests, sequences, executions in zip(rows, *counts, strict=True)
    ]
