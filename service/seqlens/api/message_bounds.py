"""What a single message may ask for, checked before anything is made of it, and may hold.

A few bytes are enough to name a million empty sequences, and every error about a sequence names
the input that it is about: without these bounds one small message keeps the event loop busy for
a minute.
"""

from collections.abc import Iterable

from google.protobuf.message import Message

from seqlens.errors import AnswerTooLarge, MessageTooLarge

MAX_NAME_CHARACTERS = 1_000
_SHOWN_CHARACTERS = 200


def shown(text: str) -> str:
    """What came, for an error: the text, or its beginning."""
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def check_count(field: str, sequences: int, most: int) -> None:
    """Refuse a message of more than ``most`` sequences."""
    if sequences > most:
        raise MessageTooLarge(
            field, got=f"{sequences} sequences", expected=f"at most {most} in one message"
        )


def check_tensor_names(field: str, names: Iterable[str]) -> None:
    """Refuse names so long that no model has them."""
    for name in names:
        if len(name) > MAX_NAME_CHARACTERS:
            raise MessageTooLarge(
                field,
                got=f"a name of {len(name)} characters",
                expected=f"at most {MAX_NAME_CHARACTERS}",
            )


def check_answer(answer: Message, most: int) -> None:
    """Refuse to send a message of more than ``most`` bytes.

    gRPC itself would fail the call after it was counted as answered, with a code that stands for
    too much work.
    """
    size = answer.ByteSize()
    if size > most:
        raise AnswerTooLarge(size, most)


def check_text(field: str, text: str, most: int) -> None:
    """Refuse a text of more than ``most`` characters."""
    if len(text) > most:
        raise MessageTooLarge(field, got=f"{len(text)} characters", expected=f"at most {most}")
