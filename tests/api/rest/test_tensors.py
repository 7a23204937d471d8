"""Requests and answers over REST, with tritonclient's own code as the other side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory as Region
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seqlens.api.requests import AnsweredOutput, InferResponse, NamedTensor
from seqlens.api.rest.tensor_answers import TensorAnswer, write_infer_response
from seqlens.api.rest.tensors import TensorRequest, read_header_length, read_infer_request
from seqlens.api.shared_memory import SharedMemory
from seqlens.errors import AnswerTooLarge, InvalidRequest
from seqlens.graphs.anatomy import (
    Architecture,
    InputAnatomy,
    InputRole,
    ModelAnatomy,
    OutputAnatomy,
    OutputRole,
)
from seqlens.sequences import Array
from seqlens_wire.datatypes import DATATYPES

MOST = 1 << 26
WITH_JSON = [name for name in DATATYPES if name not in ("FP16", "BF16")]
NUMPY = [name for name in DATATYPES if name != "BF16"]


def anatomy(*inputs: InputAnatomy, output: str = "FP32") -> ModelAnatomy:
    return ModelAnatomy(
        inputs=inputs,
        outputs=tuple(OutputAnatomy(name, output, (-1,), OutputRole.OTHER) for name in ("y", "z")),
        architecture=Architecture.OTHER,
        evidence=(),
        sequential_depth="O(1)",
    )


def model(datatype: str, *, shape: tuple[int, ...] = (-1,), output: str = "FP32") -> ModelAnatomy:
    return anatomy(InputAnatomy("x", datatype, shape, InputRole.OTHER), output=output)


@contextmanager
def memory() -> Iterator[SharedMemory]:
    shared = SharedMemory(MOST)
    try:
        yield shared
    finally:
        shared.close()


def read(body: bytes, header_length: int | None, of: ModelAnatomy) -> TensorRequest:
    with memory() as shared:
        return read_infer_request(body, header_length, of, shared)


def tensor(datatype: str, shape: object, **rest: object) -> dict[str, object]:
    return {"name": "x", "datatype": datatype, "shape": shape, **rest}


def body(*inputs: object, **rest: object) -> bytes:
    return msgspec.json.encode({"inputs": inputs, **rest})


def read_one(datatype: str, shape: object, data: object) -> Array:
    asked = read(body(tensor(datatype, shape, data=data)), None, model(datatype))
    return asked.request.inputs[0].array


def refused(function: Callable[..., object], *arguments: object) -> tuple[str, str, str]:
    with pytest.raises(InvalidRequest) as caught:
        function(*arguments)
    return caught.value.field, caught.value.got, caught.value.expected


def elements(datatype: str) -> st.SearchStrategy[Any] | None:
    if datatype == "BYTES":
        return st.text(st.characters(codec="utf-8"), max_size=5).map(str.encode)
    if DATATYPES[datatype].kind == "f":
        width = DATATYPES[datatype].dtype.itemsize * 8
        return st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[call-overload, no-any-return]
    return None


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> tuple[str, Array]:
    datatype = draw(st.sampled_from(datatypes))
    shape = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    return datatype, draw(
        hnp.arrays(DATATYPES[datatype].dtype, shape, elements=elements(datatype), fill=st.nothing())
    )


def texts(data: Any) -> Any:
    """Lists of bytes as lists of strings."""
    return [texts(one) for one in data] if isinstance(data, list) else data.decode()


def assert_same(found: Array, array: Array) -> None:
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


class TestRequests:
    @given(arrays(NUMPY), st.text(st.characters(codec="utf-8")), st.booleans())
    def test_what_tritonclient_sends_is_read(
        self, one: tuple[str, Array], request_id: str, binary: bool
    ) -> None:
        datatype, array = one
        sent = triton.InferInput("x", list(array.shape), datatype)
        if datatype in WITH_JSON or binary:
            sent.set_data_from_numpy(array, binary_data=binary)
        else:
            sent.set_data_from_numpy(array)
        generate = triton.InferenceServerClient.generate_request_body
        text, length = generate([sent], request_id=request_id, priority=3, sequence_id="s")
        asked = read(text, length, model(datatype))
        assert asked.request.id == request_id
        assert asked.request.urgency.priority == 3
        assert asked.request.sequence_id == "s"
        assert asked.binary == {"y", "z"}
        assert_same(asked.request.inputs[0].array, array)

    @given(arrays(WITH_JSON), st.booleans())
    def test_data_is_nested_or_flat(self, one: tuple[str, Array], nested: bool) -> None:
        datatype, array = one
        data = (array if nested else array.ravel()).tolist()
        data = texts(data) if datatype == "BYTES" else data
        assert_same(read_one(datatype, array.shape, data), array)

    def test_numbers_of_many_pieces_are_read_and_the_wrong_one_is_named(self) -> None:
        numbers = list(range(100_000))
        assert read_one("INT32", [100, 1_000], numbers).tolist()[99][999] == 99_999
        numbers[70_001] = 2**31
        field, got, expected = refused(read_one, "INT32", [100_000], numbers)
        assert field == "inputs.x.data[70001]"
        assert got == "2147483648"
        assert expected == "an integer from -2147483648 to 2147483647"

    def test_scalars_have_no_brackets(self) -> None:
        assert read_one("INT64", [], 5).tolist() == 5
        assert read_one("FP32", [], [0.5]).tolist() == 0.5
        assert read_one("BYTES", [], "a").tolist() == b"a"

    @pytest.mark.parametrize(
        ("datatype", "shape", "data", "field"),
        [
            ("INT64", [2], [1, 1.5], "data[1]"),
            ("INT64", [2], [1, 1.0], "data[1]"),
            ("INT64", [2], [True, 1], "data[0]"),
            ("INT64", [1], ["1"], "data"),
            ("INT64", [1], [{"a": 1}], "data"),
            ("INT64", [1], {"a": 1}, "data"),
            ("INT64", [1], "1", "data"),
            ("INT64", [1], [2**63], "data[0]"),
            ("INT64", [1], [None], "data[0]"),
            ("INT8", [2], [127, 128], "data[1]"),
            ("INT8", [2], [-129, 1], "data[0]"),
            ("UINT8", [1], [-1], "data[0]"),
            ("UINT8", [1], [256], "data[0]"),
            ("UINT16", [1], [65536], "data[0]"),
            ("INT16", [1], [32768], "data[0]"),
            ("UINT32", [1], [2**32], "data[0]"),
            ("UINT64", [2], [2**64 - 1, 2**64], "data[1]"),
            ("UINT64", [1], [-1], "data[0]"),
            ("BOOL", [1], [1], "data[0]"),
            ("FP32", [1], [1e39], "data"),
            ("FP32", [1], [True], "data[0]"),
            ("FP32", [1], [None], "data[0]"),
            ("FP64", [1], [10**400], "data[0]"),
            ("FP16", [1], [1.0], "data"),
            ("BYTES", [1], [1], "data[0]"),
            ("BYTES", [2, 1], [["a"], [1]], "data[1][0]"),
            ("BYTES", [2, 2], [["a", "b"], ["c"]], "data"),
            ("BYTES", [2], [["a"], ["b"]], "data"),
            ("BYTES", [2], ["a"], "data"),
            ("BYTES", [1], "a", "data"),
            ("INT64", [2, 2], [[1, 2], [3]], "data"),
            ("INT64", [2, 2], [[1, 2, 3], [4]], "data"),
            ("INT64", [2, 2], [[[1, 2]], [[3, 4]]], "data"),
            ("INT64", [1, 2, 2], [[1, 2], [3, 4]], "data"),
            ("INT64", [2, 2], [1, 2, [3, 4]], "data"),
            ("INT64", [3], [1, 2], "data"),
            ("INT64", [2], [1, 2, 3], "data"),
            ("INT64", [2, 1], [[], [1]], "data"),
            ("INT64", [1], [], "data"),
            ("INT64", [], [], "data"),
            ("INT64", [0], [1], "data"),
            ("INT64", [2, 0], [[1], [2]], "data"),
            ("INT64", [2**40, 2**40], [1], "shape"),
            ("INT64", [0, 2**62], [], "shape"),
            ("INT64", [-1], [1], "shape"),
            ("INT64", [1] * 33, [1], "shape"),
            ("INT64", [2**59], [1], "data"),
            ("INT64", [2**30, 0, 2**20], [[]], "data"),
        ],
    )
    def test_wrong_data_is_refused_by_its_place(
        self, datatype: str, shape: list[int], data: object, field: str
    ) -> None:
        assert refused(read_one, datatype, shape, data)[0] == f"inputs.x.{field}"

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            (b"", "body"),
            (b" ", "body"),
            (b"null", "body"),
            (b"[]", "body"),
            (b"17", "body"),
            (b'{"inputs":', "body"),
            (b"{}", "inputs"),
            (b'{"inputs":{}}', "inputs"),
            (b'{"inputs":[1]}', "inputs[0]"),
            (b'{"inputs":[{"name":"x"}]}', "inputs[0].datatype"),
            (b'{"inputs":[{"name":1}]}', "inputs[0].name"),
            (b'{"inputs":[{"name":"\xff"}]}', "body"),
            (b'{"inputs":[{"name":"\\ud800"}]}', "body"),
            (b'{"inputs":[],"id":7}', "id"),
            (b'{"inputs":[],"outputs":[{}]}', "outputs[0].name"),
            (b'{"inputs":[],"parameters":[]}', "parameters"),
            (b'{"inputs":[],"parameters":{"timeout":[]}}', "parameters.timeout"),
            (b'{"inputs":[],"parameters":{"timeout":1e400}}', "parameters.timeout"),
            (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "inputs[0]"),
            (b'{"inputs":[],"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body"),
            (
                b'{"inputs":[{"name":"x","shape":[9' + b"9" * 99,
                "inputs[0].shape[0]",
            ),
            (b'{"inputs":[{"name":"x","shape":["1"]}]}', "inputs[0].shape[0]"),
            (b'{"inputs":[{"name":"x","shape":[1.5]}]}', "inputs[0].shape[0]"),
            (b'{"inputs":[{"name":"x","shape":[' + b"9" * 9_999 + b"]}]}", "inputs[0].shape[0]"),
            (b'{"inputs":[{"name":"x","shape":[9223372036854775808]}]}', "inputs[0].shape[0]"),
            (b"\x00\x01\x02", "body"),
        ],
    )
    def test_what_is_no_request_is_refused_by_its_place(self, text: bytes, field: str) -> None:
        assert refused(read, text, None, model("INT64"))[0] == field

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_are_not_json_come_with_a_hint(self, number: str) -> None:
        text = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[{number}]}}]}}'
        assert "binary" in refused(read, text.encode(), None, model("FP32"))[2]

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused_and_nothing_worse(self, text: bytes) -> None:
        with pytest.raises(InvalidRequest):
            read(text, None, model("INT64"))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_any_data_is_read_as_its_shape_says_or_refused(self, data: object) -> None:
        try:
            array = read_one("INT64", [2], data)
        except InvalidRequest:
            return
        assert array.tolist() == data

    def test_the_last_of_doubled_keys_counts(self) -> None:
        text = b'{"inputs":[],"inputs":[{"name":"x","datatype":"INT64","shape":[1],"data":[4]}]}'
        assert read(text, None, model("INT64")).request.inputs[0].array.tolist() == [4]

    def test_unknown_and_empty_parameters_are_ignored(self) -> None:
        unknown = {"mine": {"deep": [1]}, "sequence_start": True, "timeout": None}
        one = tensor("INT64", [1], data=[1], parameters=unknown)
        asked = read(
            body(one, parameters=unknown, outputs=None, id=None, other=1), None, model("INT64")
        )
        assert asked.request.id == ""
        assert asked.request.urgency.deadline is None
        assert asked.binary == frozenset()

    def test_the_names_of_wrong_inputs_and_outputs_are_told(self) -> None:
        good = tensor("INT64", [1], data=[1])
        of = model("INT64")
        assert refused(read, body(good, good), None, of)[:2] == ("inputs.x", "2 times")
        assert refused(read, body(good | {"name": "w"}), None, of)[0] == "inputs.w"
        assert refused(read, body(), None, of)[0] == "inputs.x"
        twice = body(good, outputs=[{"name": "y"}, {"name": "y"}])
        assert refused(read, twice, None, of)[:2] == ("outputs.y", "2 times")
        assert refused(read, body(good, outputs=[{"name": "w"}]), None, of)[0] == "outputs.w"
        assert refused(read, body(good | {"datatype": "INT32"}), None, of) == (
            "inputs.x.datatype",
            "INT32",
            "INT64",
        )


class TestBinary:
    of = anatomy(
        InputAnatomy("a", "INT32", (-1,), InputRole.OTHER),
        InputAnatomy("b", "FP32", (-1,), InputRole.OTHER),
        InputAnatomy("c", "BF16", (-1,), InputRole.OTHER),
        InputAnatomy("d", "INT8", (-1,), InputRole.OTHER),
    )

    def read(self, sizes: tuple[object, object], tail: bytes) -> TensorRequest:
        region = Region(create=True, size=16)
        try:
            region.buf[:8] = bytes(range(8))
            text = body(
                {"name": "a", "datatype": "INT32", "shape": [2]}
                | {"parameters": {"binary_data_size": sizes[0]}},
                {"name": "b", "datatype": "FP32", "shape": [1], "data": [0.5]},
                {"name": "d", "datatype": "INT8", "shape": [3]}
                | {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 3}}
                | {"data": None},
                {"name": "c", "datatype": "BF16", "shape": [1]}
                | {"parameters": {"binary_data_size": sizes[1]}},
            )
            with memory() as shared:
                shared.register("r", region.name, 2, 6)
                return read_infer_request(text + tail, len(text), self.of, shared)
        finally:
            region.close()
            region.unlink()

    def test_all_forms_of_tensors_ride_in_one_request(self) -> None:
        asked = self.read((8, 2), np.array([7, -1], "<i4").tobytes() + b"\x80\x3f")
        arrays = {one.name: one.array.tolist() for one in asked.request.inputs}
        assert arrays == {"a": [7, -1], "b": [0.5], "c": [1.0], "d": [2, 3, 4]}
        assert all(one.array.flags.aligned for one in asked.request.inputs)

    @pytest.mark.parametrize(
        ("sizes", "tail", "field"),
        [
            ((8, 2), 9, "inputs.c.parameters.binary_data_size"),
            ((8, 2), 11, "body"),
            ((8, 2), 0, "inputs.a.parameters.binary_data_size"),
            ((7, 3), 10, "inputs.a"),
            ((8, 0), 8, "inputs.c"),
            ((2**70, 2), 10, "inputs.a.parameters.binary_data_size"),
            ((-8, 2), 10, "inputs.a.parameters.binary_data_size"),
            (("8", 2), 10, "inputs.a.parameters.binary_data_size"),
            ((True, 2), 10, "inputs.a.parameters.binary_data_size"),
            ((None, 2), 10, "inputs.a.data"),
        ],
    )
    def test_sizes_have_to_add_up(
        self, sizes: tuple[object, object], tail: int, field: str
    ) -> None:
        assert refused(self.read, sizes, bytes(tail))[0] == field

    def test_a_tensor_has_one_form(self) -> None:
        both = tensor("INT64", [1], data=[1], parameters={"binary_data_size": 8})
        text = body(both)
        assert refused(read, text + bytes(8), len(text), model("INT64"))[0] == "inputs.x.data"
        neither = body(tensor("INT64", [1]))
        assert refused(read, neither, None, model("INT64"))[0] == "inputs.x.data"

    @pytest.mark.parametrize(
        ("values", "expected"), [([], None), (["0"], 0), ([" 4 "], 4), (["4", "4"], 4)]
    )
    def test_header_values(self, values: list[str], expected: int | None) -> None:
        assert read_header_length(values, b"body") == expected

    @pytest.mark.parametrize(
        "values",
        [["5"], ["-1"], ["x"], [""], ["1.0"], ["\xb2"], ["9" * 5_000], ["1", "2"], ["0x4"]],
    )
    def test_wrong_header_values(self, values: list[str]) -> None:
        assert refused(read_header_length, values, b"body")[0] == "Inference-Header-Content-Length"


class TestBytesAlone:
    @pytest.mark.parametrize(
        ("shape", "batch_axis", "expected"),
        [((-1, -1), 0, (1, 6)), ((-1, -1), 1, (6, 1)), ((-1, 6), 0, (1, 6)), ((6,), None, (6,))],
    )
    def test_the_shape_follows_from_the_size(
        self, shape: tuple[int, ...], batch_axis: int | None, expected: tuple[int, ...]
    ) -> None:
        spec = InputAnatomy("x", "INT16", shape, InputRole.SEQUENCE, batch_axis)
        lengths = InputAnatomy("lengths", "INT64", (-1,), InputRole.LENGTHS, 0)
        asked = read(np.arange(6, dtype="<i2").tobytes(), 0, anatomy(spec, lengths))
        assert asked.request.inputs[0].name == "x"
        assert asked.request.inputs[0].array.shape == expected
        assert asked.request.inputs[0].array.ravel().tolist() == list(range(6))
        assert asked.binary == {"y", "z"}

    def test_a_body_for_bytes_is_one_element(self) -> None:
        spec = InputAnatomy("x", "BYTES", (-1, 1), InputRole.OTHER, 0)
        asked = read(b"\xff text", 0, anatomy(spec))
        assert asked.request.inputs[0].array.tolist() == [[b"\xff text"]]

    @pytest.mark.parametrize(
        ("shape", "size"),
        [((-1, -1), 4), ((3,), 5), ((-1, 3), 7), ((-1,), 3), ((-1, 0), 1)],
    )
    def test_models_and_sizes_that_leave_the_shape_open(
        self, shape: tuple[int, ...], size: int
    ) -> None:
        refused(read, bytes(size), 0, model("INT16", shape=shape))

    def test_models_of_two_inputs(self) -> None:
        specs = [InputAnatomy(name, "INT8", (-1,), InputRole.OTHER) for name in "ab"]
        assert refused(read, b"1", 0, anatomy(*specs))[0] == "Inference-Header-Content-Length"


def answer(
    binary: set[str], *tensors: tuple[str, Array], most: int = MOST, request_id: str = "7"
) -> TensorAnswer:
    names = ("y", "z")
    outputs = tuple(
        AnsweredOutput(NamedTensor(name, datatype, array))
        for name, (datatype, array) in zip(names, tensors, strict=False)
    )
    with memory() as shared:
        response = InferResponse("m", "1", request_id, outputs)
        return write_infer_response(response, binary, shared, most)


class TestAnswers:
    @given(arrays(NUMPY), arrays(WITH_JSON), st.sampled_from(["", "y", "z", "yz"]), st.text())
    def test_what_is_written_tritonclient_reads(
        self, first: tuple[str, Array], second: tuple[str, Array], names: str, request_id: str
    ) -> None:
        binary = set(names) | ({"y"} if first[0] == "FP16" else set())
        request_id = request_id.encode(errors="replace").decode()
        written = answer(binary, first, second, request_id=request_id)
        whole = b"".join(written.parts)
        assert (written.header_length is None) == (not binary)
        result = triton.InferResult.from_response_body(whole, header_length=written.header_length)
        assert result.get_response()["id"] == request_id
        assert result.get_response()["model_version"] == "1"
        for name, (datatype, array) in zip("yz", (first, second), strict=True):
            found = result.as_numpy(name)
            if datatype == "BYTES" and name not in binary:
                found = np.array([str(one).encode() for one in found.ravel()], object)
                found = found.reshape(array.shape)
            assert_same(found, array)

    def test_transposed_outputs_are_written_row_by_row(self) -> None:
        array = np.arange(6).reshape(2, 3).T
        text = msgspec.json.decode(answer(set(), ("INT64", array)).parts[0])
        assert text["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]

    def test_nan_is_null_which_numpy_reads_as_nan(self) -> None:
        written = answer(set(), ("FP32", np.array([np.nan, 1], np.float32))).parts[0]
        assert b"[null,1.0]" in written
        result = triton.InferResult.from_response_body(written)
        np.testing.assert_array_equal(result.as_numpy("y"), [np.nan, 1])

    def test_infinity_has_to_be_asked_for_in_binary(self) -> None:
        infinite = ("FP32", np.array([-np.inf], np.float32))
        assert "binary_data" in refused(answer, set(), infinite)[2]
        assert answer({"y"}, infinite).parts[1] == b"\x00\x00\x80\xff"

    def test_bytes_that_are_no_text_have_to_be_asked_for_in_binary(self) -> None:
        bad = ("BYTES", np.array([b"\xff"], object))
        assert refused(answer, set(), bad)[0] == "outputs.y"
        assert answer({"y"}, bad).parts[1] == b"\x01\x00\x00\x00\xff"

    def test_large_answers_are_refused(self) -> None:
        zeros = ("INT8", np.zeros(1_000, np.int8))
        with pytest.raises(AnswerTooLarge):
            answer({"y"}, zeros, most=1_000)
        answer({"y"}, zeros, most=1_200)

    @pytest.mark.parametrize(
        ("parameters", "outputs", "binary"),
        [
            ({}, None, set()),
            ({"binary_data_output": True}, None, {"y", "z"}),
            ({"binary_data_output": True}, [], {"y", "z"}),
            ({"binary_data_output": True}, ["z"], {"z"}),
            ({"binary_data_output": True}, [("z", False), "y"], {"y"}),
            ({}, [("z", True), "y"], {"z"}),
            ({"binary_data_output": False}, [("z", True)], {"z"}),
        ],
    )
    def test_each_output_may_differ_from_the_default(
        self, parameters: object, outputs: list[Any] | None, binary: set[str]
    ) -> None:
        named = [
            {"name": one}
            if isinstance(one, str)
            else {"name": one[0], "parameters": {"binary_data": one[1]}}
            for one in outputs or ()
        ]
        text = body(tensor("INT8", [0], data=[]), parameters=parameters, outputs=named)
        assert read(text, None, model("INT8")).binary == binary

    def test_outputs_without_a_json_form_are_refused_before_the_model_runs(self) -> None:
        of = model("INT8", output="FP16")
        one = tensor("INT8", [0], data=[])
        assert refused(read, body(one), None, of)[0] == "outputs.y.parameters.binary_data"
        read(body(one, parameters={"binary_data_output": True}), None, of)
        best = [{"name": "y", "parameters": {"classification": 1}}]
        assert read(body(one, outputs=best), None, of).request.outputs[0].classes == 1
