from dataclasses import fields

import pytest

import seqlens_client as sdk
from seqlens_client._descriptions import read_description
from seqlens_wire.pb import sequences_pb2 as pb

PAIRS = [
    (sdk.ModelDescription, pb.DescribeModelResponse),
    (sdk.InputAnatomy, pb.InputAnatomy),
    (sdk.OutputAnatomy, pb.OutputAnatomy),
    (sdk.RecurrentLayer, pb.RecurrentLayer),
    (sdk.AttentionSite, pb.AttentionSite),
    (sdk.AttentionProof, pb.AttentionProof),
    (sdk.ParameterGroup, pb.ParameterGroup),
    (sdk.Proof, pb.Proof),
    (sdk.Limits, pb.Limits),
    (sdk.CostPoint, pb.CostPoint),
]


@pytest.mark.parametrize(("kind", "message"), PAIRS)
def test_classes_have_the_fields_of_their_messages(kind: type, message: type) -> None:
    assert {field.name for field in fields(kind)} == set(message.DESCRIPTOR.fields_by_name)


def test_absence_is_none_and_zero_is_zero() -> None:
    message = pb.DescribeModelResponse()
    message.inputs.add(name="a", batch_axis=0)
    message.proof.padded_error = 0.0
    description = read_description(message)
    assert description.inputs[0].batch_axis == 0
    assert description.inputs[0].time_axis is None
    assert description.proof is not None
    assert description.proof.padded_error == 0.0
    assert description.proof.repeat_error is None
    assert description.limits is None


def test_lists_of_messages_become_tuples_of_values() -> None:
    message = pb.DescribeModelResponse(labels=["no", "yes"])
    message.parameters.add(part="recurrent", count=7)
    message.parameters.add(part="dense", count=3)
    message.costs.add(length=8, batch_size=2, seconds=0.5)
    description = read_description(message)
    assert description.parameters[0] == sdk.ParameterGroup("recurrent", 7)
    assert description.costs == (sdk.CostPoint(8, 2, 0.5),)
    assert description.labels == ("no", "yes")
    assert description.parameter_count == 10
