"""Waiting for sequences that were handed to a model's queue."""

import asyncio
from collections.abc import Sequence

from seqlens.api.failures import answerable
from seqlens.errors import SeqLensError
from seqlens.sequences import SequenceAnswer

Outcome = SequenceAnswer | SeqLensError
Started = asyncio.Future[SequenceAnswer] | SeqLensError


async def outcomes(started: Sequence[Started]) -> list[Outcome]:
    """Wait for all; each gets its answer or its error. On cancel all waiting work is taken back."""
    futures = [one for one in started if isinstance(one, asyncio.Future)]
    try:
        for future in futures:
            if not future.done():  # most of them are done together with one before them
                await asyncio.wait([future])
    finally:
        _take_back(futures)
    return [outcome(one) for one in started]


def outcome(started: Started) -> Outcome:
    """Answer or error of a sequence that is done."""
    if isinstance(started, SeqLensError):
        return started
    error = started.exception()
    return started.result() if error is None else answerable(error)


async def all_or_none(futures: Sequence[asyncio.Future[SequenceAnswer]]) -> list[SequenceAnswer]:
    """All answers in order; the first failure ends it, and its row is named."""
    if len(futures) == 1:
        return [await futures[0]]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        for row, future in enumerate(futures):
            if future.done() and (error := future.exception()) is not None:
                raise error.at(f"row {row}") if isinstance(error, SeqLensError) else error
    finally:
        _take_back(futures)
    return [future.result() for future in futures]


def _take_back(futures: Sequence[asyncio.Future[SequenceAnswer]]) -> None:
    for future in futures:
        if not future.done():
            future.cancel()
        elif not future.cancelled():
            # Reading it keeps asyncio from logging those of rows that nobody asks for.
            future.exception()
