"""Commands that look inside a model of a running server, and their options."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from seqlens.cli.asking import (
    AS_USUAL,
    LOCAL_SERVER,
    AttentionQuestion,
    Connection,
    GateQuestion,
    InfluenceQuestion,
    Looking,
    Showing,
)
from seqlens.cli.standard_input import lines

Flag = Annotated[bool, Parameter(negative=())]
Shown = Annotated[Showing, Parameter(name="*")]
Server = Annotated[Connection, Parameter(name="*")]
# Negative numbers count from the end, and each is an option's value rather than an option.
Numbers = Annotated[
    tuple[int, ...], Parameter(allow_leading_hyphen=True, negative=(), show_default=False)
]

Measure = Literal["occlusion", "jacobian"]
_MEASURES: dict[str, tuple[Measure, ...]] = {
    "occlusion": ("occlusion",),
    "jacobian": ("jacobian",),
    "both": ("occlusion", "jacobian"),
}


def attention(
    model: str,
    *texts: str,
    layer: Numbers = (),
    head: Numbers = (),
    site: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    query: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    top_k: int | None = None,
    rollout: Flag = False,
    showing: Shown = AS_USUAL,
    connection: Server = LOCAL_SERVER,
) -> int:
    """Show what the positions of texts look at, as a model of a running server computes it.

    On a terminal it prints the keys that the last token looks at, and a line for each head;
    elsewhere all weights as JSON.

    Parameters
    ----------
    model
        Name of the model.
    texts
        The texts; without any, lines are read from standard input.
    layer
        Number of a layer, negative from the end; may be given several times. All by default.
    head
        Number of a head; may be given several times. All by default.
    site
        Name of an attention site, also of one that is not proved; may be given several times.
    query
        Text of a token (the last that has it) or position that looks; the last by default.
    top_k
        Largest weights shown of each query: 10 on a terminal, elsewhere all by default.
    rollout
        One map through all chosen layers instead.
    showing
        How it is shown.
    connection
        The server.
    """
    from seqlens.cli.attention import show_attention

    position = None if query is None else _position(query)
    question = AttentionQuestion(layer, head, site, position, top_k, rollout)
    return show_attention(connection, _looking(model, texts, showing), question)


def influence(
    model: str,
    *texts: str,
    measure: Literal["occlusion", "jacobian", "both"] = "occlusion",
    about: str = "",
    output_position: Numbers = (),
    exact: Flag = False,
    by_distance: Flag = False,
    showing: Shown = AS_USUAL,
    connection: Server = LOCAL_SERVER,
) -> int:
    """Show how much an answer depends on each position of texts, whatever the architecture.

    Parameters
    ----------
    model
        Name of the model.
    texts
        The texts; without any, lines are read from standard input.
    measure
        occlusion: how far the answer moves when a position is replaced. jacobian: the gradient
        path, which may fade where the answer still depends on a position.
    about
        What of the answer: predicted (the class that is largest), the number of a class, the
        name of an output, or hidden; the norm of the first output by default.
    output_position
        Positions of the answer, where it has any, negative from the end; may be given several
        times. On a terminal the last, elsewhere all by default.
    exact
        The Jacobian without random directions, where the model allows.
    by_distance
        A summary over all texts by distance, too.
    showing
        How it is shown.
    connection
        The server.
    """
    from seqlens.cli.influence import show_influence

    question = InfluenceQuestion(_MEASURES[measure], about, output_position, exact, by_distance)
    return show_influence(connection, _looking(model, texts, showing), question)


def gates(
    model: str,
    *texts: str,
    layer: Numbers = (),
    full: Flag = False,
    showing: Shown = AS_USUAL,
    connection: Server = LOCAL_SERVER,
) -> int:
    """Show the gates of LSTM and GRU layers at every position of texts.

    Parameters
    ----------
    model
        Name of the model.
    texts
        The texts; without any, lines are read from standard input.
    layer
        Number of a layer, negative from the end; may be given several times. All by default.
    full
        Every unit's values in JSON, too.
    showing
        How it is shown.
    connection
        The server.
    """
    from seqlens.cli.gates import show_gates

    return show_gates(connection, _looking(model, texts, showing), GateQuestion(layer, full))


def _looking(model: str, texts: tuple[str, ...], showing: Showing) -> Looking:
    return Looking(model, texts or tuple(lines(sys.stdin)), showing)


def _position(query: str) -> str | int:
    return int(query) if query.removeprefix("-").isdecimal() else query
