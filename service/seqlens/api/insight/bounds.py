"""What is too much to look at, refused before any work with the part that would not be."""

from collections.abc import Sequence

from seqlens.attention.gates import predicted_gate_bytes
from seqlens.attention.maps import fitting_selection, predicted_bytes, working_bytes
from seqlens.attention.questions import Cost, GateQuestion, InfluenceQuestion
from seqlens.attention.selection import AttentionSelection
from seqlens.attention.sites import Site
from seqlens.errors import MapsTooLarge
from seqlens.graphs.anatomy import ModelAnatomy
from seqlens.sequences import InputSequence
from seqlens.settings import InsightSettings

# A map is held whole while a part of it is cut out, as it is by the model that makes it.
WORKING_FACTOR = 4
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


def check_seconds(
    settings: InsightSettings,
    question: InfluenceQuestion,
    lengths: Sequence[int],
    cost: Cost,
) -> None:
    """Raise ``MapsTooLarge`` for work that would take longer than is begun."""
    most = settings.max_seconds
    if cost.seconds <= most:
        return
    each = [len(question.input_positions) or length for length in lengths]
    # Both measures take a run, or a few, for each position that is changed.
    positions = int(sum(each) * most / cost.seconds)
    fitting = f"about {positions} input positions in all" if positions else "shorter sequences"
    if question.replacements > _FEW or question.directions > _FEW:
        fitting += ", or fewer replacements or directions"
    raise MapsTooLarge(
        "sequences",
        got=f"work of {cost.seconds:.3g} s for {sum(each)} input positions",
        expected=f"at most {most:g} s (insight.max_seconds): {fitting}",
    )
