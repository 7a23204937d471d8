"""One section of the report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from seqlens_client import Client

Figures = dict[str, Any]  # what was measured: numbers, texts, lists and dictionaries of them


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """How a section is measured and told. Its sentences are computed from its figures alone."""

    key: str
    title: str
    question: str
    measure: Callable[[Client], Figures]
    sentences: Callable[[Figures], list[str]]
    pictures: Callable[[Figures], list[Picture]]


@dataclass(frozen=True)
class Told:
    """A section with its figures."""

    section: Section
    figures: Figures
    sentences: list[str]
    pictures: list[Picture] = field(default_factory=list)


def tell(section: Section, client: Client) -> Told:
    """Measure a section and put it into words and pictures."""
    print(f"measuring: {section.title}", flush=True)
    figures = section.measure(client)
    return Told(section, figures, section.sentences(figures), section.pictures(figures))
