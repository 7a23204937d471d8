"""A bar on standard error while a file is worked on, where tqdm is installed."""

from typing import Any, Protocol


class Progress(Protocol):
    """What is told of every row."""

    def update(self, n: int) -> object:
        """More rows are written."""

    def close(self) -> object:
        """No more follow."""


class _Nothing:
    def update(self, n: int) -> None: ...

    def close(self) -> None: ...


def start_progress(wanted: bool, *, total: int | None, done: int, title: str) -> Progress:
    """A bar for ``total`` rows (None: not known). Without a terminal or tqdm there is none."""
    if not wanted:
        return _Nothing()
    try:
        from tqdm import tqdm
    except ImportError:
        return _Nothing()
    # disable=None: only on a terminal.
    bar: Any = tqdm(total=total, initial=done, desc=title, unit=" rows", disable=None)
    return bar  # type: ignore[no-any-return]
