from pathlib import Path

import pytest
from tests.support.numpy_models import NumpyBackend, only

from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import Architecture
from seqlens.metrics.observer import ModelLabels
from seqlens.repository.cache import ProofCache
from seqlens.repository.config import config_of, parse_keys
from seqlens.repository.folder import FoundModel
from seqlens.repository.loading import LoadedModel, Loader
from seqlens.repository.stated import Stated
from seqlens.repository.verify import VerificationFailed
from seqlens.scheduling.strategy import Strategy
from seqlens.settings import LimitSettings, SchedulerSettings, ServerSettings


class Shop:
    """A loader of one model in a folder of its own."""

    def __init__(self, folder: Path, text: str = "safe", **settings: object) -> None:
        self.folder = folder
        self.path = folder / "m" / "3" / "model.numpy"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text)
        self.backend = NumpyBackend()
        self.settings = ServerSettings(folder, **settings)

    def load(self, config: str = "", *, cached: bool = True) -> LoadedModel:
        cache = ProofCache(self.folder / "cache") if cached else None
        loader = Loader(self.settings, only(self.backend), cache)
        keys = parse_keys(config.encode(), "model.yaml")
        stated = Stated(config_of(keys, "model.yaml"))
        return loader.load(FoundModel("m", self.path.parent.parent), 3, self.path, stated)


def test_everything_that_is_needed_to_serve_is_there(tmp_path: Path) -> None:
    model = Shop(tmp_path).load()
    assert (model.name, model.version, model.backend) == ("m", "3", "numpy")
    assert model.decision.strategy is Strategy.BY_LENGTH
    assert (model.max_length, model.max_length_source) == (4_096, "the setting max_sequence_length")
    assert model.cost.seconds(8, 1) > 0
    assert model.metric_labels == ModelLabels("m", "3", Architecture.OTHER)
    assert (model.tokenizer, model.labels) == (None, ())
    assert set(model.phase_seconds) == {"read", "inspect", "verify", "warmup", "attention"}


def test_the_report_gives_the_error_of_the_strategy_that_is_served(tmp_path: Path) -> None:
    report = Shop(tmp_path, "padding_leaks").load().report()
    assert report.invariance_error == 0  # among equal lengths, as it is served
    assert (report.backend, report.device, report.precision) == ("numpy", "cpu", "fp32")


def test_a_second_load_proves_nothing_anew(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "padding_leaks")
    first, second = shop.load(), shop.load()
    assert (first.proof.from_cache, second.proof.from_cache) == (False, True)
    assert second.decision == first.decision
    assert second.cost == first.cost
    assert second.proof.padded_error == first.proof.padded_error
    assert [options.anatomy is None for options in shop.backend.loads] == [True, False]
    assert shop.backend.engines[1].runs == 0


@pytest.mark.parametrize("change", ["file", "tolerance", "library", "limit", "nothing"])
def test_what_could_change_the_proof_makes_it_anew(tmp_path: Path, change: str) -> None:
    Shop(tmp_path).load()
    limit = 99 if change == "limit" else 4_096
    limits = LimitSettings(max_sequence_length=limit)
    shop = Shop(tmp_path, "safe " if change == "file" else "safe", limits=limits)
    shop.backend.version = "2" if change == "library" else "1"
    model = shop.load("tolerance: 0.5" if change == "tolerance" else "")
    assert model.proof.from_cache is (change == "nothing")


def test_a_corrupt_cache_costs_only_a_proof(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.load()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("{")
    assert not shop.load().proof.from_cache
    assert shop.load().proof.from_cache


def test_a_stated_strategy_is_checked_against_a_kept_proof_too(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "mates_leak")
    shop.load()
    with pytest.raises(VerificationFailed, match="asks for strategy by_length"):
        shop.load("strategy: by_length")
    assert all(engine.closed for engine in shop.backend.engines[1:])


def test_a_graph_that_was_changed_is_compared_with_its_export(tmp_path: Path) -> None:
    model = Shop(tmp_path, "wired safe").load()
    assert model.decision.strategy is Strategy.BY_LENGTH
    assert model.proof.exported_error > 0.1


def test_a_stated_name_that_is_not_there_closes_the_engine(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(ModelRejected, match="did you mean 'tokens'"):
        shop.load("inputs: {token: {vocabulary_size: 3}}")
    assert shop.backend.engines[0].closed


def test_overrides_and_device_reach_the_backend(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.load("{device: 'cuda:1', inputs: {tokens: {vocabulary_size: 3}}}")
    (options,) = shop.backend.loads
    assert str(options.device) == "cuda:1"
    assert options.overrides.inputs["tokens"].vocabulary_size == 3


def test_limits_and_scheduler_of_the_model_win(tmp_path: Path) -> None:
    model = Shop(tmp_path).load("{max_length: 20, scheduler: {max_batch_sequences: 2}}")
    assert (model.max_length, model.max_length_source) == (20, "max_length in model.yaml")
    assert model.scheduler == SchedulerSettings(max_batch_sequences=2)
    assert {one.batch for one in model.cost.measurements} == {1}
    assert max(model.proof.checked_lengths) <= 20


def test_labels_come_from_the_file_beside_or_from_the_configuration(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (tmp_path / "m" / "labels.txt").write_bytes("kitten\r\nmädchen\n\n".encode())
    (tmp_path / "m" / "words.txt").write_text("one\ntwo")
    assert shop.load().labels == ("kitten", "mädchen")
    assert shop.load("labels: words.txt").labels == ("one", "two")
    assert shop.load("labels: [yes, no]").labels == ("yes", "no")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_labels_that_cannot_be_read_are_told(tmp_path: Path, content: bytes | None) -> None:
    shop = Shop(tmp_path)
    if content is not None:
        (tmp_path / "m" / "names.txt").write_bytes(content)
    with pytest.raises(ModelRejected, match=r"labels in names\.txt cannot be read"):
        shop.load("labels: names.txt")


def test_a_broken_tokenizer_keeps_the_model_from_being_served(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelRejected, match=r"tokenizer\.json is not a tokenizer"):
        shop.load()
    with pytest.raises(ModelRejected, match=r"other\.json is not a tokenizer"):
        shop.load("tokenizer: other.json")


def test_an_unknown_backend_is_told_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"unknown backend 'tensorrt'.*numpy"):
        Shop(tmp_path).load("backend: tensorrt")
