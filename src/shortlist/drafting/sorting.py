"""Which of several files is the log, and which are the tables of users and of items?"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shortlist.data.files import is_table
from shortlist.drafting import names
from shortlist.drafting.columns import Column
from shortlist.drafting.draft import roles_of, unique_columns
from shortlist.drafting.heads import Head, read_head
from shortlist.drafting.roles import Roles, overlap
from shortlist.errors import DataError

Source = str | list[str]


@dataclass
class Sorted:
    """Files by their role. others: the files that are none of these, with the reason."""

    interactions: Source
    users: Source | None = None
    items: Source | None = None
    others: dict[str, str] = field(default_factory=dict)


def tables_in(folder: Path) -> list[str]:
    """Return the tables directly in a folder, sorted by name."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and is_table(path))
    return [str(path) for path in found if not path.name.startswith((".", "_"))]


def sort_files(sources: Sequence[str]) -> Sorted:
    """Find the log among files, and its tables. Errors: DataError if none is a log."""
    if len(sources) == 1 and not Path(sources[0]).is_dir():
        return Sorted(sources[0])
    paths: list[str] = []
    for source in sources:
        inside = tables_in(Path(source)) if Path(source).is_dir() else []
        paths += inside or [source]
    heads, others = _read(paths)
    groups = _alike(heads)
    if len(groups) == 1 and len(sources) == 1:
        return Sorted(sources[0])
    logs = []
    for group in groups:
        try:
            roles = roles_of(group[0], {})
        except DataError as error:
            for head in group:
                others[str(head.source)] = str(error)
            continue
        size = sum(Path(str(head.source)).stat().st_size for head in group)
        certain = sum(guess.confidence != "check" for guess in roles.guesses)
        logs.append(((certain, size), group, roles))
    if not logs:
        told = "; ".join(others.values())
        raise DataError(f"none of these files is a log of events. {told}")
    _, chosen, roles = max(logs, key=lambda entry: entry[0])
    found = Sorted(_source(chosen), others=others)
    for group in groups:
        if group is not chosen:
            _place(found, group, chosen[0], roles)
    return found


def _read(paths: Sequence[str]) -> tuple[list[Head], dict[str, str]]:
    heads, others = [], {}
    for path in paths:
        try:
            heads.append(read_head(path, "interactions"))
        except DataError as error:
            others[path] = str(error)
    if not heads:
        raise DataError("; ".join(others.values()))
    return heads, others


def _alike(heads: Sequence[Head]) -> list[list[Head]]:
    """Group files with the same columns, which are read as one table."""
    groups: dict[object, list[Head]] = {}
    for head in heads:
        kinds = tuple(map(str, head.frame.dtypes)) if head.headless else ()
        key = (Path(str(head.source)).suffix, tuple(head.frame.columns), kinds)
        groups.setdefault(key, []).append(head)
    return list(groups.values())


def _source(group: Sequence[Head]) -> Source:
    found = [str(head.source) for head in group]
    return found[0] if len(found) == 1 else found


def _place(found: Sorted, group: Sequence[Head], log: Head, roles: Roles) -> None:
    """Assign a table to the side whose ids it holds, each once."""
    head = group[0]
    found.others.pop(str(head.source), None)
    stem = Column(re.sub(r"\W", " ", Path(str(head.source)).stem), head.frame.to_series()).words
    scores = {}
    for side, role, nouns in (("users", "user", names.USERS), ("items", "item", names.ITEMS)):
        own = roles.columns[role]
        shares = [
            overlap(own, [ids]) + (name == own.name and not log.headless)
            for name, ids in unique_columns(head)
        ]
        said = any(word.rstrip("s") in nouns for word in stem)
        scores[side] = max(shares, default=0.0) + 0.5 * said if any(shares) else 0.0
    side = max(scores, key=lambda name: scores[name])
    if len(group) > 1 or not scores[side] or getattr(found, side) is not None:
        for each in group:
            found.others[str(each.source)] = "no table of the users or the items of the log"
        return
    setattr(found, side, str(head.source))
