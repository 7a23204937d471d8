"""Attention maps as outputs of the Open Inference Protocol: their names."""

from collections.abc import Iterable

from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.repository.loading import LoadedModel

PREFIX = "attention:"


def is_map(anatomy: ModelAnatomy, name: str) -> bool:
    """Whether an output that is asked for is a map, and none that the model itself has."""
    return name.startswith(PREFIX) and name not in anatomy.output_names


def map_outputs(model: LoadedModel) -> list[str]:
    """Names of all maps that may be asked for as outputs; a request that names none gets none."""
    return [f"{PREFIX}{site.name}" for site in model.attention.sites if site.drawable]


def plain_names(anatomy: ModelAnatomy, names: Iterable[str]) -> list[str]:
    """Those that are no maps."""
    return [name for name in names if not is_map(anatomy, name)]
