"""Every unary call: its request, and how its answer is read. Free of I/O, for both clients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from seqlens_client._answers import Outcome, checked, read_answers, read_tensors
from seqlens_client._descriptions import (
    ModelDescription,
    ModelStatus,
    read_description,
    read_index,
)
from seqlens_client._errors import error_of_tensor
from seqlens_client._results import Result
from seqlens_client._sequences import Prepared, pack_group
from seqlens_client._statistics import ModelStatistics, read_statistics
from seqlens_wire.datatypes import Array, TensorError, datatype_of
from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2
from seqlens_wire.tensors import encode

T = TypeVar("T")

LARGEST_NUMBER = 2**32 - 1  # of priorities and windows on the wire


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked of which model."""

    model: str
    version: str = ""  # empty: the server chooses
    outputs: Sequence[str] | None = None  # None: all
    priority: int = 0

    def __post_init__(self) -> None:
        check_text("model", self.model)
        check_text("version", self.version)
        check_range("priority", self.priority, least=0)
        if isinstance(self.outputs, str):  # to Python a sequence as well: of its letters
            unfit = TensorError(
                "outputs", got=repr(self.outputs), expected=f"a list of names: [{self.outputs!r}]"
            )
            raise error_of_tensor(unfit)


def check_text(name: str, value: object) -> None:
    """Raise ``InvalidInput`` for a name or version that is none."""
    if not isinstance(value, str):
        unfit = TensorError(name, got=repr(value), expected="a string")
        raise error_of_tensor(unfit)


def check_range(name: str, value: int, *, least: int) -> None:
    """Raise ``InvalidInput`` for a number that the protocol has no room for."""
    if not least <= value <= LARGEST_NUMBER:
        unfit = TensorError(name, got=str(value), expected=f"from {least} to {LARGEST_NUMBER}")
        raise error_of_tensor(unfit)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One unary call."""

    service: Literal["inference", "sequences"]
    method: str
    request: Message
    read: Callable[[Any], T]


def process_one(selection: Selection, prepared: Prepared) -> Operation[Result]:
    """Run one sequence. Reading the answer raises the sequence's error, if it has one."""

    def read(response: sequences_pb2.ProcessBatchResponse) -> Result:
        (outcome,) = read_answers(response.answers, response.model_version, [None])
        return checked(outcome)

    return Operation("sequences", "ProcessBatch", _batch_request(selection, [prepared]), read)


def process_group(
    selection: Selection, group: Sequence[Prepared], *, return_errors: bool
) -> Operation[list[Outcome]]:
    """Run a list of sequences that fits into one message."""

    def read(response: sequences_pb2.ProcessBatchResponse) -> list[Outcome]:
        outcomes = read_answers(response.answers, response.model_version, range(len(group)))
        return outcomes if return_errors else [checked(outcome) for outcome in outcomes]

    return Operation("sequences", "ProcessBatch", _batch_request(selection, group), read)


def _batch_request(
    selection: Selection, group: Sequence[Prepared]
) -> sequences_pb2.ProcessBatchRequest:
    return sequences_pb2.ProcessBatchRequest(
        model_name=selection.model,
        model_version=selection.version,
        sequences=pack_group(group),
        output_names=selection.outputs,
        priority=selection.priority,
    )


def infer_tensors(
    selection: Selection, inputs: Mapping[str, ArrayLike]
) -> Operation[dict[str, Array]]:
    """Run whole tensors, batch axis and padding included."""
    request = oip.ModelInferRequest(
        model_name=selection.model,
        model_version=selection.version,
        outputs=[
            oip.ModelInferRequest.InferRequestedOutputTensor(name=name)
            for name in selection.outputs or ()
        ],
    )
    if selection.priority:
        request.parameters["priority"].int64_param = selection.priority
    for name, value in inputs.items():
        _add_tensor(request, name, np.asarray(value))
    return Operation("inference", "ModelInfer", request, read_tensors)


def _add_tensor(request: oip.ModelInferRequest, name: str, array: Array) -> None:
    try:
        datatype = datatype_of(array, field=f"inputs.{name}")
        request.raw_input_contents.append(encode(array, datatype, field=f"inputs.{name}"))
    except TensorError as error:
        raise error_of_tensor(error) from None
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)


def describe(model: str, version: str) -> Operation[ModelDescription]:
    """What the server knows of a model."""
    check_text("model", model)
    check_text("version", version)
    request = sequences_pb2.DescribeModelRequest(model_name=model, model_version=version)
    return Operation("sequences", "DescribeModel", request, read_description)


def models() -> Operation[list[ModelStatus]]:
    """All models of the repository."""
    return Operation("inference", "RepositoryIndex", oip.RepositoryIndexRequest(), read_index)


def load(model: str) -> Operation[None]:
    """Load a model of the repository, or load it anew."""
    request = oip.RepositoryModelLoadRequest(model_name=model)
    return Operation("inference", "RepositoryModelLoad", request, _read_nothing)


def unload(model: str) -> Operation[None]:
    """Stop serving a model."""
    request = oip.RepositoryModelUnloadRequest(model_name=model)
    return Operation("inference", "RepositoryModelUnload", request, _read_nothing)


def _read_nothing(response: Message) -> None:
    """The answer says no more than that it was done."""


def statistics(model: str | None, version: str) -> Operation[list[ModelStatistics]]:
    """What the server has counted."""
    request = oip.ModelStatisticsRequest(name=model or "", version=version)
    return Operation("inference", "ModelStatistics", request, read_statistics)


def ready(model: str | None, version: str) -> Operation[bool]:
    """Whether the server, or one of its models, takes requests."""
    if model is None:
        return Operation("inference", "ServerReady", oip.ServerReadyRequest(), _read_ready)
    request = oip.ModelReadyRequest(name=model, version=version)
    return Operation("inference", "ModelReady", request, _read_ready)


def _read_ready(response: oip.ServerReadyResponse | oip.ModelReadyResponse) -> bool:
    return response.ready
