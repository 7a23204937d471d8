"""What ``DescribeModel`` tells: the anatomy, the strategy with its proof, limits and costs."""

from collections.abc import Sequence

from seqlens.api.describe_sites import describe_site
from seqlens.graphs.anatomy import InputAnatomy, OutputAnatomy, RecurrentLayer
from seqlens.repository.loading import LoadedModel
from seqlens.repository.verify import Proof
from seqlens_wire.pb import sequences_pb2 as pb


def describe_model(model: LoadedModel, versions: Sequence[str]) -> pb.DescribeModelResponse:
    """Everything known about a model that takes requests; ``versions`` are all that do."""
    anatomy = model.anatomy
    return pb.DescribeModelResponse(
        name=model.name,
        version=model.version,
        versions=versions,
        state="READY",
        backend=model.backend,
        platform=model.platform,
        device=str(model.engine.capabilities.device),
        architecture=anatomy.architecture.value,
        evidence=anatomy.evidence,
        sequential_depth=anatomy.sequential_depth,
        inputs=[_input(spec) for spec in anatomy.inputs],
        outputs=[_output(spec) for spec in anatomy.outputs],
        recurrent_layers=[_recurrent_layer(layer) for layer in anatomy.recurrent_layers],
        attention_sites=[describe_site(site) for site in model.attention.sites],
        parameters=[
            pb.ParameterGroup(part=group.part, count=group.count) for group in anatomy.parameters
        ],
        precision=anatomy.precision,
        producer=anatomy.producer,
        findings=(*anatomy.findings, *model.attention.findings, *model.notes),
        strategy=model.decision.strategy.value,
        strategy_reason=model.decision.reason,
        proof=_proof(model.proof),
        limits=_limits(model),
        costs=[
            pb.CostPoint(length=one.length, batch_size=one.batch, seconds=one.seconds)
            for one in model.cost.measurements
        ],
        labels=model.labels,
        has_tokenizer=model.tokenizer is not None,
    )


# Fields that are None are left out of a message, as an optional field wants it.


def _input(spec: InputAnatomy) -> pb.InputAnatomy:
    return pb.InputAnatomy(
        name=spec.name,
        datatype=spec.datatype,
        shape=spec.shape,
        role=spec.role.value,
        batch_axis=spec.batch_axis,
        time_axis=spec.time_axis,
        vocabulary_size=spec.vocabulary_size,
        mask_marks=spec.mask_marks,
        made_by_server=spec.optional,
        added_by_server=spec.added_by_server,
        state_output=spec.state_output,
    )


def _output(spec: OutputAnatomy) -> pb.OutputAnatomy:
    return pb.OutputAnatomy(
        name=spec.name,
        datatype=spec.datatype,
        shape=spec.shape,
        role=spec.role.value,
        batch_axis=spec.batch_axis,
        time_axes=spec.time_axes,
    )


def _recurrent_layer(layer: RecurrentLayer) -> pb.RecurrentLayer:
    return pb.RecurrentLayer(
        name=layer.name,
        cell=layer.cell,
        direction=layer.direction,
        input_size=layer.input_size,
        hidden_size=layer.hidden_size,
        layers=layer.layers,
        initial_state=layer.initial_state,
        operator=layer.operator,
    )


def _proof(proof: Proof) -> pb.Proof:
    return pb.Proof(
        tolerance=proof.tolerance,
        allowed_error=proof.allowed_error,
        padded_error=proof.padded_error,
        equal_length_error=proof.equal_length_error,
        repeat_error=proof.repeat_error,
        exported_error=proof.exported_error,
        checked_sequences=proof.checked_sequences,
        checked_lengths=proof.checked_lengths,
        seconds=proof.seconds,
        from_cache=proof.from_cache,
    )


def _limits(model: LoadedModel) -> pb.Limits:
    return pb.Limits(
        max_length=model.max_length,
        max_length_source=model.max_length_source,
        fixed_length=model.anatomy.fixed_length,
        longest_shared=model.decision.longest_shared,
        max_waiting_tokens=model.scheduler.max_waiting_tokens,
        max_waiting_sequences=model.scheduler.max_waiting_sequences,
        max_batch_tokens=model.scheduler.max_batch_tokens,
        max_batch_sequences=model.scheduler.max_batch_sequences,
    )
