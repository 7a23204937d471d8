"""What maps take in bytes, told before any work, and which selection would take less."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from seqlens.attention.choosing import answered_sites, rollout_site
from seqlens.attention.cutting import plan_cut, sizes_of
from seqlens.attention.selection import AttentionSelection, Span
from seqlens.attention.sites import Site
from seqlens.errors import InvalidRequest
from seqlens.sequences import InputSequence

# Sites and sequences are drawn together up to this many bytes of tensors and maps; a single
# tensor may have more.
HELD_BYTES = 67_108_864
_COPIES = 4  # a tensor, its weights put in order, and what is measured of them in float64
_MOST_ADVICE = 3
_EXACT = 8  # bytes of a weight in a rollout

Fits = Callable[[Sequence[Site], Sequence[int], AttentionSelection], bool]


def predicted_bytes(
    sites: Sequence[Site],
    lengths: Sequence[int],
    selection: AttentionSelection,
    sequences: Sequence[InputSequence] = (),
) -> int:
    """Bytes of all weights and key positions that ``draw`` will give, exactly.

    ``lengths`` are those of the sequences; give these too where their inputs have lengths of
    their own, as those of an encoder and a decoder may. Raises ``InvalidRequest`` for spans that
    are empty or beyond a map, naming the sequence.
    """
    total, cut = 0, cut_selection(selection)
    for site in answered_sites(sites, selection):
        known: dict[tuple[int, int], int] = {}  # thousands of sequences have few lengths
        for number, (queries, keys) in enumerate(sizes_of(site, lengths, sequences)):
            size = known.get((queries, keys))
            if size is None:
                try:
                    size = plan_cut(site, cut, queries, keys).size
                except InvalidRequest as error:
                    raise error.at(f"sequence {number}") from error
                known[queries, keys] = size
            total += size
    return total


def cut_selection(selection: AttentionSelection) -> AttentionSelection:
    """What is cut out of the maps that are answered: a rollout has taken its heads already."""
    return replace(selection, heads=(), reduce_heads="mean") if selection.rollout else selection


def working_bytes(
    sites: Sequence[Site],
    lengths: Sequence[int],
    selection: AttentionSelection,
    sequences: Sequence[InputSequence] = (),
) -> int:
    """Most bytes held at a time while maps are drawn, beside the model's own and the answer."""
    tensors = [size for site in sites for size in tensor_bytes(site, lengths, sequences)]
    held = max(max(tensors, default=0), min(sum(tensors), HELD_BYTES)) * _COPIES
    if not selection.rollout:
        return held
    squares = sizes_of(rollout_site(sites), lengths, sequences)
    return held + max((q * k for q, k in squares), default=0) * _EXACT * _COPIES


def tensor_bytes(
    site: Site, lengths: Sequence[int], sequences: Sequence[InputSequence] = ()
) -> list[int]:
    """Bytes of a site's whole float32 tensor for each sequence, without padding."""
    heads = site.site.heads or 1
    return [heads * queries * keys * 4 for queries, keys in sizes_of(site, lengths, sequences)]


def fitting_selection(
    sites: Sequence[Site], lengths: Sequence[int], selection: AttentionSelection, fits: Fits
) -> str:
    """Advice on what to ask for instead, made of selections that do fit; for an error's text.

    ``fits`` tells whether so much may be asked for.
    """
    advice: dict[tuple[tuple[Site, ...], tuple[int, ...], AttentionSelection], str] = {}
    for text, fewer, shorter, narrower in _alternatives(sites, lengths, selection):
        if fits(fewer, shorter, narrower):
            # Of a single sequence, or in a rollout, several of them are the same.
            advice.setdefault((tuple(fewer), tuple(shorter), narrower), text)
    if advice:
        return f"ask for {', or '.join(list(advice.values())[:_MOST_ADVICE])}"
    smallest = replace(_narrowed(selection), last_query=True, queries=Span(), keys=Span(), top_k=8)
    for count in _halved(max(lengths)):
        if fits(sites[:1], [count], smallest):
            return (
                "ask for one layer of one sequence at a time with last_query and top_k=8, and "
                f"sequences of at most {count} positions"
            )
    return "no part of these maps is small enough"


def _halved(length: int) -> Iterator[int]:
    while length > 0:
        yield length
        length //= 2


def _narrowed(selection: AttentionSelection) -> AttentionSelection:
    return selection if selection.rollout else replace(selection, reduce_heads="mean")


def _alternatives(
    sites: Sequence[Site], lengths: Sequence[int], selection: AttentionSelection
) -> Iterator[tuple[str, Sequence[Site], Sequence[int], AttentionSelection]]:
    """What takes less, the mildest first."""
    longest = [max(lengths)]
    largest = [max(sites, key=lambda site: max(tensor_bytes(site, longest)))]
    last = replace(selection, last_query=True, queries=Span())
    top = replace(selection, top_k=8)
    mean = _narrowed(selection)
    if len(lengths) > 1:
        yield "one sequence at a time", sites, longest, selection
    if len(sites) > 1 and not selection.rollout:
        yield "one layer at a time", largest, lengths, selection
    if mean != selection:
        yield "reduce_heads=mean", sites, lengths, mean
    if last != selection:
        yield "last_query", sites, lengths, last
    if not selection.top_k:
        yield "top_k=8", sites, lengths, top
    few = sites if selection.rollout else largest
    alone = "one sequence at a time" if selection.rollout else "one layer of one sequence at a time"
    yield alone, few, longest, selection
    yield f"{alone} with reduce_heads=mean", few, longest, mean
    yield f"{alone} with last_query", few, longest, last
