"""What was seen inside a model as numpy's file of arrays, which ``numpy.load`` reads by itself.

Arrays are named by what they are, as in ``layer0/sequence0/weights``. ``header`` is a text with
the rest as JSON, in which the name of an array stands where the array was.
"""

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import orjson

from seqlens.api.insight.plain_data import InsightData
from seqlens.sequences import Array

Named = tuple[str, dict[str, Any]]  # a name, and the dictionary whose arrays it goes before


def write_npz(data: InsightData) -> bytes:
    """A file without pickled objects: ``json.loads(str(numpy.load(file)["header"]))`` tells all."""
    arrays: dict[str, Any] = {}
    header = {**data, **_parts(data, arrays)}
    text = orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    file = BytesIO()
    np.savez(file, header=np.array(text), **arrays)
    return file.getvalue()


def _parts(data: InsightData, arrays: dict[str, Array]) -> dict[str, Any]:
    """Parts of the data with names in place of arrays, which go into ``arrays``."""
    parts: dict[str, Any] = {}
    if "attention" in data:
        parts["attention"] = {
            **data["attention"],
            "layers": [
                {**one, "maps": _taken(_map_names(one), arrays)}
                for one in data["attention"]["layers"]
            ],
        }
    if "influence" in data:
        influence = data["influence"]
        parts["influence"] = {
            **influence,
            "maps": _taken(_influence_names(influence["maps"]), arrays),
            "by_distance": _taken(_distance_names(influence["by_distance"]), arrays),
        }
    if "gates" in data:
        parts["gates"] = {
            **data["gates"],
            "layers": [
                {**one, "gates": _taken(_gate_names(one), arrays)}
                for one in data["gates"]["layers"]
            ],
        }
    if "answers" in data:
        parts["answers"] = _taken(_answer_names(data["answers"]), arrays)
    return parts


def _map_names(layer: Mapping[str, Any]) -> Iterator[Named]:
    site = layer["site"]
    place = "rollout" if site["name"] == "rollout" else f"layer{site['layer']}"
    for one in layer["maps"]:
        # Numbers of heads are needed by whoever reads no header.
        yield f"{place}/sequence{one['sequence']}", {**one, "heads": np.int32(one["heads"])}


def _influence_names(maps: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    for one in maps:
        positions = {name: np.int64(one[name]) for name in ("output_positions", "input_positions")}
        yield f"{one['measure']}/sequence{one['sequence']}", {**one, **positions}


def _distance_names(summaries: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    for one in summaries:
        yield f"{one['measure']}/by_distance", {**one, "distances": np.int64(one["distances"])}


def _gate_names(layer: Mapping[str, Any]) -> Iterator[Named]:
    for one in layer["gates"]:
        place = f"layer{layer['layer']}/{layer['direction']}/sequence{one['sequence']}"
        yield f"{place}/{one['gate']}", dict(one)


def _answer_names(answers: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    for number, one in enumerate(answers):
        yield f"answers/sequence{number}", dict(one)


def _taken(named: Iterable[Named], arrays: dict[str, Array]) -> list[dict[str, Any]]:
    return [_take(values, name, arrays) for name, values in named]


def _take(values: Mapping[str, Any], name: str, arrays: dict[str, Array]) -> dict[str, Any]:
    taken = dict(values)
    for key, value in values.items():
        if isinstance(value, np.ndarray):
            arrays[f"{name}/{key}"] = value
            taken[key] = f"{name}/{key}"
        elif isinstance(value, dict):
            taken[key] = _take(value, f"{name}/{key}", arrays)
    return taken
