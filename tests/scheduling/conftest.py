"""A small real engine, an observer that remembers, and lanes that stop after each test."""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from seqlens.backends.base import Capabilities, Device
from seqlens.errors import BackendFailed
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.metrics.observer import ModelLabels
from seqlens.scheduling.cost import CostModel, Measurement
from seqlens.scheduling.lanes import Arbiter
from seqlens.scheduling.model_queue import ServedModel
from seqlens.scheduling.strategy import Decision, Strategy
from seqlens.sequences import InputSequence
from seqlens.settings import SchedulerSettings

BATCHES_PAY = CostModel(
    tuple(
        Measurement(length, batch, 1e-4 * length**0.5)
        for length in (1, 64, 1_024)
        for batch in (1, 32)
    )
)


class RunningSums:
    """Sums the tokens up to each position, and in all; negative tokens are refused."""

    def __init__(self, *, concurrent=True, before=None):
        self.capabilities = Capabilities(Device("cpu"), concurrent_runs=concurrent)
        self.before = before or (lambda tokens: None)
        self.batches = []  # the tokens of each run
        self.anatomy = ModelAnatomy(
            inputs=(
                InputAnatomy("tokens", "INT64", (-1, -1), InputRole.SEQUENCE, 0, 1),
                InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0),
            ),
            outputs=(
                OutputAnatomy("sums", "INT64", (-1, -1), OutputRole.PER_STEP, 0, (1,)),
                OutputAnatomy("total", "INT64", (-1,), OutputRole.PER_SEQUENCE, 0),
            ),
            architecture=Architecture.RNN,
            evidence=(),
            sequential_depth="O(n)",
        )

    def run(self, inputs):
        tokens, lengths = inputs["tokens"], inputs["lengths"]
        self.batches.append(tokens)
        self.before(tokens)
        if (tokens < 0).any():
            raise BackendFailed("negative token")
        sums = np.cumsum(tokens, axis=1)
        return {"sums": sums, "total": sums[np.arange(len(tokens)), lengths - 1]}

    def tapped(self):
        return None

    def close(self):
        pass


class Events:
    """Remembers what the lanes report: (event, keyword arguments)."""

    def __init__(self):
        self.seen = []
        self.restarts = []

    def lane_restarted(self, lane):
        self.restarts.append(lane)

    def watch_queue(self, labels, read):
        self.seen.append(("watch_queue", {"model": labels.model, "state": read()}))

    def __getattr__(self, name):
        return lambda labels, **details: self.seen.append(
            (name, {"model": labels.model, **details})
        )

    def of(self, name):
        return [details for event, details in self.seen if event == name]


@pytest.fixture
def sequence():
    return lambda *tokens: InputSequence({"tokens": np.array(tokens, np.int64)}, len(tokens))


@pytest.fixture
def sums():
    return RunningSums


@pytest.fixture
def gate():
    """Engines wait at it until the test opens it: what is submitted meanwhile has to queue."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def until():
    """Give the lanes time until a condition holds; the timeout of the test bounds it."""

    async def wait(condition):
        while not condition():  # noqa: ASYNC110 - lanes are threads and set no asyncio event
            await asyncio.sleep(0.001)

    return wait


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def served():
    def make(engine, strategy=Strategy.BY_LENGTH, *, name="sums", cost=BATCHES_PAY, **settings):
        return ServedModel(
            ModelLabels(name, "1", Architecture.RNN),
            engine,
            Decision(strategy, "as the test wants it"),
            cost,
            SchedulerSettings(**settings),
        )

    return make


@pytest.fixture
def running(events):
    @contextlib.asynccontextmanager
    async def start(lanes=1):
        arbiter = Arbiter(lanes, events)
        arbiter.start()
        try:
            yield arbiter
        finally:
            assert arbiter.close(), "a lane did not end"

    return start
