"""Both clients against a server over real sockets; every test runs with each of them."""

import asyncio
import itertools
import math
import pickle
import pydoc
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.clients.conftest import eventually

import seqlens_client as sdk

# --- one sequence


async def test_token_ids_give_a_result_with_the_servers_times(client: Any) -> None:
    result = await client.infer("echo", [1, 2, 3])
    assert result.outputs["doubled"].tolist() == [2, 4, 6]
    assert result.outputs["length"] == 3.0
    assert (result.length, result.padded_length, result.batch_size) == (3, 4, 1)
    assert (result.queue_seconds, result.compute_seconds) == (0.5, 0.25)
    assert result.model_version == "3"


async def test_features_keep_shape_and_dtype(client: Any) -> None:
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    doubled = (await client.infer("echo", features)).outputs["doubled"]
    assert doubled.dtype == np.float32
    np.testing.assert_array_equal(doubled, features * 2)


async def test_a_text_is_one_sequence(client: Any) -> None:
    assert (await client.infer("echo", "abc")).length == 3


async def test_inputs_may_be_named(client: Any) -> None:
    result = await client.infer("echo", {"ids": [1, 2]})
    assert result.outputs["doubled"].tolist() == [2, 4]


async def test_outputs_are_the_callers_own(client: Any) -> None:
    doubled = (await client.infer("echo", [1, 2])).outputs["doubled"]
    doubled[0] = 7
    assert doubled.base is None


async def test_a_bad_sequence_raises_with_field_got_and_expected(client: Any) -> None:
    with pytest.raises(sdk.InvalidInput) as caught:
        await client.infer("echo", [-1])
    error = caught.value
    assert (error.code, error.message) == ("INVALID_ARGUMENT", "token id -1")
    assert (error.field, error.got, error.expected) == ("inputs.ids[0]", "-1", "0..9")
    assert error.index is None


# --- many sequences


async def test_a_ragged_list_gives_results_in_its_order(client: Any) -> None:
    results = await client.infer("backwards", [[1], [2, 3, 4], [5, 6]])
    assert [r.outputs["doubled"].tolist() for r in results] == [[2], [4, 6, 8], [10, 12]]


async def test_texts_arrays_and_mappings_may_be_mixed(client: Any) -> None:
    mixed = ["ab", np.ones((3, 2)), {"ids": [1]}, [1, 2, 3, 4], np.ones((5, 7), np.float32)]
    results = await client.infer("backwards", mixed)
    assert [result.length for result in results] == [2, 3, 1, 4, 5]


async def test_an_empty_list_gives_an_empty_list(client: Any) -> None:
    assert await client.infer("echo", []) == []


async def test_a_short_list_travels_in_one_call(client: Any, fake: Any) -> None:
    assert len(await client.infer("echo", [[1]] * 64)) == 64
    assert fake.models.calls == {"echo": 1}
    assert fake.models.messages == []


async def test_a_long_list_travels_in_messages_of_64(client: Any, fake: Any) -> None:
    results = await client.infer("backwards", [[index] for index in range(1000)])
    assert [r.outputs["doubled"].tolist() for r in results] == [[2 * i] for i in range(1000)]
    assert fake.models.messages == [64] * 15 + [40]


async def test_large_sequences_travel_in_messages_of_a_megabyte(client: Any, fake: Any) -> None:
    await client.infer("echo", [np.zeros(50_000)] * 5)
    assert fake.models.messages == [2, 2, 1]


@pytest.mark.parametrize("more", [1, 200], ids=["short", "long"])
async def test_a_bad_sequence_of_a_list_is_named(client: Any, more: int) -> None:
    with pytest.raises(sdk.InvalidInput, match="sequence 2: token id -1") as caught:
        await client.infer("echo", [[1], [2], [-1], *[[3]] * more])
    assert caught.value.index == 2


@pytest.mark.parametrize("more", [1, 200], ids=["short", "long"])
async def test_errors_may_take_their_place_in_the_list(client: Any, more: int) -> None:
    first, second, *others = await client.infer(
        "echo", [[1], [-1], *[[3]] * more], return_errors=True
    )
    assert isinstance(second, sdk.InvalidInput)
    assert second.index == 1
    assert [result.length for result in (first, *others)] == [1] * (1 + more)


async def test_what_cannot_be_an_array_is_named_before_anything_is_sent(
    client: Any, fake: Any
) -> None:
    with pytest.raises(sdk.InvalidInput, match=r"sequence 1: .*got dtype complex128"):
        await client.infer("echo", [np.zeros(1), np.zeros(1, complex)])
    assert not fake.models.calls


# --- streams


async def test_a_stream_keeps_the_order(client: Any) -> None:
    results = await client.stream("backwards", ([i] for i in range(100)))
    assert [r.outputs["doubled"].tolist() for r in results] == [[2 * i] for i in range(100)]


async def test_a_stream_gives_what_is_ready_with_its_index(client: Any) -> None:
    sequences = [[index] for index in range(32)]
    pairs = await client.stream("backwards", sequences, keep_order=False, window=128)
    assert [index for index, _ in pairs] == list(range(31, -1, -1))
    assert all(result.outputs["doubled"].tolist() == [2 * index] for index, result in pairs)


async def test_a_bad_sequence_may_leave_the_stream_open(client: Any) -> None:
    results = await client.stream("echo", iter([[1], [-1], [3]]), return_errors=True)
    assert [isinstance(result, sdk.SeqLensError) for result in results] == [False, True, False]


async def test_a_bad_sequence_ends_the_stream_otherwise(client: Any) -> None:
    with pytest.raises(sdk.InvalidInput) as caught:
        await client.stream("echo", iter([[1], [-1], [3]]))
    assert caught.value.index == 1


async def test_the_server_is_told_order_window_and_time(client: Any, fake: Any) -> None:
    await client.stream("echo", [[1]], window=7, keep_order=False, timeout=2.5, priority=1)
    options = fake.models.options
    assert (options.window, options.keep_order, options.timeout_seconds) == (7, False, 2.5)
    assert options.priority == 1


async def test_a_model_that_answers_nothing_holds_the_iterable_at_the_window(
    client: Any, fake: Any
) -> None:
    read: list[int] = []

    def sequences() -> Iterator[list[int]]:
        for index in range(100):
            read.append(index)
            yield [index]

    stream = asyncio.ensure_future(client.stream("forgetful", sequences(), window=5))
    await eventually(lambda: sum(fake.models.messages) == 5)
    await asyncio.sleep(0.1)
    assert read == list(range(6))
    await client.close()
    with pytest.raises(sdk.Cancelled):
        await stream


async def test_leaving_a_stream_early_cancels_it_at_the_server(client: Any, fake: Any) -> None:
    await client.first_of_stream("echo", ([i] for i in itertools.count()), window=5)
    await eventually(lambda: fake.models.cancelled)


@pytest.mark.parametrize("error", [KeyError("no such file"), grpc.RpcError("of another call")])
async def test_an_error_of_the_callers_iterable_is_raised_as_it_is(
    client: Any, error: Exception
) -> None:
    def sequences() -> Iterator[list[int]]:
        yield [1]
        raise error

    with pytest.raises(type(error)) as caught:
        await client.stream("echo", sequences())
    assert caught.value is error


async def test_answers_that_never_come_are_noticed(client: Any) -> None:
    with pytest.raises(sdk.ServerError, match="2 of 2 sequences unanswered"):
        await client.stream("forgetful", [[1], [2]])


async def test_a_stream_that_ends_too_early_is_noticed(client: Any) -> None:
    with pytest.raises(sdk.ServerError, match="before all sequences were sent"):
        await client.stream("hasty", ([i] for i in itertools.count()))


async def test_answers_that_come_twice_are_noticed(client: Any) -> None:
    with pytest.raises(sdk.ServerError, match="answers '0', which it was not asked"):
        await client.stream("twice", [[1]])


@pytest.mark.parametrize("number", [-1, 2**32])
async def test_a_number_that_the_protocol_has_no_room_for_is_refused(
    number: int, client: Any
) -> None:
    with pytest.raises(sdk.InvalidInput, match=f"priority: got {number}, expected from 0 to"):
        await client.infer("echo", [1], priority=number)
    with pytest.raises(sdk.InvalidInput, match=f"window: got {number}, expected from 1 to"):
        await client.stream("echo", [[1]], window=number)


async def test_a_window_without_room_is_refused(client: Any) -> None:
    with pytest.raises(sdk.InvalidInput, match="window: got 0"):
        await client.stream("echo", [[1]], window=0)


# --- other calls


async def test_whole_tensors_go_through_the_standard_protocol(client: Any) -> None:
    inputs = {
        "ids": np.arange(6).reshape(2, 3),
        "names": np.array([b"a", b"bc"], object),
        "flags": [[True], [False]],
    }
    outputs = await client.infer_tensors("echo", inputs)
    assert outputs["ids"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert outputs["names"].tolist() == [b"a", b"bc"]
    assert outputs["flags"].dtype == bool


async def test_tensors_of_no_datatype_are_named(client: Any) -> None:
    with pytest.raises(sdk.InvalidInput) as caught:
        await client.infer_tensors("echo", {"x": np.zeros(1, complex)})
    assert caught.value.field == "inputs.x"


async def test_models_are_listed_with_their_state(client: Any) -> None:
    assert await client.models() == [
        sdk.ModelStatus("echo", "3", "READY", ""),
        sdk.ModelStatus("loading", "1", "LOADING", "being loaded"),
    ]


async def test_a_model_is_described(client: Any) -> None:
    description = await client.describe("echo")
    assert description.inputs[0].time_axis == 1
    assert description.limits.max_length == 512
    assert description.labels == ("no", "yes")
    assert description.proof is None


async def test_server_and_models_tell_whether_they_are_ready(client: Any) -> None:
    assert await client.ready()
    assert await client.ready("echo")
    assert not await client.ready("loading")
    with pytest.raises(sdk.ModelNotFound):
        await client.ready("nowhere")


async def test_a_server_out_of_reach_is_not_ready(face: Any) -> None:
    client = face("127.0.0.1:1", retries=0)
    assert not await client.ready()
    with pytest.raises(sdk.Unavailable):
        await client.models()
    await client.close()


# --- failures of whole calls


@pytest.mark.parametrize("sequence", [[1], [[1], [2]], [[1]] * 200], ids=["one", "few", "many"])
async def test_an_unknown_model_is_named(client: Any, sequence: Any) -> None:
    with pytest.raises(sdk.ModelNotFound, match="'nowhere' is not in the repository") as caught:
        await client.infer("nowhere", sequence)
    assert (caught.value.field, caught.value.got) == ("model_name", "nowhere")
    assert caught.value.code == "NOT_FOUND"


async def test_the_reason_for_ending_a_stream_is_not_lost_while_it_is_written(client: Any) -> None:
    for _ in range(50):
        with pytest.raises(sdk.ModelNotFound):
            await client.infer("nowhere", [[1]] * 1000)
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_failing_server_is_not_the_callers_fault(client: Any) -> None:
    with pytest.raises(sdk.ServerError, match="internal error 4f2a"):
        await client.infer("crashing", [1])


async def test_answers_that_cannot_be_read_are_the_servers_fault(client: Any) -> None:
    with pytest.raises(sdk.ServerError, match="cannot be read: doubled"):
        await client.infer("garbled", [1])


async def test_what_takes_too_long_is_given_up(client: Any) -> None:
    with pytest.raises(sdk.DeadlineExceeded):
        await client.infer("slow", [1], timeout=0.1)


async def test_the_clients_timeout_holds_for_calls_that_name_none(face: Any, fake: Any) -> None:
    client = face(fake.address, timeout=0.1)
    with pytest.raises(sdk.DeadlineExceeded):
        await client.infer("slow", [1])
    assert (await client.infer("slow", [1], timeout=math.inf)).length == 1
    await client.close()


async def test_too_large_a_message_is_the_callers_to_change(face: Any, fake: Any) -> None:
    client = face(fake.address, max_message_bytes=1000)
    with pytest.raises(sdk.InvalidInput, match="larger than max"):
        await client.infer("echo", np.zeros(1000))
    await client.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.infer("echo", [1]),
        lambda client: client.infer("echo", [[1]] * 200),
        lambda client: client.stream("echo", [[1]]),
        lambda client: client.infer_tensors("echo", {"ids": np.ones((1, 1))}),
        lambda client: client.models(),
        lambda client: client.ready(),
    ],
    ids=["one", "many", "stream", "tensors", "models", "ready"],
)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
async def test_a_closed_client_says_so(used: bool, call: Any, client: Any) -> None:
    if used:
        await client.ready()
    await client.close()
    with pytest.raises(sdk.Cancelled, match="the client was closed"):
        await call(client)
    await client.close()


async def test_outputs_are_a_list_even_if_there_is_one(client: Any) -> None:
    for call in (
        lambda: client.infer("echo", [1], outputs="doubled"),
        lambda: client.stream("echo", [[1]], outputs="doubled"),
        lambda: client.infer_tensors("echo", {"ids": np.ones((1, 1))}, outputs="doubled"),
    ):
        with pytest.raises(sdk.InvalidInput, match=r"outputs: got 'doubled', .*\['doubled'\]"):
            await call()


def test_a_client_serves_many_threads(fake: Any) -> None:
    with sdk.Client(fake.address) as client:
        lengths: list[int] = []

        def work(size: int) -> None:
            lengths.extend(r.length for r in client.infer("echo", [[0] * size] * 20))

        threads = [threading.Thread(target=work, args=(size,)) for size in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(lengths) == sorted(list(range(1, 7)) * 20)


async def test_an_async_client_may_be_made_before_its_loop_runs(fake: Any) -> None:
    client = await asyncio.to_thread(sdk.AsyncClient, fake.address)
    async with client:
        assert (await client.infer("echo", [1])).length == 1


async def test_an_async_iterable_is_streamed_one_by_one(fake: Any) -> None:
    async with sdk.AsyncClient(fake.address) as client:
        answered: asyncio.Queue[int] = asyncio.Queue()

        async def sequences() -> Any:
            yield [0]
            while (last := await answered.get()) < 3:
                yield [0] * (last + 1)

        lengths = []
        async for result in client.stream("echo", sequences()):
            lengths.append(result.length)
            answered.put_nowait(result.length)
    assert lengths == [1, 2, 3]


async def test_an_async_iterable_that_waits_is_closed_when_the_stream_fails(fake: Any) -> None:
    closed = asyncio.Event()

    async def sequences() -> Any:
        try:
            yield [-1]
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with sdk.AsyncClient(fake.address) as client:
        with pytest.raises(sdk.InvalidInput):
            await anext(client.stream("echo", sequences()))
    await asyncio.wait_for(closed.wait(), 5)


async def test_cancelling_the_task_cancels_the_call(fake: Any) -> None:
    async with sdk.AsyncClient(fake.address) as client:
        task = asyncio.create_task(client.infer("slow", [1]))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("argument", [{"model": None}, {"version": 1}])
async def test_names_and_versions_are_texts(argument: dict[str, Any], client: Any) -> None:
    (name,) = argument
    given = {"model": "echo", "sequence": [1], **argument}
    with pytest.raises(sdk.InvalidInput, match=f"{name}: got {argument[name]}, expected a string"):
        await client.infer(**given)
    given.pop("sequence")
    with pytest.raises(sdk.InvalidInput, match=f"{name}: got"):
        await client.describe(**given)


def test_what_is_shown_of_results_and_clients_fits_a_line(fake: Any) -> None:
    with sdk.Client(fake.address, token="secret") as client:
        assert repr(client) == f"Client('{fake.address}')"
        result = client.infer("echo", [1, 2, 3])
    assert repr(result).startswith("Result(outputs={'doubled': int64[3], ")
    assert "length=3, queue_seconds=0." in repr(result)
    assert "array(" not in repr(result)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.outputs["doubled"], result.outputs["doubled"])


def test_help_shows_short_types() -> None:
    assert "_SupportsArray" not in pydoc.render_doc(sdk.Client.infer)


def test_an_async_client_says_that_it_belongs_to_another_loop(fake: Any) -> None:
    client = sdk.AsyncClient(fake.address)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert first.run(client.ready())
        with pytest.raises(RuntimeError, match="another event loop: make one for each"):
            second.run(client.ready())
        first.run(client.close())
