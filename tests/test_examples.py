"""The examples run unchanged, and show what they promise."""

import ast
import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SAYS = {
    "csv_to_candidates": ["recall@10: ", "for user 10001:", "after items 500001 and 500002:"],
    "several_channels": ["all together", "from towers", "contribution"],
    "new_items": ["near A film of tomorrow", "at most 10 for", "and then"],
}
"""What each script must print; each one runs without a network, files or arguments."""

ELSEWHERE = {"answer_without_shortlist"}
"""Scripts that other tests run."""

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def run_cells(path: Path) -> list[object]:
    """Run the code of a notebook in one namespace; return what each cell would show."""
    names: dict[str, object] = {}
    shown = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        *rest, last = ast.parse("".join(cell["source"]), str(path)).body
        value = None
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(rest, []), str(path), "exec"), names)
            value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)  # noqa: S307
        else:
            exec(compile(ast.Module([*rest, last], []), str(path), "exec"), names)
        shown.append(value)
    return shown


def test_every_example_is_run_and_linked_from_the_first_pages():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"}}
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == SAYS.keys() | ELSEWHERE
    for page in ("README.md", "README.zh.md", "docs/index.md", "docs/index.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in sorted(files) if f"examples/{name})" not in text] == []


@pytest.mark.parametrize("name", SAYS)
def test_a_script_runs_as_it_stands(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert [words for words in SAYS[name] if words not in said] == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def shown(request, tmp_path_factory) -> tuple[str, list[object]]:
    """The name of a notebook, and what its cells show, run in an empty folder."""
    pytest.importorskip("matplotlib").use("agg")
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        values = run_cells(request.param)
    assert list(folder.iterdir()) == []
    return request.param.stem, values


def test_a_notebook_runs_from_top_to_bottom_and_shows_what_it_says_in_few_lines(shown):
    name, values = shown
    for value in values:
        html = getattr(value, "_repr_html_", lambda: None)()
        assert len(html or repr(value)) < 10_000
    if name == "losses_and_negatives":
        _, negatives, counts = (value for value in values if value is not None)
        corrected, uncorrected, *others = negatives.iter_rows(named=True)
        assert uncorrected["popularity"] < corrected["popularity"] - 0.1
        assert uncorrected["recall@10"] < corrected["recall@10"]
        for other in others:
            assert corrected["from"] < other["recall@10"] < corrected["to"]
        one, eight, most = counts["recall@10"]
        assert one < 0.8 * eight
        assert counts["from"][1] < most < counts["to"][1]
    else:
        *_, titles, stranger = values
        assert len(titles) == 5
        assert all("space" in tags for tags in stranger["tags"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_needs_nothing_but_python(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert not [line for line in cell["source"] if line.startswith(("!", "%"))]
