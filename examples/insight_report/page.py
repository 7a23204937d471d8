"""The report as a page that needs nothing from outside."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from insight_report.section import Told

_TEMPLATE = Template((Path(__file__).parent / "page.html").read_text())

MEANING = (
    "Occlusion says what an answer depends on: how far it moves when a word is replaced by "
    "others. It does not say how the model gets there.",
    "The gradient (Jacobian norm) says how an infinitely small change would travel. Where it "
    "vanishes a word may still decide the answer: a state that has settled does not move with it.",
    "Attention weights say what a layer mixes into a position, not how much that matters for the "
    "answer in the end.",
)


def page(told: Sequence[Told], limits: Sequence[str], made_with: str) -> str:
    """HTML of all sections; every sentence comes from the figures of its section."""
    sections = "\n".join(_section(one) for one in told)
    return _TEMPLATE.substitute(
        made_with=escape(made_with),
        contents="".join(
            f'<li><a href="#{one.section.key}">{escape(one.section.title)}</a></li>' for one in told
        ),
        meaning=_list(MEANING),
        sections=sections,
        limits=_list(limits),
    )


def _section(one: Told) -> str:
    pictures = "".join(
        f"<figure>{picture.svg}<figcaption>{escape(picture.caption)}</figcaption></figure>"
        for picture in one.pictures
    )
    return (
        f'<section id="{one.section.key}"><h2>{escape(one.section.title)}</h2>'
        f'<p class="question">{escape(one.section.question)}</p>'
        f"{_list(one.sentences)}{pictures}</section>"
    )


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>"
