"""Which systems does Shortlist run on? Linux and macOS; Windows through WSL."""

import os
import sys

from shortlist.errors import ShortlistError


def check_system() -> None:
    """Refuse Windows at the first use, and not hours later when a bundle is written.

    Bundles and checkpoints are opened without following links and synced together with their
    directory. Windows supports neither, so a bundle would not be safe there.
    """
    if sys.platform == "win32" or not hasattr(os, "O_NOFOLLOW"):
        raise ShortlistError(
            "Shortlist runs on Linux and macOS; on Windows, run it inside WSL (`wsl --install`, "
            "https://learn.microsoft.com/windows/wsl)."
        )


def started_beside_others() -> bool:
    """Tell whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
