"""The sequences of a request that looks inside a model: checked each by itself, and named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seqlens.api.calls import Call, Calls
from seqlens.api.inference import Inference
from seqlens.api.insight.requests import Asked, InsideSequence
from seqlens.errors import SeqLensError
from seqlens.repository.loading import LoadedModel
from seqlens.sequences import InputSequence


@dataclass(frozen=True, slots=True)
class ReadSequences:
    """Those that can be looked at, and what is told of all of them."""

    inside: tuple[InsideSequence, ...]  # in the order of the request
    good: tuple[InputSequence, ...]
    places: tuple[int, ...]  # of the good ones in the request

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each good one."""
        return tuple(one.length for one in self.good)


async def read_asked(
    inference: Inference,
    calls: Calls,
    model: LoadedModel,
    asked: Asked,
    call: Call,
    check: Callable[[InputSequence], None] = lambda _: None,
) -> ReadSequences:
    """Check the sequences that are asked about.

    What is wrong with one, ``check`` included, is told of that one and costs the others nothing.
    As with batches of plain sequences a request with nothing but wrong ones does not fail as a
    whole, but counts as one that did. Raises ``InvalidRequest`` where texts come for a model
    without a tokenizer.
    """
    checked = [_checked(one, check) for one in await inference.check(model, asked)]
    good = [(place, one) for place, one in enumerate(checked) if isinstance(one, InputSequence)]
    read = ReadSequences(
        tuple(_inside(model, one) for one in checked),
        tuple(one for _, one in good),
        tuple(place for place, _ in good),
    )
    _note(calls, call, read, [one for one in checked if isinstance(one, SeqLensError)])
    return read


def without(
    read: ReadSequences, errors: Mapping[int, SeqLensError], calls: Calls, call: Call
) -> ReadSequences:
    """The same where some of the good ones, by number, turned out to be none."""
    places = {read.places[number]: error for number, error in errors.items()}
    inside = (
        InsideSequence(0, error=places[place]) if place in places else one
        for place, one in enumerate(read.inside)
    )
    left = [number for number in range(len(read.good)) if number not in errors]
    rest = replace(
        read,
        inside=tuple(inside),
        good=tuple(read.good[number] for number in left),
        places=tuple(read.places[number] for number in left),
    )
    _note(calls, call, rest, list(errors.values()))
    return rest


def _checked(
    one: InputSequence | SeqLensError, check: Callable[[InputSequence], None]
) -> InputSequence | SeqLensError:
    if isinstance(one, InputSequence):
        try:
            check(one)
        except SeqLensError as error:
            return error
    return one


def _note(calls: Calls, call: Call, read: ReadSequences, errors: Sequence[SeqLensError]) -> None:
    call.sequences, call.longest = len(read.good), max(read.lengths, default=None)
    for error in errors:
        calls.refused(call.labels, error)
    if errors and not read.good:
        call.code = errors[0].grpc_code


def _inside(model: LoadedModel, one: InputSequence | SeqLensError) -> InsideSequence:
    if isinstance(one, SeqLensError):
        return InsideSequence(0, error=one)
    return InsideSequence(one.length, _tokens(model, one))


def _tokens(model: LoadedModel, sequence: InputSequence) -> tuple[str, ...]:
    """Texts of the positions, whether they came as a text or as token ids."""
    needed = [spec for spec in model.anatomy.inputs if not spec.optional]
    if model.tokenizer is None or len(needed) != 1 or needed[0].vocabulary_size is None:
        return ()
    return model.tokenizer.tokens(sequence.inputs[needed[0].name])
