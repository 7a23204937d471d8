"""Texts that come in lines."""

from collections.abc import Iterator
from io import TextIOWrapper
from typing import TextIO


def lines(file: TextIO) -> Iterator[str]:
    """Lines as they come. Bytes that are no text are refused later, as part of their line."""
    if isinstance(file, TextIOWrapper):
        file.reconfigure(errors="surrogateescape")
    return (line.rstrip("\n") for line in file)
