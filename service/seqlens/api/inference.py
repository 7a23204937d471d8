"""The one way from a request to its answer, free of any protocol."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np

from seqlens.api.calls import Call
from seqlens.api.classification import best_classes
from seqlens.api.declared import declared_outputs
from seqlens.api.message_bounds import check_count, check_text
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.outcomes import Started, all_or_none
from seqlens.api.ragged import check_sequence, text_tensor
from seqlens.api.requests import (
    AnsweredOutput,
    InferRequest,
    InferResponse,
    LengthLimits,
    NamedTensor,
    RequestedOutput,
    Rows,
    SequenceRequest,
    Urgency,
)
from seqlens.api.rows import input_named, join, split
from seqlens.api.served import Served
from seqlens.api.turns import Turns
from seqlens.api.validation import check_names, check_outputs, check_tensor
from seqlens.errors import DeadlinePassed, InvalidRequest, NotOffered, SeqLensError
from seqlens.graphs.anatomy import InputRole, ModelAnatomy
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.strategy import Strategy
from seqlens.sequences import Array, InputSequence, SequenceAnswer, Tensors, array_bytes
from seqlens.settings import LimitSettings

CLASS_COST = 16
# A text of more cannot be short enough: tokens are words or parts of words.
MAX_CHARACTERS_PER_TOKEN = 256


class Inference:
    """Checks requests, hands their sequences to the model's queue and gathers the answers.

    Used on the event loop only.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._turns = Turns()

    async def infer(
        self, served: Served, request: InferRequest, call: Call, *, streamed: bool = False
    ) -> InferResponse:
        """Answer whole tensors, in the caller's order and shape.

        Raises ``SeqLensError``. When one row fails the request fails with that row named and no
        more is done for the others; when the caller leaves, waiting work is taken back. One that
        is ``streamed`` waits where the model has no room, as long as its deadline allows.
        """
        model, call.id = served.model, request.id
        names = check_outputs(model.anatomy, [output.name for output in request.outputs])
        sequences, rows = await self.take_apart(model, request, call)
        urgency = request.urgency.in_force(model.scheduler)
        if streamed:
            await _room_for_stream(served, sequences, urgency)
        await self._turns.take(len(sequences))
        futures = _submit(served, sequences, urgency, streamed=streamed)
        answers = await all_or_none(futures)
        call.answered(answers)
        outputs = [answer.outputs for answer in answers]
        answered = await self.put_together(model, request, outputs, rows, names)
        return InferResponse(model.name, model.version, request.id, answered)

    async def take_apart(
        self, model: LoadedModel, request: InferRequest, call: Call
    ) -> tuple[list[InputSequence], Rows]:
        """Check whole tensors and make a sequence of each row. Raises ``InvalidRequest``."""
        _refuse_sequences(model, request)
        await self._turns.take(self._count_rows(model.anatomy, request.inputs))
        size = sum(tensor.array.nbytes for tensor in request.inputs)
        sequences, rows = await off_loop_if_large(size, _take_apart, model, request.inputs)
        call.longest = None if rows.time is None else max(rows.lengths)
        return sequences, rows

    async def put_together(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: Sequence[Tensors],
        rows: Rows,
        names: Sequence[str],
    ) -> tuple[AnsweredOutput, ...]:
        """The outputs that the request asks for, made of those of its rows."""
        size = sum(map(array_bytes, outputs))
        arrays = await off_loop_if_large(size, _put_together, model, outputs, rows, names)
        # A class that is written takes as long as many bytes that are copied.
        size = size * CLASS_COST if any(output.classes for output in request.outputs) else 0
        most = self._limits.max_message_bytes
        return await off_loop_if_large(size, _answered, model, request, arrays, most)

    async def check(
        self, model: LoadedModel, requests: Sequence[SequenceRequest | SeqLensError]
    ) -> list[InputSequence | SeqLensError]:
        """Make sequences of ragged requests: each by itself, so that a bad one costs no other.

        Texts are turned into token ids; errors stay where they are. Raises ``InvalidRequest``
        where nothing but texts comes for a model without a tokenizer.
        """
        await self._turns.take(len(requests))
        most = model.max_length * MAX_CHARACTERS_PER_TOKEN
        ids = iter(await _token_ids(model, requests, most))
        limits = length_limits(model)
        checked: list[InputSequence | SeqLensError] = []
        for request in requests:
            try:
                if isinstance(request, SeqLensError):
                    raise request
                inputs = request.inputs
                if request.text is not None:
                    token_ids = next(ids)
                    check_text("texts", request.text, most)
                    if isinstance(token_ids, SeqLensError):
                        raise token_ids
                    inputs = (text_tensor(model.anatomy, token_ids),)
                sequence = check_sequence(model.anatomy, inputs, limits)
                checked.append(_as_it_runs(model, sequence))
            except SeqLensError as error:
                checked.append(error)
        await self._turns.take(len(checked))  # callers hand them over next
        return checked

    def start(
        self,
        served: Served,
        checked: Sequence[InputSequence | SeqLensError],
        urgency: Urgency,
        *,
        streamed: bool = False,
    ) -> list[Started]:
        """Let the sequences wait for their turn together; errors stay where they are.

        Where the model takes no more, each of them gets that error.
        """
        good = [one for one in checked if isinstance(one, InputSequence)]
        try:
            urgency = urgency.in_force(served.model.scheduler)
            futures = iter(_submit(served, good, urgency, streamed=streamed))
        except SeqLensError as error:
            return [error if isinstance(one, InputSequence) else one for one in checked]
        return [next(futures) if isinstance(one, InputSequence) else one for one in checked]

    async def start_when_room(
        self, served: Served, checked: Sequence[InputSequence | SeqLensError], urgency: Urgency
    ) -> list[Started]:
        """The same for a stream: room is waited for, as long as the deadline allows."""
        good = [one for one in checked if isinstance(one, InputSequence)]
        urgency = urgency.in_force(served.model.scheduler)
        try:
            await _room_for_stream(served, good, urgency)
        except DeadlinePassed as late:
            return [late if isinstance(one, InputSequence) else one for one in checked]
        return self.start(served, checked, urgency, streamed=True)

    def _count_rows(self, anatomy: ModelAnatomy, tensors: Sequence[NamedTensor]) -> int:
        """Most rows of any tensor. Raises ``MessageTooLarge``."""
        most = 0
        for tensor in tensors:
            spec = anatomy.input(tensor.name)
            shape = tensor.array.shape
            if spec and spec.batch_axis is not None and spec.batch_axis < len(shape):
                rows = shape[spec.batch_axis]
                check_count(f"inputs.{spec.name}", rows, self._limits.max_message_sequences)
                most = max(most, rows)
        return most


def length_limits(model: LoadedModel) -> LengthLimits:
    """Which lengths the model takes as it is served."""
    padded = model.decision.strategy is Strategy.BY_LENGTH
    return LengthLimits(model.max_length, None if padded else model.anatomy.fixed_length)


def _take_apart(
    model: LoadedModel, tensors: Sequence[NamedTensor]
) -> tuple[list[InputSequence], Rows]:
    if model.decision.strategy is not Strategy.WHOLE:
        return split(model.anatomy, tensors, length_limits(model))
    check_names(model.anatomy, [tensor.name for tensor in tensors])
    for tensor in tensors:
        check_tensor(input_named(model.anatomy, tensor.name), tensor)
    arrays = {tensor.name: tensor.array for tensor in tensors}
    return [InputSequence(arrays, 0)], Rows(time=None, lengths=(0,))


def _as_it_runs(model: LoadedModel, sequence: InputSequence) -> InputSequence:
    """A model that runs requests as they come gets a batch of one."""
    if model.decision.strategy is not Strategy.WHOLE:
        return sequence
    arrays = dict(sequence.inputs)
    for name, array in arrays.items():
        axis = input_named(model.anatomy, name).batch_axis
        arrays[name] = array if axis is None else np.expand_dims(array, axis)
    return InputSequence(arrays, sequence.length)


def _put_together(
    model: LoadedModel, outputs: Sequence[Tensors], rows: Rows, names: Sequence[str]
) -> dict[str, Array]:
    if model.decision.strategy is Strategy.WHOLE:
        return dict(outputs[0])
    return join(model.anatomy, outputs, rows, names)


def _answered(
    model: LoadedModel, request: InferRequest, arrays: Mapping[str, Array], max_bytes: int
) -> tuple[AnsweredOutput, ...]:
    """The outputs as they were asked for: in that order, or all in the model's own."""
    asked = request.outputs or [RequestedOutput(spec.name) for spec in declared_outputs(model)]
    specs = {spec.name: spec for spec in model.anatomy.outputs}
    answered = []
    for output in asked:
        spec = specs[output.name]
        tensor = NamedTensor(spec.name, spec.datatype, arrays[spec.name])
        if output.classes:
            tensor = best_classes(tensor, output.classes, model.labels, spec.batch_axis, max_bytes)
        answered.append(AnsweredOutput(tensor, output.place))
    return tuple(answered)


def _refuse_sequences(model: LoadedModel, request: InferRequest) -> None:
    """A model without a state answers each request of a sequence the same as any other."""
    has_state = any(spec.role is InputRole.STATE for spec in model.anatomy.inputs)
    if request.sequence_id and has_state:
        raise NotOffered(
            f"parameters.sequence_id: the server keeps no state between requests; "
            f"model {model.name!r} takes its state as an input"
        )


async def _room_for_stream(
    served: Served, sequences: Sequence[InputSequence], urgency: Urgency
) -> None:
    remaining = None if urgency.deadline is None else urgency.deadline - time.monotonic()
    try:
        async with asyncio.timeout(remaining):
            await served.queue.room_for_stream(sequences)
    except TimeoutError:
        raise DeadlinePassed(
            "deadline passed before there was room to wait for the model"
        ) from None


def _submit(
    served: Served,
    sequences: Sequence[InputSequence],
    urgency: Urgency,
    *,
    streamed: bool = False,
) -> Sequence[asyncio.Future[SequenceAnswer]]:
    return served.queue.submit_all(
        sequences, deadline=urgency.deadline, priority=urgency.priority, streamed=streamed
    )


async def _token_ids(
    model: LoadedModel, requests: Sequence[SequenceRequest | SeqLensError], most: int
) -> Sequence[Array | SeqLensError]:
    """Token ids of the texts among the requests, in order; an error where there are none."""
    plain = [request for request in requests if isinstance(request, SequenceRequest)]
    texts = [request.text for request in plain if request.text is not None]
    if not texts:
        return ()
    if model.tokenizer is None:
        error = InvalidRequest(
            "texts", got="a text", expected="tensors: the model has no tokenizer.json"
        )
        if len(texts) == len(requests):
            raise error
        return [error] * len(texts)
    # Those that are refused for their size are not worth a tokenizer's time.
    fitting = [text if len(text) <= most else "" for text in texts]
    return await asyncio.to_thread(model.tokenizer.encode, fitting)
