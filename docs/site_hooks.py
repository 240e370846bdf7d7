"""What the site adds to the pages: the files of the repository that they link to, and a list.

A page of the repository may link to a source file, a recipe or a table of results. On the site each
of these is a page of its own, so that a reader of the site finds it without the repository.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
OUTSIDE = re.compile(r"^(?:[a-z]+:|#|/)")  # another site, the page itself
LONGEST = 400
"""Lines of a file of results that are shown: its first ones."""


def target(link: str, folder: str) -> str | None:
    """Return the path in the repository that a link in `folder` names; None where it has none."""
    if OUTSIDE.match(link):
        return None
    path = posixpath.normpath(posixpath.join(folder, link))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def site_path(path: str) -> str:
    """Return where the site has a path of the repository, below the site's root."""
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    if path == "docs/decisions":
        return "decisions/index.md"
    return f"files/{path}.md" if path != "README.md" else "files/README-page.md"


def rewritten(text: str, folder: str, at: str) -> str:
    """Return a page's text with links to files of the repository turned to pages of the site."""

    def turned(match: re.Match[str]) -> str:
        path = target(match[2], folder)
        if path is None:
            return match[0]
        to = posixpath.relpath(site_path(path), posixpath.dirname(at) or ".")
        return f"{match[1]}{to}{match[3]}"

    return LINK.sub(turned, text)


def shown(path: str) -> str:
    """Return the page of a file or folder of the repository, its links not yet turned."""
    file = ROOT / path
    if file.is_dir():
        listed = sorted(
            entry for entry in file.iterdir() if entry.suffix in {".toml", ".md", ".py", ".ipynb"}
        )
        return f"# {path}\n\n" + "".join(f"- [{entry.name}]({entry.name})\n" for entry in listed)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return text
    if file.suffix == ".ipynb":
        return notebook(path, json.loads(text)["cells"])
    lines = text.splitlines()
    more = f"\nThe first {LONGEST} of {len(lines)} lines.\n" if len(lines) > LONGEST else ""
    kind = {".py": "python", ".toml": "toml", ".jsonl": "json"}.get(file.suffix, "text")
    return f"# {path}\n{more}\n```{kind}\n" + "\n".join(lines[:LONGEST]) + "\n```\n"


def notebook(path: str, cells: list[dict[str, Any]]) -> str:
    """Return the cells of a notebook as a page."""
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    body = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    return "\n\n".join([*body, f"The notebook is `{path}`.\n"])


def decisions() -> str:
    """Return the page that lists the decisions, by number."""
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    titles = [page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages]
    listed = "".join(
        f"- [{title}]({page.name})\n" for page, title in zip(pages, titles, strict=True)
    )
    return f"# Decisions\n\nWhy it is built as it is, a page each.\n\n{listed}"


def on_files(files: Files, config: Any) -> Files:
    """Add the list of decisions, and every file of the repository that a page links to."""
    files.append(File.generated(config, "decisions/index.md", content=decisions()))
    pages = [file for file in files.documentation_pages() if file.src_uri != "decisions/index.md"]
    waiting = [(f"docs/{page.src_uri}", page.content_string) for page in pages]
    known = {page.src_uri for page in files}
    while waiting:
        path, text = waiting.pop()
        folder = path if (ROOT / path).is_dir() else posixpath.dirname(path)
        for match in LINK.finditer(text):
            found = target(match[2], folder)
            if found is None or (at := site_path(found)) in known:
                continue
            known.add(at)
            content = shown(found)
            inside = found if (ROOT / found).is_dir() else posixpath.dirname(found)
            files.append(File.generated(config, at, content=rewritten(content, inside, at)))
            if found.endswith(".md") or (ROOT / found).is_dir():
                waiting.append((found, content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page of docs/ that leave it."""
    at = page.file.src_uri
    return (
        markdown
        if at.startswith("files/")
        else rewritten(markdown, posixpath.dirname(f"docs/{at}"), at)
    )
