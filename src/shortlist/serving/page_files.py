"""Which files does the explorer page have? They are read once, so no request opens a file."""

from pathlib import Path
from typing import NamedTuple

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".woff2": "font/woff2",
}
"""Media types by file extension; files with other extensions are not served."""

FOLDER = Path(__file__).parent / "page"


class PageFile(NamedTuple):
    """The content of a file and its media type."""

    content: bytes
    media_type: str


def page_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """Return the files of the page by URL path, such as "/" and "/page/app.js"."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES and path.is_file() and not path.is_symlink():
            name = path.relative_to(folder).as_posix()
            files[f"/page/{name}"] = PageFile(path.read_bytes(), TYPES[path.suffix])
    if "/page/index.html" in files:
        files["/"] = files["/page/index.html"]
    return files
