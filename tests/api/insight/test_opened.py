"""Models opened to look inside: shared, closed when idle, never closed under a thread."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from seqlens.api.insight.opened import OpenedModels
from seqlens.errors import ModelNotReady, ModelRejected, NotInModel
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.insight_lanes import InsightLanes


@dataclass(eq=False)
class Tapped:
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass(eq=False)
class Engine:
    """Opens a model each time it is asked, as slowly as the test wants."""

    opened: list[Tapped] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    can: bool = True

    def tapped(self) -> Any:
        self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.opened.append(Tapped())
        return self.opened[-1] if self.can else None


@pytest.fixture
async def lanes() -> AsyncIterator[InsightLanes]:
    lanes = InsightLanes(2, 8)
    lanes.start()
    yield lanes
    assert lanes.close()


@pytest.fixture
def engine() -> Engine:
    engine = Engine()
    engine.gate.set()
    return engine


@pytest.fixture
def model(engine: Engine) -> LoadedModel:
    return cast(LoadedModel, SimpleNamespace(name="m", backend="b", engine=engine))


async def use(lanes: InsightLanes, models: OpenedModels, model: LoadedModel) -> Any:
    with lanes.place() as place:
        tapped = await models.open(model, place, None)
        await asyncio.sleep(0.01)
        assert not tapped.closed
        return tapped


async def test_requests_at_once_share_what_one_of_them_opens(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    models.add(model)
    used = await asyncio.gather(*(use(lanes, models, model) for _ in range(4)))
    assert engine.opened == [used[0]]
    assert set(used) == {used[0]}
    await models.close(model, 1)
    assert used[0].closed


async def test_what_nobody_uses_is_closed_and_opened_again_when_needed(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=0.03)
    models.add(model)
    first = await use(lanes, models, model)
    again = await use(lanes, models, model)
    assert first is again
    async with asyncio.timeout(5):
        while not first.closed:  # noqa: ASYNC110 - closed in a thread
            await asyncio.sleep(0.01)
    assert await use(lanes, models, model) is not first
    await models.close(model, 1)
    assert [one.closed for one in engine.opened] == [True, True]


async def test_unloading_waits_for_those_who_look_inside(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    models.add(model)
    with lanes.place() as place:
        tapped = await models.open(model, place, None)
        closing = asyncio.create_task(models.close(model, 5))
        await asyncio.sleep(0.01)
        assert not closing.done()
        with lanes.place() as late, pytest.raises(ModelNotReady):
            await models.open(model, late, None)
        assert await place.run(lambda _: not cast(Any, tapped).closed)
    await closing
    assert engine.opened[0].closed


async def test_those_who_take_too_long_fail_and_are_not_closed_under(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    models.add(model)
    gate, seen = threading.Event(), []
    with lanes.place() as place:
        tapped = cast(Any, await models.open(model, place, None))

        def work(_: object) -> None:
            gate.wait()
            seen.append(tapped.closed)

        running = asyncio.create_task(place.run(work))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(models.close(model, 0.01))
        with pytest.raises(ModelNotReady):
            await running
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.set()
    await closing
    assert seen == [False]
    assert tapped.closed


async def test_a_caller_that_leaves_while_it_opens_loses_nothing(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    models.add(model)
    engine.gate.clear()
    first = asyncio.create_task(use(lanes, models, model))
    await asyncio.sleep(0.01)
    first.cancel()
    second = asyncio.create_task(use(lanes, models, model))
    await asyncio.sleep(0.01)
    engine.gate.set()
    assert await second is engine.opened[0]
    assert len(engine.opened) == 1
    await models.close(model, 1)
    assert engine.opened[0].closed


async def test_a_file_that_has_changed_is_the_callers_to_know_and_tried_again(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    models.add(model)
    engine.failure = ModelRejected("changed")
    with pytest.raises(ModelRejected, match="changed"):
        await use(lanes, models, model)
    engine.failure = None
    assert await use(lanes, models, model) is engine.opened[0]
    await models.close(model, 1)


async def test_backends_that_cannot_and_models_that_are_gone(
    lanes: InsightLanes, engine: Engine, model: LoadedModel
) -> None:
    models = OpenedModels(idle_seconds=60)
    with pytest.raises(ModelNotReady):
        await use(lanes, models, model)
    models.add(model)
    engine.can = False
    with pytest.raises(NotInModel, match="cannot look inside"):
        await use(lanes, models, model)
    await models.close(model, 1)
    await models.close(model, 1)  # what was never opened, or is closed, is no error
