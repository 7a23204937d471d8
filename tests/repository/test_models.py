import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.support.numpy_models import NumpyBackend, only
from tests.support.onnx_models import recurrent
from tests.support.torchscript_modules import Recurrent, made, quiet

from seqlens.errors import ModelNotFound, ModelNotReady, ModelRejected
from seqlens.repository.loading import LoadedModel
from seqlens.repository.models import Repository
from seqlens.repository.states import ModelEntry, ModelState
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import ServerSettings


@dataclass
class Events:
    """What the repository told, in order; stands for the server and for the metrics."""

    told: list[tuple[str, str]] = field(default_factory=list)
    before_ready: Callable[[LoadedModel], None] = lambda model: None
    seen: Callable[[LoadedModel], None] = lambda model: None

    async def ready(self, model: LoadedModel) -> None:
        self.before_ready(model)
        self.told.append(("ready", f"{model.name}/{model.version}"))

    async def unload(self, model: LoadedModel) -> None:
        self.seen(model)
        self.told.append(("unload", f"{model.name}/{model.version}"))

    def model_loaded(self, labels: Any, report: Any) -> None:
        self.told.append(("loaded", f"{labels.model}/{labels.version}"))

    def model_load_failed(self, model: str, *, result: str) -> None:
        self.told.append((result, model))

    def model_unloaded(self, labels: Any) -> None:
        self.told.append(("unloaded", f"{labels.model}/{labels.version}"))


@dataclass
class Place:
    """A repository of numpy models on disk and in memory."""

    folder: Path
    backend: NumpyBackend
    events: Events
    models: Repository

    def write(self, name: str, version: int, text: str = "safe", config: str = "") -> None:
        path = self.folder / name / str(version) / "model.numpy"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if config:
            (self.folder / name / "model.yaml").write_text(config)

    def state(self, name: str, version: str) -> ModelState:
        return self.entry(name, version).state

    def entry(self, name: str, version: str) -> ModelEntry:
        return next(e for e in self.models.index() if (e.name, e.version) == (name, version))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    folder, backend, events = tmp_path / "repository", NumpyBackend(), Events()
    folder.mkdir()
    settings = ServerSettings(folder, cache=tmp_path / "cache", load_workers=2)
    models = Repository(settings, events, events.ready, events.unload, backends=only(backend))
    yield Place(folder, backend, events, models)
    await models.close()


async def test_the_highest_version_serves_unless_another_is_named(place: Place) -> None:
    for version in (2, 10, 9):
        place.write("m", version, config="version_policy: all")
    await place.models.load_all()
    assert place.models.get("m").version == "10"
    assert place.models.get("m", "9").version == "9"
    assert [e.version for e in place.models.index()] == ["2", "9", "10"]


async def test_by_default_only_the_latest_is_loaded(place: Place) -> None:
    place.write("m", 1)
    place.write("m", 2)
    await place.models.load_all()
    assert place.state("m", "2") is ModelState.READY
    assert place.entry("m", "1").reason == "left out by version_policy"
    with pytest.raises(ModelNotReady, match="left out by version_policy"):
        place.models.get("m", "1")


async def test_a_version_that_is_asked_for_and_missing_is_in_the_index(place: Place) -> None:
    place.write("m", 1, config="version_policy: {specific: [1, 4]}")
    await place.models.load_all()
    assert place.models.get("m").version == "1"
    assert "not there" in place.entry("m", "4").reason


@pytest.mark.parametrize("version", ["7", "0", "-1", "01", "x", "1.0", "\u0661", "9" * 5_000])
async def test_what_is_not_there_is_not_found(place: Place, version: str) -> None:
    place.write("m", 1)
    await place.models.load_all()
    with pytest.raises(ModelNotFound, match="known: 1"):
        place.models.get("m", version)
    with pytest.raises(ModelNotFound, match="known: m"):
        place.models.get("other", "1")


async def test_a_broken_model_stands_in_no_others_way(place: Place) -> None:
    place.write("good", 1)
    place.write("foreign", 1, "nonsense")
    place.write("faulty", 1, "raise")
    place.write("never", 1, "refuses_all")
    place.write("typo", 1, config="bakend: x")
    (place.folder / "hollow").mkdir()
    await place.models.load_all()
    assert place.models.get("good").version == "1"
    reasons = {e.name: e.reason for e in place.models.index() if e.state is not ModelState.READY}
    assert reasons["foreign"] == "model.numpy is not a numpy model"
    assert reasons["faulty"] == "RuntimeError: a backend with a fault of its own"
    assert "does not run on one sequence" in reasons["never"]
    assert "did you mean 'backend'" in reasons["typo"]
    assert "has no version" in reasons["hollow"]
    assert ("verification_failed", "never") in place.events.told
    assert ("failed", "faulty") in place.events.told
    with pytest.raises(ModelNotReady, match="not a numpy model"):
        place.models.get("foreign")


async def test_models_load_at_the_same_time(place: Place) -> None:
    place.write("one", 1, "wait safe")
    place.write("two", 1, "wait safe")
    await place.models.load_all()  # each waits for the other
    assert {e.state for e in place.models.index()} == {ModelState.READY}


async def test_a_model_is_told_before_it_is_found(place: Place) -> None:
    def not_found_yet(model: LoadedModel) -> None:
        with pytest.raises(ModelNotReady, match="loading"):
            place.models.get("m")

    place.events.before_ready = not_found_yet
    place.write("m", 1)
    await place.models.load_all()
    assert place.events.told == [("loaded", "m/1"), ("ready", "m/1")]


async def test_a_reload_serves_throughout(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    old = place.models.get("m")

    def new_serves(model: LoadedModel) -> None:
        assert model is old
        assert not old.engine.closed
        assert place.models.get("m") is not old

    place.events.seen, place.events.told = new_serves, []
    place.events.before_ready = lambda model: None if place.models.get("m") is old else 1 / 0
    place.write("m", 1, "padding_leaks")
    await place.models.load("m")
    place.events.seen = lambda model: None
    assert place.models.get("m").decision.strategy is Strategy.EQUAL_LENGTH
    assert old.engine.closed
    assert [event for event, _ in place.events.told] == ["loaded", "ready", "unload", "unloaded"]


async def test_a_reload_without_change_does_nothing(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    old = place.models.get("m")
    place.events.told = []
    await place.models.load("m")
    assert place.models.get("m") is old
    assert place.events.told == []


async def test_new_labels_are_taken_up_by_a_reload(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    (place.folder / "m" / "labels.txt").write_text("a\nb\n")
    await place.models.load("m")
    assert place.models.get("m").labels == ("a", "b")
    assert place.models.get("m").proof.from_cache


async def test_a_changed_config_pbtxt_is_taken_up_by_a_reload(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    config = place.folder / "m" / "config.pbtxt"
    config.write_text("max_batch_size: 3 instance_group { count: 2 }")
    await place.models.load("m")
    served = place.models.get("m")
    assert served.scheduler.max_batch_sequences == 3
    assert "count 2" in served.notes[0]
    config.write_text("max_batch_size: 3 instance_group { count: 2 } nonsense: 1")
    with pytest.raises(ModelRejected, match="has no field 'nonsense'"):
        await place.models.load("m")
    assert place.models.get("m") is served


async def test_a_failed_reload_leaves_the_one_before_serving_and_says_why(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    old = place.models.get("m")
    place.write("m", 1, "nonsense")
    with pytest.raises(ModelRejected, match=r"version 1: model\.numpy is not a numpy model"):
        await place.models.load("m")
    assert place.models.get("m") is old
    assert not old.engine.closed
    assert place.state("m", "1") is ModelState.READY
    assert "the version loaded before goes on serving" in place.entry("m", "1").reason


async def test_a_new_version_that_fails_leaves_the_one_before_serving(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    place.write("m", 2, "raise")
    with pytest.raises(ModelRejected, match="version 2: RuntimeError"):
        await place.models.load("m")
    assert place.models.get("m").version == "1"
    place.write("m", 2, "safe")
    await place.models.load("m")
    assert place.models.get("m").version == "2"
    assert place.entry("m", "1").reason == "left out by version_policy"


async def test_a_typing_error_in_model_yaml_leaves_what_serves(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    place.write("m", 1, config="tolerence: 1")
    with pytest.raises(ModelRejected, match="did you mean 'tolerance'"):
        await place.models.load("m")
    assert place.models.get("m").version == "1"


async def test_unloading_ends_readiness_and_loading_starts_it_again(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    engine = place.models.get("m").engine

    def being_unloaded(model: LoadedModel) -> None:
        assert place.state("m", "1") is ModelState.UNLOADING
        assert not engine.closed
        with pytest.raises(ModelNotReady, match="being unloaded"):
            place.models.get("m")

    place.events.seen = being_unloaded
    await place.models.unload("m")
    assert engine.closed
    assert (place.state("m", "1"), place.entry("m", "1").reason) == ("UNAVAILABLE", "unloaded")
    with pytest.raises(ModelNotReady, match="unloaded"):
        place.models.get("m")
    await place.models.load("m")
    place.events.seen = lambda model: None
    assert place.models.get("m").version == "1"


async def test_unknown_names_are_not_found_by_load_and_unload(place: Place) -> None:
    with pytest.raises(ModelNotFound):
        await place.models.load("m")
    with pytest.raises(ModelNotFound):
        await place.models.unload("m")


async def test_loading_all_again_takes_up_new_models_and_drops_old_ones(place: Place) -> None:
    place.write("old", 1)
    await place.models.load_all()
    (place.folder / "old").rename(place.folder / "new")
    await place.models.load_all()
    assert [(e.name, e.state) for e in place.models.index()] == [("new", "READY")]
    assert ("unloaded", "old/1") in place.events.told


async def test_a_server_that_cannot_take_a_model_closes_it(place: Place) -> None:
    def refuse(model: LoadedModel) -> None:
        raise RuntimeError("no room")

    place.events.before_ready = refuse
    place.write("m", 1)
    await place.models.load_all()
    assert place.entry("m", "1").reason == "RuntimeError: no room"
    assert place.backend.engines[0].closed


async def test_many_loads_and_unloads_at_once_end_in_one_state(place: Place) -> None:
    place.write("m", 1)
    await place.models.load_all()
    steps = [place.models.unload("m") if n % 2 else place.models.load("m") for n in range(7)]
    await asyncio.gather(*steps)
    assert place.state("m", "1") is ModelState.READY
    opened, closed = (sum(e == kind for e, _ in place.events.told) for kind in ("ready", "unload"))
    assert opened - closed == 1
    assert sum(not engine.closed for engine in place.backend.engines) == 1


async def test_closing_unloads_all(place: Place) -> None:
    place.write("a", 1)
    place.write("b", 1)
    await place.models.load_all()
    await place.models.close()
    assert all(engine.closed for engine in place.backend.engines)
    assert {event for event, _ in place.events.told[-4:]} == {"unload", "unloaded"}


async def test_a_repository_that_is_not_there_is_told(tmp_path: Path) -> None:
    events = Events()
    settings = ServerSettings(tmp_path / "nowhere", cache=tmp_path)
    models = Repository(
        settings, events, events.ready, events.unload, backends=only(NumpyBackend())
    )
    with pytest.raises(ModelRejected, match="cannot be read"):
        await models.load_all()
    await models.close()


def export_all(folder: Path) -> None:
    """Real files of each kind, good and broken."""
    for name in ("lstm", "cut", "gru", "packed", "state", "empty", "text"):
        (folder / name / "1").mkdir(parents=True)
    onnx.save(recurrent("LSTM", head="length"), folder / "lstm" / "1" / "model.onnx")
    onnx.save(recurrent("GRU", bidirectional=True), folder / "gru" / "1" / "model.onnx")
    whole = (folder / "lstm" / "1" / "model.onnx").read_bytes()
    (folder / "cut" / "1" / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with quiet(), torch.random.fork_rng():
        torch.jit.save(made(Recurrent()), folder / "packed" / "1" / "model.pt")
        torch.save(Recurrent().state_dict(), folder / "state" / "1" / "model.pt")
    (folder / "empty" / "1" / "model.pt").touch()
    (folder / "text" / "1" / "model.onnx").write_text("This is not a model.\n" * 50)


async def test_real_files_side_by_side_with_broken_ones(tmp_path: Path) -> None:
    export_all(tmp_path / "repository")
    events = Events()
    settings = ServerSettings(
        tmp_path / "repository", cache=tmp_path / "cache", load_workers=2, device="cpu"
    )
    for kept in (False, True):
        models = Repository(settings, events, events.ready, events.unload)
        await models.load_all()
        ready = {e.name for e in models.index() if e.state is ModelState.READY}
        assert ready == {"lstm", "gru", "packed"}
        for name in ready:
            model = models.get(name)
            assert model.decision.strategy is Strategy.BY_LENGTH
            assert model.proof.from_cache is kept
        reasons = {e.name: e.reason for e in models.index()}
        assert "only part of one" in reasons["cut"]
        assert "state_dict" in reasons["state"]
        assert "empty" in reasons["empty"]
        assert "not an ONNX model" in reasons["text"]
        await models.close()


async def test_the_six_example_models_are_proved_safe_in_padded_batches(
    repository: Path, tmp_path: Path
) -> None:
    events = Events()
    settings = ServerSettings(repository, cache=tmp_path, load_workers=2, device="cpu")
    models = Repository(settings, events, events.ready, events.unload)
    await models.load_all()
    loaded = [models.get(entry.name) for entry in models.index()]
    assert len(loaded) == 6
    for model in loaded:
        assert model.decision.strategy is Strategy.BY_LENGTH, model.decision.reason
        assert model.proof.error_of(Strategy.BY_LENGTH) <= 2e-5
        assert len(model.labels) == 40
        assert model.tokenizer is not None
        assert model.tokenizer.encode(["the kitten"])[0].shape == (2,)
    await models.close()


def test_torch_is_not_imported_for_onnx_models_alone(tmp_path: Path) -> None:
    folder = tmp_path / "repository" / "lstm" / "1"
    folder.mkdir(parents=True)
    onnx.save(recurrent("LSTM"), folder / "model.onnx")
    program = f"""
import asyncio, sys
from pathlib import Path
from seqlens.repository.loading import Loader
from seqlens.repository.folder import FoundModel
from seqlens.repository.config import ModelConfig
from seqlens.repository.stated import Stated
from seqlens.backends.plugins import find_all
from seqlens.settings import ServerSettings
import seqlens.repository.models
path = Path({str(folder / "model.onnx")!r})
Loader(ServerSettings(path, device="cpu"), find_all(), None).load(
    FoundModel("lstm", path.parent.parent), 1, path, Stated(ModelConfig())
)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
