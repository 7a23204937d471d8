"""What every backend has to keep, whatever it loads: subclass ``BackendContract`` to check yours.

A subclass gives a ``subject`` fixture: a backend and a small model of its format that takes
sequences in batches.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from seqlens.backends.base import Backend, Device, Engine, LoadOptions
from seqlens.errors import BackendFailed, DeviceMissing, ModelRejected
from seqlens.graphs.anatomy import InputAnatomy, InputRole, ModelAnatomy, OutputRole
from seqlens.sequences import Array

DTYPES = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class Subject:
    """A backend and a model for it."""

    backend: Backend
    path: Path

    def load(self, options: LoadOptions | None = None) -> Engine:
        return self.backend.load(self.path, options or LoadOptions(device=Device("cpu")))


def make_inputs(anatomy: ModelAnatomy, batch: int, length: int, seed: int = 0) -> dict[str, Array]:
    """Valid inputs in which every row has all its positions."""
    random = np.random.default_rng(seed)
    return {each.name: _make_input(each, batch, length, random) for each in anatomy.inputs}


def _make_input(entry: InputAnatomy, batch: int, length: int, random: np.random.Generator) -> Array:
    shape = [1 if size < 0 else size for size in entry.shape]
    for axis, size in ((entry.batch_axis, batch), (entry.time_axis, length)):
        if axis is not None:
            shape[axis] = size
    dtype = DTYPES[entry.datatype]
    if entry.role is InputRole.LENGTHS:
        return np.full(shape, length, dtype)
    if entry.role is InputRole.MASK:
        return np.full(shape, entry.mask_marks == "real", dtype)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(1, entry.vocabulary_size or 2, shape).astype(dtype)


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


class BackendContract:
    """The suite itself."""

    @pytest.fixture
    def engine(self, subject: Subject) -> Engine:
        return subject.load()

    def test_it_has_the_shape_of_a_backend(self, subject: Subject) -> None:
        assert isinstance(subject.backend, Backend)
        assert subject.backend.name
        assert subject.backend.platform
        assert subject.path.name.endswith(subject.backend.suffixes)
        assert all(suffix.startswith(".") for suffix in subject.backend.suffixes)

    def test_its_library_has_a_version(self, subject: Subject) -> None:
        versions = subject.backend.versions()
        assert versions
        assert all(name and version for name, version in versions.items())

    def test_its_engine_has_the_shape_of_an_engine(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)
        assert engine.capabilities.device.kind in ("cpu", "cuda")  # the real one, never auto

    def test_the_sequence_input_has_batch_and_time(self, engine: Engine) -> None:
        sequences = engine.anatomy.sequence_inputs
        assert sequences
        for entry in sequences:
            assert entry.batch_axis is not None
            assert entry.time_axis is not None
            assert entry.batch_axis != entry.time_axis

    def test_some_output_answers_the_sequences(self, engine: Engine) -> None:
        roles = {output.role for output in engine.anatomy.outputs}
        assert roles & {OutputRole.PER_SEQUENCE, OutputRole.PER_STEP}

    @pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 6), (3, 5)])
    def test_outputs_have_the_declared_shapes_and_types(
        self, engine: Engine, batch: int, length: int
    ) -> None:
        answers = engine.run(make_inputs(engine.anatomy, batch, length))
        assert set(answers) == {output.name for output in engine.anatomy.outputs}
        for output in engine.anatomy.outputs:
            expected = list(output.shape)
            for axis, size in (
                (output.batch_axis, batch),
                *((t, length) for t in output.time_axes),
            ):
                if axis is not None:
                    expected[axis] = size
            assert list(answers[output.name].shape) == expected
            assert answers[output.name].dtype == DTYPES[output.datatype]

    def test_the_same_inputs_get_the_same_answer(self, engine: Engine) -> None:
        inputs = make_inputs(engine.anatomy, 2, 7)
        first = engine.run(inputs)
        for _ in range(3):
            assert_same(engine.run(inputs), first)

    def test_earlier_calls_leave_no_trace(self, subject: Subject, engine: Engine) -> None:
        inputs = make_inputs(engine.anatomy, 2, 5)
        engine.run(make_inputs(engine.anatomy, 3, 9, seed=1))
        after_another = engine.run(inputs)
        assert_same(after_another, subject.load().run(inputs))

    def test_inputs_are_left_as_they_were(self, engine: Engine) -> None:
        inputs = make_inputs(engine.anatomy, 2, 4)
        before = {name: array.copy() for name, array in inputs.items()}
        engine.run(inputs)
        assert_same(inputs, before)

    def test_read_only_inputs_are_taken(self, engine: Engine) -> None:
        inputs = make_inputs(engine.anatomy, 2, 4)
        expected = engine.run(inputs)
        for array in inputs.values():
            array.flags.writeable = False
        assert_same(engine.run(inputs), expected)

    def test_threads_get_what_a_single_caller_gets(self, engine: Engine) -> None:
        calls = [make_inputs(engine.anatomy, 1 + i % 3, 1 + i, seed=i) for i in range(12)]
        serial = [engine.run(inputs) for inputs in calls]
        with ThreadPoolExecutor(4) as threads:
            parallel = list(threads.map(engine.run, calls))
        for one, other in zip(serial, parallel, strict=True):
            assert_same(one, other)

    def test_it_serves_on_after_inputs_that_it_cannot_take(self, engine: Engine) -> None:
        good = make_inputs(engine.anatomy, 2, 5)
        expected = engine.run(good)
        name = engine.anatomy.sequence_inputs[0].name
        flat = {**good, name: good[name].reshape(-1)[:0]}
        with pytest.raises(BackendFailed):
            engine.run(flat)
        with pytest.raises(BackendFailed):
            engine.run({other: array for other, array in good.items() if other != name})
        assert_same(engine.run(good), expected)

    @pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04", b"\x80\x02}q\x00."])
    def test_foreign_files_are_rejected(
        self, subject: Subject, tmp_path: Path, content: bytes
    ) -> None:
        foreign = tmp_path / f"foreign{subject.path.suffix}"
        foreign.write_bytes(content)
        with pytest.raises(ModelRejected, match=r"foreign"):
            subject.backend.load(foreign, LoadOptions())

    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated_files_are_rejected(
        self, subject: Subject, tmp_path: Path, share: float
    ) -> None:
        content = subject.path.read_bytes()
        broken = tmp_path / f"broken{subject.path.suffix}"
        broken.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ModelRejected, match=r"broken"):
            subject.backend.load(broken, LoadOptions())

    def test_a_missing_file_is_rejected(self, subject: Subject, tmp_path: Path) -> None:
        with pytest.raises(ModelRejected, match=r"absent"):
            subject.backend.load(tmp_path / f"absent{subject.path.suffix}", LoadOptions())

    def test_a_device_that_is_not_there_is_named(self, subject: Subject) -> None:
        with pytest.raises(DeviceMissing, match=r"cuda"):
            subject.load(LoadOptions(device=Device("cuda", 99)))

    def test_a_known_anatomy_is_taken_as_it_is(self, subject: Subject, engine: Engine) -> None:
        known = replace(engine.anatomy, producer="known from an earlier load")
        again = subject.load(LoadOptions(device=Device("cpu"), anatomy=known))
        assert again.anatomy == known
        inputs = make_inputs(known, 2, 3)
        assert_same(again.run(inputs), engine.run(inputs))

    def test_closing_twice_is_no_error(self, engine: Engine) -> None:
        engine.close()
        engine.close()
        with pytest.raises(BackendFailed):
            engine.run(make_inputs(engine.anatomy, 1, 2))
