"""SeqLens client: sequences of any lengths in, numpy arrays out.

from seqlens_client import Client

with Client("localhost:8001") as client:
    result = client.infer("lstm-onnx", [4, 8, 15, 16])
    print(result.output, result.queue_seconds)
"""

from seqlens_client._async import AsyncClient
from seqlens_client._attention import AttentionMap, AttentionMeasures, SiteMap
from seqlens_client._descriptions import (
    AttentionProof,
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
    NotAuthenticated,
    NotInModel,
    NotOffered,
    NotPermitted,
    Overloaded,
    SeqLensError,
    ServerError,
    Unavailable,
)
from seqlens_client._files.job import FileSummary
from seqlens_client._frames import to_frame
from seqlens_client._gates import GateLayer, GateReading, Gates
from seqlens_client._influence import (
    Influence,
    InfluenceByDistance,
    InfluenceMap,
    InfluenceTarget,
    InsideSequence,
)
from seqlens_client._results import Result
from seqlens_client._rows import to_row
from seqlens_client._security import tls
from seqlens_client._sequences import OneSequence
from seqlens_client._statistics import BatchStatistics, ModelStatistics, Times
from seqlens_client._sync import Client

for _kind in (SeqLensError, *SeqLensError.__subclasses__()):
    _kind.__module__ = __name__  # in tracebacks, the name by which users catch it

__all__ = [
    "AsyncClient",
    "AttentionMap",
    "AttentionMeasures",
    "AttentionProof",
    "AttentionSite",
    "BatchStatistics",
    "Cancelled",
    "Client",
    "CostPoint",
    "DeadlineExceeded",
    "FileSummary",
    "GateLayer",
    "GateReading",
    "Gates",
    "Influence",
    "InfluenceByDistance",
    "InfluenceMap",
    "InfluenceTarget",
    "InputAnatomy",
    "InsideSequence",
    "InvalidInput",
    "Limits",
    "ModelDescription",
    "ModelNotFound",
    "ModelStatistics",
    "ModelStatus",
    "NotAuthenticated",
    "NotInModel",
    "NotOffered",
    "NotPermitted",
    "OneSequence",
    "OutputAnatomy",
    "Overloaded",
    "ParameterGroup",
    "Proof",
    "RecurrentLayer",
    "Result",
    "SeqLensError",
    "ServerError",
    "SiteMap",
    "Times",
    "Unavailable",
    "tls",
    "to_frame",
    "to_row",
]
