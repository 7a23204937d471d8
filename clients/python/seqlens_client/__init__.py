"""SeqLens client: sequences of any lengths in, numpy arrays out.

from seqlens_client import Client

with Client("localhost:8001") as client:
    result = client.infer("lstm-onnx", [4, 8, 15, 16])
    print(result.output, result.queue_seconds)
"""

from seqlens_client._async import AsyncClient
from seqlens_client._descriptions import (
    AttentionSite,
    CostPoint,
    InputAnatomy,
    Limits,
    ModelDescription,
    ModelStatus,
    OutputAnatomy,
    ParameterGroup,
    Proof,
    RecurrentLayer,
)
from seqlens_client._errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    SeqLensError,
    ServerError,
    Unavailable,
)
from seqlens_client._results import Result
from seqlens_client._sequences import OneSequence
from seqlens_client._sync import Client

__all__ = [
    "AsyncClient",
    "AttentionSite",
    "Cancelled",
    "Client",
    "CostPoint",
    "DeadlineExceeded",
    "InputAnatomy",
    "InvalidInput",
    "Limits",
    "ModelDescription",
    "ModelNotFound",
    "ModelStatus",
    "OneSequence",
    "OutputAnatomy",
    "Overloaded",
    "ParameterGroup",
    "Proof",
    "RecurrentLayer",
    "Result",
    "SeqLensError",
    "ServerError",
    "Unavailable",
]
