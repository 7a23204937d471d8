"""What the Open Inference Protocol says about a model: metadata, configuration, statistics."""

from collections.abc import Iterable, Sequence

from seqlens.api.declared import declared_inputs, declared_outputs, declared_shape
from seqlens.api.map_outputs import map_outputs
from seqlens.api.statistics import Duration, ModelCounts
from seqlens.graphs.anatomy import InputAnatomy, OutputAnatomy
from seqlens.repository.loading import LoadedModel
from seqlens.scheduling.strategy import Strategy
from seqlens_wire.pb import model_config_pb2
from seqlens_wire.pb.open_inference_pb2 import (
    InferBatchStatistics,
    InferStatistics,
    ModelMetadataResponse,
    ModelStatistics,
    StatisticDuration,
)


def model_metadata(model: LoadedModel, versions: Sequence[str]) -> ModelMetadataResponse:
    """Inputs and outputs in the model's own layout, and what was found as properties.

    One value a row is shown as [batch, 1], see ``_value_a_row``.
    """
    return ModelMetadataResponse(
        name=model.name,
        versions=versions,
        platform=model.platform,
        inputs=[
            _tensor_metadata(spec, _shown_shape(model, spec)) for spec in declared_inputs(model)
        ],
        outputs=[
            _tensor_metadata(spec, declared_shape(model, spec)) for spec in declared_outputs(model)
        ],
        properties=_properties(model),
    )


def _value_a_row(model: LoadedModel, spec: InputAnatomy) -> bool:
    """Whether nothing would be left of an input's shape without its batch axis.

    The reference server knows no such inputs: its models reshape [batch, 1], and perf_analyzer
    refuses to send anything else. Callers may leave the axis of size one out.
    """
    return len(spec.shape) == 1 and _batch_first(model)


def _shown_shape(model: LoadedModel, spec: InputAnatomy) -> tuple[int, ...]:
    shape = declared_shape(model, spec)
    return (*shape, 1) if _value_a_row(model, spec) else shape


def _tensor_metadata(
    spec: InputAnatomy | OutputAnatomy, shape: Sequence[int]
) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=shape)


def _properties(model: LoadedModel) -> dict[str, str]:
    anatomy = model.anatomy
    properties = {
        "architecture": anatomy.architecture.value,
        "sequential_depth": anatomy.sequential_depth,
        "strategy": model.decision.strategy.value,
        "precision": anatomy.precision,
        "max_length": str(model.max_length),
        "optional_inputs": ",".join(spec.name for spec in anatomy.inputs if spec.optional),
        "batch_axes": _axes((spec.name, spec.batch_axis) for spec in anatomy.inputs),
        "time_axes": _axes((spec.name, spec.time_axis) for spec in anatomy.inputs),
        "attention_outputs": ",".join(map_outputs(model)),
        "state_tensors": ",".join(
            f"{spec.name}={spec.state_output}" for spec in anatomy.inputs if spec.state_output
        ),
    }
    return {name: text for name, text in properties.items() if text}


def _axes(axes: Iterable[tuple[str, int | None]]) -> str:
    return ",".join(f"{name}={axis}" for name, axis in axes if axis is not None)


def model_config(model: LoadedModel, lanes: int) -> model_config_pb2.ModelConfig:
    """The configuration as clients of the reference server expect it.

    With a positive ``max_batch_size`` the batch axis comes first in all tensors and is left out
    of ``dims``; for any other layout it is 0 and ``dims`` are whole shapes. ``lanes`` are those
    of the server, which its models share.
    """
    batch_first = _batch_first(model)
    config = model_config_pb2.ModelConfig(
        name=model.name,
        platform=model.platform,
        backend=model.backend,
        max_batch_size=model.scheduler.max_batch_sequences if batch_first else 0,
        version_policy=_version_policy(model),
        instance_group=[_instances(model, lanes)],
        default_model_filename=model.path.name,
    )
    # What is false is told as well: clients look for the messages that say so.
    config.model_transaction_policy.decoupled = False
    config.response_cache.enable = False
    for spec in declared_inputs(model):
        entry = config.input.add(
            name=spec.name,
            data_type=_data_type(spec.datatype),
            dims=declared_shape(model, spec)[int(batch_first) :],
            optional=spec.optional,
        )
        if _value_a_row(model, spec):
            entry.dims.append(1)
            entry.reshape.SetInParent()
    for output in declared_outputs(model):
        config.output.add(
            name=output.name,
            data_type=_data_type(output.datatype),
            dims=declared_shape(model, output)[int(batch_first) :],
            label_filename=_label_file(model, output),
        )
    if model.decision.strategy.shares_batches:
        config.dynamic_batching.SetInParent()
    for name, text in _properties(model).items():
        config.parameters[name].string_value = text
    return config


def _instances(model: LoadedModel, lanes: int) -> model_config_pb2.ModelInstanceGroup:
    """How often the model may run at the same time, and where."""
    capabilities = model.engine.capabilities
    on_gpu = capabilities.device.kind == "cuda"
    kinds = model_config_pb2.ModelInstanceGroup.Kind
    return model_config_pb2.ModelInstanceGroup(
        name=f"{model.name}_0",
        kind=kinds.KIND_GPU if on_gpu else kinds.KIND_CPU,
        count=lanes if capabilities.concurrent_runs else 1,
        gpus=[capabilities.device.index] if on_gpu else [],
    )


def _version_policy(model: LoadedModel) -> model_config_pb2.ModelVersionPolicy:
    policy, message = model.config.version_policy, model_config_pb2.ModelVersionPolicy()
    if isinstance(policy, str):
        message.all.SetInParent()
    elif policy.specific is not None:
        message.specific.versions.extend(policy.specific)
    else:
        message.latest.num_versions = policy.latest or 1
    return message


def _label_file(model: LoadedModel, output: OutputAnatomy) -> str:
    """The file of the labels: as declared, or for an output with as many classes."""
    declared = model.signature.outputs if model.signature is not None else ()
    if any(tensor.label_file for tensor in declared):
        return next(tensor.label_file for tensor in declared if tensor.name == output.name)
    stated = model.config.labels
    if not model.labels or isinstance(stated, tuple) or output.shape[-1:] != (len(model.labels),):
        return ""
    return stated or "labels.txt"


def _batch_first(model: LoadedModel) -> bool:
    if model.signature is not None:
        return model.signature.batched
    if model.decision.strategy is Strategy.WHOLE:
        return False
    axes = [spec.batch_axis for spec in declared_inputs(model)]
    axes += [spec.batch_axis for spec in declared_outputs(model)]
    return all(axis == 0 for axis in axes)


def _data_type(datatype: str) -> "model_config_pb2.DataType.ValueType":
    name = "STRING" if datatype == "BYTES" else datatype
    return model_config_pb2.DataType.Value(f"TYPE_{name}")


def model_statistics(model: LoadedModel, counts: ModelCounts) -> ModelStatistics:
    """Counts and times since the model was loaded.

    ``compute_input`` is the making of the batch; ``compute_output`` of a request is the writing
    of its answer, that of a batch size the taking apart of the batch.
    """
    return ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=round(counts.last_answer * 1_000),
        inference_count=counts.sequences,
        execution_count=counts.executions,
        inference_stats=InferStatistics(
            success=_duration(counts.success),
            fail=_duration(counts.fail),
            queue=_duration(counts.queue),
            compute_input=_duration(counts.build),
            compute_infer=_duration(counts.compute),
            compute_output=_duration(counts.encode),
        ),
        batch_stats=[
            InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(batches.build),
                compute_infer=_duration(batches.compute),
                compute_output=_duration(batches.take_apart),
            )
            for size, batches in sorted(counts.batches.items())
        ],
    )


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=round(duration.seconds * 1e9))
