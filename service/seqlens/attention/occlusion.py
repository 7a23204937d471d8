"""Occlusion: how far an answer moves when one position is replaced by something else.

Tells what an answer depends on. A position is replaced by several things that the model knows,
one at a time, because a token that it never met in training says little about one that it did.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from seqlens.attention.parts import Part
from seqlens.attention.questions import InfluenceQuestion
from seqlens.attention.targets import movement, rounding
from seqlens.errors import InvalidRequest
from seqlens.graphs.anatomy import InputAnatomy
from seqlens.sequences import Array, InputSequence

_SEED = 0
_FLOOR = 6.0  # times what one answer may be off: two are compared, and roundings add up


def replacements(
    changed: InputAnatomy, sequence: InputSequence, question: InfluenceQuestion
) -> Array:
    """What is put in place of positions, [candidates, ...]; a position skips its own value.

    Tokens: those asked for; else, in an order drawn once, the sequence's own, which are known to
    be real, then others of the vocabulary. Features: the vectors of other positions, then zeros.
    One candidate more than are tried, because one of them may be a position's own. Raises
    ``InvalidRequest`` where there is nothing to put in.
    """
    values = sequence.inputs[changed.name]
    if question.replacement_tokens:
        return np.array(list(dict.fromkeys(question.replacement_tokens)), values.dtype)
    random = np.random.default_rng(_SEED)
    own = _distinct(values)
    mixed = own[random.permutation(len(own))]
    wanted = question.replacements + 1
    if len(mixed) < wanted:
        mixed = _distinct(np.concatenate([mixed, _others(changed, values, wanted, random)]))
    if len(mixed) < 2:
        expected = "tokens to put in: the sequence has one value only, its vocabulary is not known"
        raise InvalidRequest("replacement_tokens", got="none", expected=expected)
    return mixed[:wanted]


def check_tokens(changed: InputAnatomy, tokens: Sequence[int]) -> None:
    """Raise ``InvalidRequest`` for replacements that are not in the vocabulary of the input."""
    if not tokens:
        return
    if not changed.datatype.startswith(("INT", "UINT")):
        raise InvalidRequest(
            "replacement_tokens",
            got=f"tokens for input {changed.name!r} of {changed.datatype}",
            expected="none: they are for models that read token ids",
        )
    size = changed.vocabulary_size
    limit = np.iinfo(changed.datatype.lower()).max if size is None else size - 1
    for token in tokens:
        if not 0 <= token <= limit:
            raise InvalidRequest(
                "replacement_tokens", got=str(token), expected=f"from 0 to {limit}"
            )


def measure_occlusion(part: Part, question: InfluenceQuestion) -> tuple[Array, Array]:
    """Values [rows, columns] and floors [rows], float64, of one sequence.

    A value is the mean over replacements of how far the row of the target moves when the column
    is replaced; 0 where all replacements are what stands there.
    """
    candidates = replacements(part.changed, part.sequence, question)
    alone = part.answers([part.sequence])[0]
    elements = part.aim.elements(alone)
    noise = rounding(part.aim.anatomy, alone, elements)
    sums = np.zeros((len(alone), len(part.columns)))
    counts = np.zeros(len(part.columns))
    changes = _changes(part, candidates, question)
    while chunk := list(islice(changes, max(1, part.batch - 1))):
        base, answers = _base_and_answers(part, alone, [copy for _, copy in chunk])
        noise = np.maximum(noise, movement(alone, base, elements))
        for (column, _), answer in zip(chunk, answers, strict=True):
            sums[:, column] += movement(base, answer, elements)
            counts[column] += 1
    if part.batch == 1:  # the same again: whatever moves now is no influence
        again = part.answers([part.sequence])[0]
        noise = np.maximum(noise, movement(alone, again, elements))
    return sums / np.maximum(counts, 1), _FLOOR * noise


def occlusion_runs(
    question: InfluenceQuestion, changed: InputAnatomy, columns: int, batch: int
) -> int:
    """Runs of ``batch`` rows that one sequence takes, beside one of a single row."""
    most = changed.vocabulary_size or question.replacements  # there are no more
    tried = len(set(question.replacement_tokens)) or min(question.replacements, most)
    return -(-columns * tried // max(1, batch - 1)) + (batch == 1)


def _base_and_answers(
    part: Part, alone: Array, copies: list[InputSequence]
) -> tuple[Array, list[Array]]:
    """Targets of the unchanged sequence, and of the changed copies, of one run.

    The unchanged one rides along because kernels round differently in batches of another size:
    only so does a position without any influence come out as exactly 0.
    """
    if part.batch == 1:
        return alone, part.answers(copies)
    base, *answers = part.answers([part.sequence, *copies])
    return base, answers


def _changes(
    part: Part, candidates: Array, question: InfluenceQuestion
) -> Iterator[tuple[int, InputSequence]]:
    """Every changed copy of the sequence, with the number of the column that it is for."""
    values = part.sequence.inputs[part.changed.name]
    limit = len(question.replacement_tokens) or question.replacements
    for column, position in enumerate(part.columns):
        others = (one for one in candidates if not np.array_equal(one, values[position]))
        for candidate in islice(others, limit):
            copy = values.copy()
            copy[position] = candidate
            yield column, part.changed_to(copy)


def _others(
    changed: InputAnatomy, values: Array, wanted: int, random: np.random.Generator
) -> Array:
    """Values that the sequence does not have: of the vocabulary, or zeros for features."""
    if values.dtype.kind == "f":
        return np.zeros((1, *values.shape[1:]), values.dtype)
    if values.dtype.kind not in "iu" or changed.vocabulary_size is None:
        return values[:0]
    # The sequence has fewer than wanted, so that twice as many are enough.
    size = min(2 * wanted, changed.vocabulary_size)
    drawn = random.choice(changed.vocabulary_size, size, replace=False)
    shape = (-1,) + (1,) * (values.ndim - 1)
    return np.broadcast_to(drawn.reshape(shape), (size, *values.shape[1:])).astype(values.dtype)


def _distinct(values: Array) -> Array:
    """The different values of positions, in order of appearance."""
    first = {repr(value.tolist()): place for place, value in reversed(list(enumerate(values)))}
    return values[sorted(first.values())]
