"""What is too much to look at, refused before any work with the part that would not be."""

from collections.abc import Sequence

from seqlens.attention.forecast import ForwardSeconds, fitting_columns, predict, timed, watched
from seqlens.attention.gates import held_gate_bytes, predicted_gate_bytes
from seqlens.attention.maps import fitting_selection, predicted_bytes, working_bytes
from seqlens.attention.questions import Cost, GateQuestion, InfluenceQuestion
from seqlens.attention.selection import AttentionSelection
from seqlens.attention.sites import Site
from seqlens.backends.tapped import TappedModel
from seqlens.errors import MapsTooLarge
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import InputSequence
from seqlens.settings import InsightSettings

# A map is held whole while a part of it is cut out, as it is by the model that makes it.
WORKING_FACTOR = 4
_SURE = 0.8  # part of the time that advice fills: the same run does not take the same twice
_FEW = InfluenceQuestion().replacements  # and directions: what is tried without being asked for


def check_bytes(
    settings: InsightSettings,
    sites: Sequence[Site],
    sequences: Sequence[InputSequence],
    selection: AttentionSelection,
) -> int:
    """Bytes of the maps that are asked for. Raises ``MapsTooLarge`` for more than is drawn."""
    lengths = [one.length for one in sequences]
    most, most_held = settings.max_bytes, WORKING_FACTOR * settings.max_bytes
    size = predicted_bytes(sites, lengths, selection, sequences)
    held = working_bytes(sites, lengths, selection, sequences)
    if size <= most and held <= most_held:
        return size

    def fits(sites: Sequence[Site], lengths: Sequence[int], selection: AttentionSelection) -> bool:
        return (
            predicted_bytes(sites, lengths, selection) <= most
            and working_bytes(sites, lengths, selection) <= most_held
        )

    got, limit = f"maps of {size} bytes", f"at most {most} (insight.max_bytes)"
    if size <= most:
        got = f"maps that take {held} bytes while they are drawn"
        limit = f"at most {most_held} ({WORKING_FACTOR} times insight.max_bytes)"
    fitting = fitting_selection(sites, lengths, selection, fits)
    raise MapsTooLarge("selection", got=got, expected=f"{limit}: {fitting}")


def check_gate_bytes(
    settings: InsightSettings,
    anatomy: ModelAnatomy,
    question: GateQuestion,
    lengths: Sequence[int],
) -> None:
    """Raise ``MapsTooLarge`` for more bytes of gates than are read."""
    most, size = settings.max_bytes, predicted_gate_bytes(anatomy, question, lengths)
    if size > most:
        less = "fewer layers, " if len(question.layers) != 1 else ""
        less += "summaries instead of full values, " if question.full else ""
        raise MapsTooLarge(
            "sequences",
            got=f"gates of {size} bytes",
            expected=f"at most {most} (insight.max_bytes): {less}or fewer sequences",
        )
    held, most_held = held_gate_bytes(anatomy, lengths), WORKING_FACTOR * most
    if held > most_held:
        raise MapsTooLarge(
            "sequences",
            got=f"{sum(lengths)} steps, whose layers hold {held} bytes",
            expected=f"at most {most_held} ({WORKING_FACTOR} times insight.max_bytes): about "
            f"{sum(lengths) * most_held // held} steps in one request",
        )


def bounded_cost(
    settings: InsightSettings,
    tapped: TappedModel,
    question: InfluenceQuestion,
    lengths: Sequence[int],
    forward_seconds: ForwardSeconds,
    *,
    together: bool,
    message_bytes: int | None = None,
) -> Cost:
    """What the question will take.

    Raises ``MapsTooLarge`` for work that would take longer than is begun, and for maps that are
    too large, also for one message if the answer has to fit in. Runs the model.
    """
    most = settings.max_seconds
    forward_seconds = watched(tapped, question, min(lengths), forward_seconds, together=together)
    cost = predict(tapped, question, lengths, forward_seconds, together=together)
    _check_maps(settings, cost, message_bytes)
    if cost.seconds <= most:
        return cost
    # What short runs foretell of long ones is not enough to refuse anybody.
    forward_seconds = timed(tapped, question, max(lengths), forward_seconds, together=together)
    cost = predict(tapped, question, lengths, forward_seconds, together=together)
    if cost.seconds <= most:
        return cost
    columns = fitting_columns(
        tapped, question, lengths, forward_seconds, _SURE * most, together=together
    )
    asked = len(question.input_positions) or max(lengths)
    fitting = f"ask for {columns} input positions, " if 0 < columns < asked else ""
    fitting += "fewer sequences or shorter ones"
    if question.replacements > _FEW or question.directions > _FEW:
        fitting += ", or fewer replacements or directions"
    raise MapsTooLarge(
        "sequences",
        got=f"work of {cost.seconds:.3g} s",
        expected=f"at most {most:g} s (insight.max_seconds): {fitting}",
    )


def _check_maps(settings: InsightSettings, cost: Cost, message_bytes: int | None) -> None:
    most, source = settings.max_bytes, "insight.max_bytes"
    if message_bytes is not None and message_bytes < most:
        most, source = message_bytes, "limits.max_message_bytes"
    if cost.bytes > most:
        raise MapsTooLarge(
            "sequences",
            got=f"maps of {cost.bytes} bytes",
            expected=f"at most {most} ({source}): ask for fewer input_positions or "
            "output_positions, or for fewer sequences",
        )
