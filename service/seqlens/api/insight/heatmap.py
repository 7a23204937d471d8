"""A page that shows what was seen inside a model: one file, which asks nobody for anything.

Its parts lie in ``web/insight``. What is shown is in the page as JSON with arrays in base64, and
the only script that a browser runs in it is ours, by its hash.
"""

import html
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np
import orjson

from seqlens.api.insight.plain_data import InsightData, MapData
from seqlens.sequences import Array

_SCRIPTS = ("data", "colours", "elements", "matrix", "tokens", "charts", "proof", "attention",
            "influence", "distance", "gates", "page")  # fmt: skip
_MARK = re.compile("@(title|script-hash|style-hash|style|script|data)@")
# Ends no script and begins no comment, wherever a browser looks for that.
_ESCAPED = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026",
            "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}  # fmt: skip
# A weight is a whole number of so many parts of its map's largest, far below what a page can
# show; one number more stands for none.
_LEVELS = 65_534
_NO_WEIGHT = 65_535


def render_page(data: InsightData) -> str:
    """HTML that shows attention maps, influence maps and gates: whatever is in the data.

    The data are plain dictionaries, as ``plain_data`` has them: ``model``, ``version``,
    ``sequences`` and any of ``attention``, ``influence`` and ``gates``, with numpy arrays.
    Texts in them may be anything: none becomes markup.
    """
    style, script = _parts()
    parts = {
        "title": html.escape(f"{data['model']} {data['version']}: inside"),
        "script-hash": _hash(script),
        "style-hash": _hash(style),
        "style": style,
        "script": script,
        "data": _embedded(data),
    }
    # In one pass: what is put in is looked through no more.
    return _MARK.sub(lambda mark: parts[mark[1]], _read("page.html"))


@cache
def _parts() -> tuple[str, str]:
    """The style and the script of every page."""
    scripts = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    return _read("style.css"), f'(() => {{\n"use strict";\n{scripts}\n}})();'


def _read(name: str) -> str:
    return (files("seqlens") / "web" / "insight" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _embedded(data: InsightData) -> str:
    written = orjson.dumps({**data, **_packed_parts(data)}, default=_pack)
    for mark, escaped in _ESCAPED.items():
        written = written.replace(mark, escaped)
    return written.decode()


def _packed_parts(data: InsightData) -> dict[str, Any]:
    """What is told in another way than the rest: weights in few bytes, and no single units."""
    packed: dict[str, Any] = {}
    if "attention" in data:
        layers = data["attention"]["layers"]
        packed["attention"] = {
            "layers": [{**one, "maps": [_pack_map(each) for each in one["maps"]]} for one in layers]
        }
    if "gates" in data:
        packed["gates"] = {
            **data["gates"],
            "layers": [
                {**one, "gates": [_without(each, "values") for each in one["gates"]]}
                for one in data["gates"]["layers"]
            ],
        }
    return packed


def _without(mapping: Any, key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _pack_map(one: MapData) -> dict[str, Any]:
    weights = weights_of(one)
    known = np.isfinite(weights)
    largest = float(np.max(weights, initial=0.0, where=known)) or 1.0
    levels = np.clip(np.where(known, weights, 0) * (_LEVELS / largest), 0, _LEVELS).round()
    levels[~known] = _NO_WEIGHT
    packed = {"shape": weights.shape, "largest": largest, "uint16": _base64(levels, "<u2")}
    return {**one, "weights": packed}


def weights_of(one: MapData) -> Array:
    """Weights of a map as float32, whatever datatype they came in."""
    weights = np.asarray(one["weights"])
    return weights.astype(np.float32) / (255 if weights.dtype == np.uint8 else 1)


def _pack(array: object) -> Any:
    """Arrays, which orjson does not know by itself."""
    if isinstance(array, np.generic):
        return array.item()
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{type(array).__name__} is no plain value")
    if array.dtype.kind == "f":
        return {"shape": array.shape, "float32": _base64(array, "<f4")}
    return {"shape": array.shape, "int32": _base64(array, "<i4")}


def _base64(array: Array, datatype: str) -> str:
    return b64encode(np.ascontiguousarray(array, datatype).tobytes()).decode()
