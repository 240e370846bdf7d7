"""How is the service started, with one process or several?

This file does not import torch: the main process of several (`many`) does not need it.
"""

from collections.abc import Callable
from pathlib import Path

from shortlist.errors import ServingError
from shortlist.serving.many import serve_together
from shortlist.serving.refused import check_path
from shortlist.serving.settings import Settings, check_address

MOST_PORTS = 65_535


def serve(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle, or the newest one in a directory of bundles, until SIGTERM or SIGINT.

    path: the bundle or the directory.
    host: address to listen on. Without a token it must be a local one.
    port: TCP port; 0 for a free one.
    settings: limits, tokens, processes and more; None for the defaults.
    ready: called once with the URL when the socket is open; /readyz tells when a bundle is loaded.
    Errors: ServingError for an address that other machines can reach without a token; BundleError
    for a missing path, or a single bundle that cannot be served.
    """
    settings = settings or Settings()
    path = Path(path).absolute()
    check_address(host, settings)
    if not 0 <= port <= MOST_PORTS:
        raise ServingError(f"port must be between 0 and {MOST_PORTS}, got {port}")
    check_path(path)
    if settings.processes > 1:
        serve_together(path, host, port, settings, ready)
        return
    from shortlist.serving.server import serve_alone  # noqa: PLC0415

    serve_alone(path, host, port, settings, ready)
