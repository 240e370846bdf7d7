"""What cannot be served, and how is that said?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist.errors import BundleError


@dataclass(frozen=True)
class Refused:
    """A bundle that was not taken, and why.

    seal: the id it claims to have. files: what its folder looked like then.
    """

    name: str
    seal: str
    reason: str
    files: Any = field(default=None, repr=False)


def cannot_be_served(refused: Sequence[Refused]) -> str:
    """Say why a service of a single bundle ends before it has begun."""
    return f"the bundle cannot be served: {refused[0].reason}"


def check_path(path: Path) -> None:
    """Refuse a path that is not there. Errors: BundleError."""
    if not path.is_dir():
        raise BundleError(
            f"there is nothing to serve at {path}: expected a bundle, or a directory of bundles"
        )
