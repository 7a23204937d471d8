"""What a ``config.pbtxt`` states that has no counterpart here, in one line each."""

from collections.abc import Iterator

from seqlens_wire.pb import model_config_pb2 as pb

_NONE = "has no counterpart"

# Whole fields of ModelConfig.
_FIELDS = {
    "runtime": f"runtime {_NONE}: each backend has one library",
    "cc_model_filenames": f"cc_model_filenames {_NONE}: every device loads the same file",
    "batch_input": f"batch_input {_NONE}: inputs for lengths and masks are found in the model, and "
    "the server makes them where callers leave them out",
    "batch_output": f"batch_output {_NONE}: answers are cut to each sequence's own length",
    "optimization": f"optimization {_NONE}: one thread a run, and the backend's own optimisations",
    "metric_tags": f"metric_tags {_NONE}: metrics have the labels of docs/reference/metrics.md",
    "parameters": f"parameters {_NONE}: they belong to other backends",
    "model_warmup": "model_warmup is not needed: each load proves and measures the model, and "
    "warms it up by that",
    "model_operations": f"model_operations {_NONE}: no libraries of operators are loaded",
    "model_repository_agents": f"model_repository_agents {_NONE}",
    "model_metrics": f"model_metrics {_NONE}: the buckets of metrics are the server's",
    "sequence_batching": f"sequence_batching {_NONE}: the server keeps no state between requests; "
    "a model's state is an input and an output, and a whole sequence fits into one request",
}


def notes_of(config: pb.ModelConfig) -> Iterator[str]:
    """Remarks on a configuration, in the order of its fields."""
    yield from _instances(config)
    for kind, tensors in (("input", config.input), ("output", config.output)):
        for tensor in tensors:
            yield from _tensor(f"{kind} {tensor.name!r}", tensor)
    yield from _labels(config)
    yield from _batching(config.dynamic_batching)
    for descriptor, _ in config.ListFields():
        if descriptor.name in _FIELDS:
            yield _FIELDS[descriptor.name]
    if config.response_cache.enable:
        yield f"response_cache {_NONE}: every request is computed"


def _instances(config: pb.ModelConfig) -> Iterator[str]:
    groups = config.instance_group
    devices = {(g.kind, gpu) for g in groups for gpu in (g.gpus or [-1]) if g.kind in (1, 2)}
    if len(devices) > 1:
        yield "instance_group names several devices: the model runs on the first"
    for group in groups:
        if group.count > 1:
            yield (f"instance_group count {group.count} {_NONE}: lanes are shared by all models")
        if group.kind == pb.ModelInstanceGroup.KIND_MODEL:
            yield f"instance_group KIND_MODEL {_NONE}: the device is the server's"
        for field in ("rate_limiter", "secondary_devices", "profile", "passive", "host_policy"):
            if any(descriptor.name == field for descriptor, _ in group.ListFields()):
                yield f"instance_group {field} {_NONE}"


def _tensor(what: str, tensor: pb.ModelInput | pb.ModelOutput) -> Iterator[str]:
    one_value = list(tensor.dims) == [1] and not tensor.reshape.shape
    if tensor.HasField("reshape") and not (one_value and isinstance(tensor, pb.ModelInput)):
        yield (
            f"{what}: reshape {_NONE}: the tensor is served in the model's own shape, "
            f"{list(tensor.reshape.shape)} for each row, instead of {list(tensor.dims)}"
        )
    if tensor.is_shape_tensor or tensor.is_non_linear_format_io:
        yield f"{what}: layouts of TensorRT {_NONE}"
    if not isinstance(tensor, pb.ModelInput):
        return
    if tensor.format:
        yield f"{what}: format {_NONE}: the axes are found in the model"
    if tensor.allow_ragged_batch:
        yield f"{what}: allow_ragged_batch is not needed: sequences of all lengths share batches"
    if tensor.optional:
        yield f"{what}: optional: what may be left out is found in the model"


def _labels(config: pb.ModelConfig) -> Iterator[str]:
    files = list(dict.fromkeys(o.label_filename for o in config.output if o.label_filename))
    if len(files) > 1:
        yield f"label_filename {', '.join(files[1:])}: only {files[0]} is read, for all outputs"


def _batching(batching: pb.ModelDynamicBatching) -> Iterator[str]:
    if batching.preferred_batch_size:
        yield f"preferred_batch_size {_NONE}: the measured cost of each length decides"
    if batching.max_queue_delay_microseconds:
        yield f"max_queue_delay_microseconds {_NONE}: no work waits for a timer"
    if batching.preserve_ordering:
        yield (
            f"preserve_ordering {_NONE}: shorter sequences may be answered first; each answer "
            "goes to its own request"
        )
    if batching.priority_levels:
        yield f"priority_levels {_NONE}: any priority is taken, and 1 is the highest"
    if batching.priority_queue_policy:
        yield f"priority_queue_policy {_NONE}: all priorities share one waiting room"
    yield from _queue_policy(batching.default_queue_policy)


def _queue_policy(policy: pb.ModelQueuePolicy) -> Iterator[str]:
    if policy.timeout_action == pb.ModelQueuePolicy.DELAY:
        yield f"timeout_action DELAY {_NONE}: what has waited beyond its deadline is refused"
    if policy.default_timeout_microseconds:
        yield (
            "default_timeout_microseconds is for requests that bring no timeout: those that do "
            "are held to their own, whatever allow_timeout_override says"
        )
    elif policy.allow_timeout_override:
        yield "allow_timeout_override is not needed: requests may always bring a timeout"
