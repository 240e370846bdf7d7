"""How does an object show itself? One line in a terminal, a small table in a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

MOST = 10
"""How many rows of a table a notebook is shown: the first ones."""

Facts = Mapping[str, Any]


class Showing:
    """An object that names what a reader wants to know of it first, in `facts`."""

    def facts(self) -> Facts:
        """Return a few words or numbers by name, the most important first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the class and its facts in one line."""
        told = ", ".join(f"{name}={text(value)}" for name, value in self.facts().items())
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        """Show the class and its facts as a table; notebooks ask for this name."""
        rows = [(name, text(value)) for name, value in self.facts().items()]
        return html_table(type(self).__name__, (), rows)


def text(value: Any) -> str:
    """Return a fact as people read it: 12,345 or .1234, and words as they are."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table of HTML in which everything is escaped."""
    cells = "".join(
        f"<tr>{''.join(f'<td>{escape(text(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{names}</tr></thead>" if head else ""
    return f"<table><caption>{escape(caption)}</caption>{top}<tbody>{cells}</tbody></table>"
