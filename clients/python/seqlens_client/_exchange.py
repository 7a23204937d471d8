"""One stream of sequences and answers, apart from the sending and receiving.

Both clients drive it: a sender asks for requests, a receiver hands in responses. Where the two
are threads no lock is needed: only the sender adds to the set of unanswered sequences, only the
receiver takes from it, and each does so in one step.
"""

from collections.abc import Sequence

from seqlens_client._answers import Outcome, checked, read_answers
from seqlens_client._errors import unreadable_answer
from seqlens_client._operations import Selection, check_range
from seqlens_client._sequences import MESSAGE_SEQUENCES, Prepared, pack_group
from seqlens_wire.pb.sequences_pb2 import (
    ProcessStreamRequest,
    ProcessStreamResponse,
    StreamOptions,
    StreamSequences,
)

# Messages that a full window is made of: while the server works on some, others travel.
MESSAGES_IN_WINDOW = 4
# Unanswered sequences of a list at hand: enough for the server to sort by length.
LIST_WINDOW = 256


class Exchange:
    """The state of one stream."""

    def __init__(
        self,
        selection: Selection,
        *,
        window: int,
        keep_order: bool,
        return_errors: bool,
        timeout: float | None,
    ) -> None:
        check_range("window", window, least=1)
        self._selection, self._window, self._timeout = selection, window, timeout
        self._keep_order, self._return_errors = keep_order, return_errors
        self._sent = 0
        self._unanswered: set[int] = set()
        self.closed = False  # nobody waits for answers any more
        self.all_sent = False
        self.failure: Exception | None = None  # of the caller's own iterable

    @property
    def group_limit(self) -> int:
        """Most sequences in one message."""
        return max(1, min(MESSAGE_SEQUENCES, self._window // MESSAGES_IN_WINDOW))

    def has_room(self, group: Sequence[Prepared]) -> bool:
        """Whether the group may be sent now (or never, after the exchange was closed)."""
        return self.closed or len(self._unanswered) + len(group) <= self._window

    def opening(self) -> ProcessStreamRequest:
        """The first message."""
        options = StreamOptions(
            model_name=self._selection.model,
            model_version=self._selection.version,
            output_names=self._selection.outputs,
            priority=self._selection.priority,
            keep_order=self._keep_order,
            window=self._window,
            timeout_seconds=self._timeout,
        )
        return ProcessStreamRequest(options=options)

    def request(self, group: Sequence[Prepared]) -> ProcessStreamRequest:
        """The message of a group; its sequences are numbered here."""
        indices = range(self._sent, self._sent + len(group))
        self._sent = indices.stop
        self._unanswered.update(indices)
        sequences = StreamSequences(ids=map(str, indices), sequences=pack_group(group))
        return ProcessStreamRequest(sequences=sequences)

    def outcomes(self, response: ProcessStreamResponse) -> list[tuple[int, Outcome]]:
        """Numbers of the sequences that a message answers, and what became of each."""
        indices = [self._take(sequence_id) for sequence_id in response.ids]
        outcomes = read_answers(response.answers, response.model_version, indices)
        return list(zip(indices, outcomes, strict=True))

    def _take(self, sequence_id: str) -> int:
        index = int(sequence_id) if sequence_id.isdecimal() else -1
        if index not in self._unanswered:
            raise unreadable_answer(f"it answers {sequence_id!r}, which it was not asked")
        self._unanswered.remove(index)
        return index

    def shown(self, index: int, outcome: Outcome) -> Outcome | tuple[int, Outcome]:
        """What the caller sees of one outcome. Raises an error unless errors are returned."""
        outcome = outcome if self._return_errors else checked(outcome)
        return outcome if self._keep_order else (index, outcome)

    def finish(self) -> None:
        """Raise what ended the stream early, if anything did."""
        if self.failure is not None:
            raise self.failure
        if not self.all_sent:
            raise unreadable_answer("it ended before all sequences were sent")
        if self._unanswered:
            counts = f"{len(self._unanswered)} of {self._sent}"
            raise unreadable_answer(f"it ended with {counts} sequences unanswered")
