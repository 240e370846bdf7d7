"""Which bundles cannot be served, and why?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist.errors import BundleError, suggest_path


@dataclass(frozen=True)
class Refused:
    """A bundle that cannot be served.

    name: name of its folder.
    seal: the id in its seal.
    reason: why it is refused.
    files: state of its files then (`watching._files`).
    """

    name: str
    seal: str
    reason: str
    files: Any = field(default=None, repr=False)


def cannot_be_served(refused: Sequence[Refused]) -> str:
    """Return the message with which a service of a single bundle ends."""
    return f"the bundle cannot be served: {refused[0].reason}"


def check_path(path: Path) -> None:
    """Refuse a missing path. Errors: BundleError."""
    if not path.is_dir():
        raise BundleError(
            f"there is nothing to serve at {path}: expected a bundle, or a directory of bundles."
            + suggest_path(path, folder=True)
        )
