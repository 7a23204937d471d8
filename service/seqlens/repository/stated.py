"""All that is stated about a model: ``model.yaml``, and ``config.pbtxt`` where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqlens.backends.plugins import FoundBackends
from seqlens.graphs.signature import Signature
from seqlens.repository.config import ModelConfig, config_of, read_keys
from seqlens.repository.folder import CONFIG_FILE, TRITON_FILE, FoundModel
from seqlens.repository.triton import from_triton, read_triton
from seqlens_wire.pb import model_config_pb2 as pb

REQUEST = "config of the load request"


@dataclass(frozen=True, slots=True)
class Stated:
    """What is stated about a model. It only ever overrides what is found."""

    config: ModelConfig
    signature: Signature | None = None  # the tensors as they are declared; None: as found
    notes: tuple[str, ...] = ()  # what has no counterpart here, one line each


def read_stated(
    model: FoundModel, backends: FoundBackends | None = None, override: pb.ModelConfig | None = None
) -> Stated:
    """Read the files that lie beside a model; where both state a key ``model.yaml`` wins.

    ``override`` is a configuration that a load request brings: it stands in the place of
    ``config.pbtxt`` and wins over ``model.yaml``. Raises ``ModelRejected`` naming the file and
    what is wrong in it.
    """
    keys = read_keys(model.folder / CONFIG_FILE)
    config = override if override is not None else read_triton(model.folder / TRITON_FILE)
    if config is None:
        return Stated(config_of(keys, CONFIG_FILE))
    source = TRITON_FILE if override is None else REQUEST
    found = from_triton(config, name=model.name, backends=backends, source=source)
    config_of(found.keys, source)  # so that what is out of range is told of this file
    if override is None:
        merged, lost = _merged(found.keys, keys), _lost(found.keys, keys)
        winner, loser = CONFIG_FILE, TRITON_FILE
    else:
        merged, lost = _merged(keys, found.keys), _lost(keys, found.keys)
        winner, loser = source, CONFIG_FILE
    wins = (f"{loser}: {winner} wins for {', '.join(lost)}",) if lost else ()
    return Stated(config_of(merged, CONFIG_FILE), found.signature, (*found.notes, *wins))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key; what is above wins. The scheduler's keys count one by one."""
    merged = {**below, **above}
    if "scheduler" in below and "scheduler" in above:
        merged["scheduler"] = {**below["scheduler"], **above["scheduler"]}
    return merged


def _lost(below: Mapping[str, Any], above: Mapping[str, Any]) -> list[str]:
    """Keys that both state, and differently."""
    lost = [k for k in below if k != "scheduler" and k in above and below[k] != above[k]]
    low, high = below.get("scheduler", {}), above.get("scheduler", {})
    return lost + [f"scheduler.{k}" for k in low if k in high and low[k] != high[k]]
