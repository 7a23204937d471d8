"""A model and a question about influence, brought together: what is changed, what is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from seqlens.attention.jacobian import chosen_elements, own_vectors
from seqlens.attention.occlusion import check_tokens
from seqlens.attention.parts import Part
from seqlens.attention.questions import InfluenceQuestion
from seqlens.attention.recurrent_jacobian import Stack, find_stack
from seqlens.attention.runs import Runs, VectorAxes, changed_input, filled, rows_per_run
from seqlens.attention.targets import (
    Aim,
    check_rows,
    check_width,
    choose_positions,
    find_output,
    output_positions,
    width_of,
)
from seqlens.backends.padding import pad, padded_length
from seqlens.backends.tapped import Look, Seen, TappedModel
from seqlens.errors import BackendFailed, InvalidRequest, NotInModel
from seqlens.graphs.anatomy import InputAnatomy, ModelAnatomy
from seqlens.sequences import Array, InputSequence

MEASURES = ("occlusion", "jacobian")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a question means to one model."""

    tapped: TappedModel
    question: InfluenceQuestion
    aim: Aim
    changed: InputAnatomy
    vectors: VectorAxes | None  # of the embedding; None: not looked at, or features
    width: int  # numbers in each row of the target
    more_rows: int  # that the target has, beyond the sequence's positions
    together: bool

    def batch(self, length: int) -> int:
        """Rows that share a run."""
        together = self.together and self.aim.layout[0] is not None
        return rows_per_run(self.aim.anatomy, length, self.width, together=together)

    def columns(self, length: int) -> tuple[int, ...]:
        """Input positions of a sequence of this length. Raises ``InvalidRequest``."""
        return choose_positions("input_positions", self.question.input_positions, length)

    def rows(self, count: int) -> tuple[int, ...]:
        """Output positions of a target of so many; empty: it has none."""
        return output_positions(self.aim, self.question.output_positions, count)

    def part(self, runs: Runs, sequence: InputSequence) -> Part:
        """What to measure of one sequence. Raises ``InvalidRequest`` for unknown positions."""
        length = count = sequence.length
        columns = self.columns(length)
        if self.more_rows:  # only a look tells how many there are
            seen = runs.run(filled(self.aim.anatomy, [sequence]), self.aim.look())
            count = len(self.aim.rows(seen, length)[0])
        rows, batch = self.rows(count), self.batch(length)
        return Part(runs, self.aim, self.changed, self.vectors, sequence, columns, rows, batch)

    def targets(self, part: Part, answer: Array) -> list[tuple[int, int, int]]:
        """Row, place and element of everything that is looked at."""
        return chosen_elements(part.places, self.aim.elements(answer), answer.shape[1])


def understand(
    tapped: TappedModel, question: InfluenceQuestion, probe: InputSequence, *, together: bool
) -> Subject:
    """What the question means to the model, seen by running it on one sequence.

    Raises ``InvalidRequest`` for what is wrong with the question and ``NotInModel`` for what the
    model does not have.
    """
    anatomy = tapped.anatomy
    _check_numbers(question)
    changed = changed_input(anatomy)
    if changed is None:
        raise NotInModel("the model's inputs have no positions, so that none can be of influence")
    check_tokens(changed, question.replacement_tokens)
    target, output = find_output(anatomy, question.target)
    moved = "jacobian" in question.measures and not changed.datatype.startswith(("FP", "BF"))
    _check_derivative(anatomy, question)
    look = Look(hidden=output is None, embedding=moved)
    one, two = _see(tapped, look, probe)
    axes = _axes_of(anatomy, changed, probe.length)
    vectors = axes(one.embedding, two.embedding) if moved else None
    hidden = axes(one.hidden, two.hidden) if output is None else None
    aim = Aim(anatomy, target, output, hidden)
    width = width_of(aim, one)
    check_width(target, width)
    check_rows(aim, question.output_positions)
    more = len(aim.rows(one, probe.length)[0]) - probe.length if aim.has_positions else 0
    numbers = _numbers(anatomy, one.embedding, probe, changed)
    question = replace(question, directions=min(question.directions, numbers))
    return Subject(tapped, question, aim, changed, vectors, width, more, together)


def has_gradient(subject: Subject, probe: InputSequence) -> bool:
    """Whether the backend gives the gradient of this target."""
    anatomy, aim = subject.aim.anatomy, subject.aim
    inputs = pad(anatomy, filled(anatomy, [probe]))
    weights = aim.whole(subject.tapped.run(inputs, aim.look())) * 0
    try:
        return subject.tapped.gradient(inputs, aim.target.output, weights) is not None
    except (NotInModel, BackendFailed):  # a target or a model that autograd does not reach
        return False


def stack_between(subject: Subject, part: Part) -> tuple[Stack, Array] | None:
    """The recurrent layers from the vectors to the target and the target, if nothing else is."""
    look = replace(subject.aim.look(), embedding=part.vectors is not None, recurrences=True)
    try:
        seen = part.look(look)
    except NotInModel:
        return None
    answer = subject.aim.rows(seen, part.length)[0]
    own = own_vectors(part, seen)
    stack = find_stack(seen.recurrences, 0, own.reshape(len(own), -1), answer)
    return None if stack is None else (stack, answer)


def wants_exact(question: InfluenceQuestion) -> bool:
    """Whether the Jacobian is asked for without differences."""
    return question.exact and "jacobian" in question.measures


def check_lengths(lengths: Sequence[int]) -> None:
    """Raise ``InvalidRequest`` where there is nothing to look at."""
    if not lengths or min(lengths) < 1:
        raise InvalidRequest("sequences", got="no positions", expected="at least one in each")


def _check_numbers(question: InfluenceQuestion) -> None:
    for measure in question.measures:
        if measure not in MEASURES:
            raise InvalidRequest("measures", got=repr(measure), expected=" or ".join(MEASURES))
    counts = {"replacements": question.replacements, "directions": question.directions}
    for name, count in counts.items():
        if count < 1:
            raise InvalidRequest(name, got=str(count), expected="at least 1")


def _check_derivative(anatomy: ModelAnatomy, question: InfluenceQuestion) -> None:
    if "jacobian" in question.measures and anatomy.precision == "int8":
        raise NotInModel(
            "the model is quantised: its answers move in steps and have no derivative; "
            "measure occlusion instead"
        )


def _see(tapped: TappedModel, look: Look, probe: InputSequence) -> tuple[Seen, Seen]:
    """The model's run on one row and on two, as far as it can; two only if vectors are seen."""
    anatomy = tapped.anatomy
    one = tapped.run(pad(anatomy, filled(anatomy, [probe])), look)
    if not anatomy.batched or anatomy.fixed_batch or not (look.hidden or look.embedding):
        return one, one
    return one, tapped.run(pad(anatomy, [probe, probe]), look)


def _numbers(
    anatomy: ModelAnatomy, embedding: Array | None, probe: InputSequence, changed: InputAnatomy
) -> int:
    """How many numbers the vector of a position has: there are no more directions than that."""
    if embedding is None:
        return probe.inputs[changed.name].size // probe.length
    return embedding.size // (padded_length(anatomy, [probe.length]) * (anatomy.fixed_batch or 1))


def _axes_of(
    anatomy: ModelAnatomy, changed: InputAnatomy, length: int
) -> Callable[[Array | None, Array | None], VectorAxes]:
    padded = padded_length(anatomy, [length])

    def find(one: Array | None, two: Array | None) -> VectorAxes:
        assert one is not None
        assert two is not None
        return vector_axes(one.shape, two.shape, padded, changed)

    return find


def vector_axes(
    one: tuple[int, ...], two: tuple[int, ...], length: int, changed: InputAnatomy
) -> VectorAxes:
    """Axes of vectors, from their shape for one row and for two, or twice the same.

    Raises ``NotInModel`` where rows and positions do not have an axis each.
    """
    grown = [axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    batch = grown[0] if grown else changed.batch_axis
    # The width of a vector may equal the length, but it comes last.
    times = [axis for axis, size in enumerate(one) if size == length and axis != batch]
    rows_apart = all(one[axis] == 1 for axis in grown)
    if len(grown) > 1 or not rows_apart or not times:
        raise NotInModel(
            f"vectors of shape {list(one)} for {length} positions: rows and positions do not "
            "have an axis each"
        )
    return VectorAxes(batch, times[0])
