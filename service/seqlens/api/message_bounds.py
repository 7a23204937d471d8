"""What a single message may ask for, checked before anything is made of it.

A few bytes are enough to name a million empty sequences, and every error about a sequence names
the input that it is about: without these bounds one small message keeps the event loop busy for
a minute.
"""

from collections.abc import Iterable

from seqlens.errors import InvalidRequest

MAX_NAME_CHARACTERS = 1_000


def check_count(field: str, sequences: int, most: int) -> None:
    """Refuse a message of more than ``most`` sequences."""
    if sequences > most:
        raise InvalidRequest(
            field, got=f"{sequences} sequences", expected=f"at most {most} in one message"
        )


def check_tensor_names(field: str, names: Iterable[str]) -> None:
    """Refuse names so long that no model has them."""
    for name in names:
        if len(name) > MAX_NAME_CHARACTERS:
            raise InvalidRequest(
                field,
                got=f"a name of {len(name)} characters",
                expected=f"at most {MAX_NAME_CHARACTERS}",
            )


def check_text(field: str, text: str, most: int) -> None:
    """Refuse a text of more than ``most`` characters."""
    if len(text) > most:
        raise InvalidRequest(field, got=f"{len(text)} characters", expected=f"at most {most}")
