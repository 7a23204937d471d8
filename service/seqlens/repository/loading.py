"""One version from its file to a model that may be served: find, prove, decide, measure."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from seqlens.attention.sites import AttentionReport
from seqlens.backends.base import Backend, Engine, LoadOptions
from seqlens.backends.devices import parse_device
from seqlens.backends.plugins import FoundBackends, backend_for
from seqlens.errors import ModelRejected
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.graphs.signature import Signature
from seqlens.metrics.observer import LoadReport, ModelLabels
from seqlens.repository.attention_proof import prove_attention
from seqlens.repository.cache import ProofCache, Remembered
from seqlens.repository.config import ModelConfig, check_defaults, check_names
from seqlens.repository.content import combined, graph_content, proof_key, whole_content
from seqlens.repository.folder import FoundModel
from seqlens.repository.measure import LengthLimit, length_limit, measure
from seqlens.repository.signature import check_signature
from seqlens.repository.stated import Stated
from seqlens.repository.tokenizer import Tokenizer
from seqlens.repository.verify import Proof, decide_strategy, prove
from seqlens.scheduling.cost import CostModel, Measurement
from seqlens.scheduling.strategy import Decision
from seqlens.settings import SchedulerSettings, ServerSettings

_MOST_PROOF_ROWS = 8
_OPSET = re.compile(r"opset (\d+)")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One version of a model, ready to be served."""

    name: str
    version: str
    path: Path  # the model file
    backend: str
    platform: str
    engine: Engine
    anatomy: ModelAnatomy
    proof: Proof
    decision: Decision
    cost: CostModel
    max_length: int  # positions of the longest sequence that is taken
    max_length_source: str  # what set it
    tokenizer: Tokenizer | None
    labels: tuple[str, ...]  # of the classes, in order; empty: none are known
    metric_labels: ModelLabels
    config: ModelConfig
    scheduler: SchedulerSettings  # the server's, with what model.yaml states
    content: str  # hash of all that it was loaded from: equal content need not be loaded again
    attention: AttentionReport  # its attention sites, as they were tried
    signature: Signature | None = None  # the tensors as config.pbtxt declares them
    notes: tuple[str, ...] = ()  # what config.pbtxt states without effect
    phase_seconds: dict[str, float] = field(default_factory=dict)

    def report(self) -> LoadReport:
        """What loading it gave, for metrics."""
        opset = _OPSET.search(self.anatomy.producer)
        return LoadReport(
            backend=self.backend,
            device=str(self.engine.capabilities.device),
            precision=self.anatomy.precision,
            opset=opset[1] if opset else "",
            invariance_error=self.proof.error_of(self.decision.strategy),
            phase_seconds=self.phase_seconds,
        )


@dataclass(frozen=True, slots=True)
class _Files:
    """What a version's files say before the model itself is loaded."""

    backend: Backend
    content: str  # hash of all of them
    proof_key: str
    kept: Remembered | None  # from an earlier load of the same
    tokenizer: Tokenizer | None
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Findings:
    """What proofs and a grid of measurements, new or kept, say of an engine."""

    proof: Proof
    decision: Decision
    measurements: tuple[Measurement, ...]
    attention: AttentionReport


class Loader:
    """Loads versions. May be used from several threads at once.

    ``cache`` keeps proofs between starts; None proves anew each time.
    """

    def __init__(
        self, settings: ServerSettings, backends: FoundBackends, cache: ProofCache | None
    ) -> None:
        self._settings, self._backends, self._cache = settings, backends, cache

    def content(self, model: FoundModel, path: Path, stated: Stated) -> str:
        """Hash of all that a version would be loaded from. Raises ``ModelRejected``."""
        return _content(model, graph_content(model, path), stated)

    def load(self, model: FoundModel, version: int, path: Path, stated: Stated) -> LoadedModel:
        """Load one version.

        Raises ``ModelRejected`` with a reason that helps, ``DeviceMissing`` for a device that is
        not there.
        """
        phases: dict[str, float] = {}
        config = stated.config
        with _timed(phases, "read"):
            files = self._read(model, path, stated)
        with _timed(phases, "inspect"):
            engine = files.backend.load(path, self._options(stated, files.kept))
        try:
            load_exported = self._exported_loader(files.backend, path, stated, engine.anatomy)
            found = self._find(engine, stated, files.kept, load_exported, phases)
        except BaseException:
            engine.close()
            raise
        self._remember(files.proof_key, engine, found)
        limit = self._limit(engine.anatomy, config)
        return LoadedModel(
            name=model.name,
            version=str(version),
            path=path,
            backend=files.backend.name,
            platform=files.backend.platform,
            engine=engine,
            anatomy=engine.anatomy,
            proof=found.proof,
            decision=found.decision,
            cost=CostModel(found.measurements),
            max_length=limit.length,
            max_length_source=limit.source,
            tokenizer=files.tokenizer,
            labels=files.labels,
            metric_labels=ModelLabels(model.name, str(version), engine.anatomy.architecture),
            config=config,
            scheduler=config.scheduler_settings(self._settings.scheduler),
            content=files.content,
            attention=found.attention,
            signature=stated.signature,
            notes=stated.notes,
            phase_seconds=phases,
        )

    def _read(self, model: FoundModel, path: Path, stated: Stated) -> _Files:
        config = stated.config
        backend = backend_for(path, config.backend, self._backends)
        graph = graph_content(model, path)
        key = self._proof_key(graph, backend, stated)
        return _Files(
            backend=backend,
            # Before the files are read: one that changes meanwhile is seen at the next load.
            content=_content(model, graph, stated),
            proof_key=key,
            kept=None if self._cache is None else self._cache.get(key),
            tokenizer=_tokenizer(model.folder, config),
            labels=_labels(model.folder, config),
        )

    def _find(
        self,
        engine: Engine,
        stated: Stated,
        kept: Remembered | None,
        load_exported: Callable[[], Engine] | None,
        phases: dict[str, float],
    ) -> _Findings:
        """Check what is stated, then take what is kept of the engine, or try it out."""
        config = stated.config
        if stated.signature is not None:
            check_signature(stated.signature, engine.anatomy)
        check_names(config, engine.anatomy)
        check_defaults(engine.anatomy)
        # With the device auto, another one may be found than at that time.
        if kept is not None and kept.device == str(engine.capabilities.device):
            proof = replace(kept.proof, from_cache=True)
            decision = decide_strategy(engine, engine.anatomy, proof, config.strategy)
            return _Findings(proof, decision, kept.measurements, kept.attention)
        return self._try_out(engine, config, load_exported, phases)

    def _try_out(
        self,
        engine: Engine,
        config: ModelConfig,
        load_exported: Callable[[], Engine] | None,
        phases: dict[str, float],
    ) -> _Findings:
        """Prove and measure, nothing being known of the engine."""
        anatomy, longest = engine.anatomy, self._limit(engine.anatomy, config).length
        rows = config.scheduler_settings(self._settings.scheduler).max_batch_sequences
        with _timed(phases, "verify"):
            proof = prove(
                engine,
                anatomy,
                config.tolerance,
                longest=longest,
                most_rows=min(rows, _MOST_PROOF_ROWS),
                load_exported=load_exported,
            )
            decision = decide_strategy(engine, anatomy, proof, config.strategy)
        with _timed(phases, "warmup"):
            measurements = measure(
                engine,
                anatomy,
                shortest=min(proof.checked_lengths),
                longest=longest,
                most_rows=rows if decision.strategy.shares_batches else 1,
            )
        with _timed(phases, "attention"):
            attention = prove_attention(engine, seconds=self._settings.insight.proof_seconds)
        return _Findings(proof, decision, measurements, attention)

    def _remember(self, key: str, engine: Engine, found: _Findings) -> None:
        if self._cache is None or found.proof.from_cache:
            return
        device = str(engine.capabilities.device)
        entry = Remembered(device, engine.anatomy, found.proof, found.measurements, found.attention)
        self._cache.put(key, entry)

    def _proof_key(self, graph: str, backend: Backend, stated: Stated) -> str:
        config = stated.config
        # The lanes' other settings change neither an answer nor what a run takes.
        rows = config.scheduler_settings(self._settings.scheduler).max_batch_sequences
        longest = self._settings.limits.max_sequence_length
        circumstances = (
            backend.name,
            self._settings.device,
            longest,
            rows,
            self._settings.insight.proof_seconds,
            config,
            stated.signature,
        )
        return proof_key(graph, backend.versions(), circumstances)

    def _options(self, stated: Stated, kept: Remembered | None) -> LoadOptions:
        return LoadOptions(
            device=parse_device(stated.config.device or self._settings.device),
            overrides=stated.config.overrides(),
            signature=stated.signature,
            anatomy=None if kept is None else kept.anatomy,
        )

    def _exported_loader(
        self, backend: Backend, path: Path, stated: Stated, anatomy: ModelAnatomy
    ) -> Callable[[], Engine] | None:
        """How to load the file untouched; None where it is served untouched."""
        if not anatomy.rewritten:
            return None
        options = replace(self._options(stated, None), as_exported=True)
        return lambda: backend.load(path, options)

    def _limit(self, anatomy: ModelAnatomy, config: ModelConfig) -> LengthLimit:
        longest = self._settings.limits.max_sequence_length
        return length_limit(anatomy, stated=config.max_length, longest=longest)


def _content(model: FoundModel, graph: str, stated: Stated) -> str:
    # Not all that is stated lies in a file: a load request may bring a configuration.
    return combined(whole_content(model, graph), repr(stated))


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer | None:
    path = folder / (config.tokenizer or "tokenizer.json")
    if config.tokenizer is None and not path.exists():
        return None
    return Tokenizer.from_file(path)


def _labels(folder: Path, config: ModelConfig) -> tuple[str, ...]:
    if isinstance(config.labels, tuple):
        return config.labels
    path = folder / (config.labels or "labels.txt")
    if config.labels is None and not path.exists():
        return ()
    try:
        lines = path.read_text("utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRejected(f"labels in {path.name} cannot be read: {error}") from error
    return tuple(line.removesuffix("\r") for line in lines)


@contextmanager
def _timed(phases: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    phases[phase] = time.perf_counter() - started
