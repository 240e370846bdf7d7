"""The links of the documentation lead somewhere, and the first page works as written."""

import re
import shlex
from pathlib import Path

import pytest

import shortlist
from shortlist.channels.options import options_of
from shortlist.channels.table import CHANNELS
from shortlist.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START = ["index.md", "index.zh.md"]


def test_every_link_to_a_file_of_the_repository_leads_somewhere():
    lost = []
    for page in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"[a-z]+:|#", link) and not (page.parent / link.split("#")[0]).exists():
                generated = link.split("#")[0] == "decisions/index.md"  # by docs/site_hooks.py
                lost += [] if generated else [f"{page.relative_to(ROOT)}: {link}"]
    assert lost == []


def test_the_reference_names_every_public_name_once():
    pages = [page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md"))]
    named = re.findall(r"heading: shortlist\.(\w+)", "".join(pages))
    assert sorted(named) == sorted(shortlist.__all__)
    for home, name in re.findall(r"^::: shortlist\.([\w.]+)\.(\w+)$", "".join(pages), re.MULTILINE):
        assert getattr(shortlist, name).__module__ == f"shortlist.{home}"


def test_every_guide_stands_in_the_menu_of_the_site():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    missing = {page for page in pages if not page.startswith("decisions/") and page not in menu}
    assert missing == set()


@pytest.mark.parametrize("name", ["coming-from.md", "coming-from.zh.md"])
def test_every_key_that_the_page_on_other_libraries_names_is_one_of_a_recipe(name, tmp_path):
    page = (DOCS / "guide" / name).read_text(encoding="utf-8")
    cells = [line.split("|")[2] for line in page.splitlines() if re.match(r"\| .* \| .* \|$", line)]
    named = re.findall(r"`(?:\w+\.)?(\w+) = (?:\"([\w-]+)\")?", " ".join(cells))
    app(["init", "--full", str(tmp_path / "full.toml")], standalone_mode=False)
    template = (tmp_path / "full.toml").read_text(encoding="utf-8")
    keys = set(re.findall(r"^(?:# )?(\w+) = ", template, re.MULTILINE))
    assert len(named) > 40
    assert {key for key, _ in named} - keys == set()
    options = [own for kind in CHANNELS.values() if (own := options_of(kind)) is not None]
    choices = [str(own.model_json_schema()) for own in options]
    words = set(re.findall(r"[\w-]+", " ".join([template, *choices])))
    assert {value for _, value in named} - words - {""} == set()


def test_both_first_pages_have_the_same_lines():
    english, chinese = (BLOCK.findall((DOCS / page).read_text(encoding="utf-8")) for page in START)
    assert english == chinese


def test_a_chinese_page_shows_the_code_of_the_english_one_and_each_links_to_the_other():
    def shown(page: str) -> set[str]:
        fenced = re.findall(r"^```(?!mermaid)\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        rest = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
        indented = re.findall(r"^ {4}(?! )(.*)$", rest, re.MULTILINE)
        return {re.sub(r"\s*#.*", "", code) for code in [*fenced, *indented]}

    pages = sorted(DOCS.rglob("*.zh.md"))
    assert len(pages) > 10
    for page in pages:
        name = page.name.replace(".zh.md", ".md")
        chinese, english = (path.read_text(encoding="utf-8") for path in (page, page.parent / name))
        assert f"]({page.name})" in english
        assert f"]({name})" in chinese
        assert shown(chinese) - shown(english) == set(), page


def test_the_chinese_page_on_the_doctor_has_the_checks_keys_and_counts_of_the_english_one():
    def facts(name: str) -> tuple[list, list]:
        page = (DOCS / name).read_text(encoding="utf-8")
        checks = re.findall(r"^\| (`[\w-]+` \| \w+) \|(.*)$", page, re.MULTILINE)
        key = r"\b(?:data|evaluation|features|model|split|training)\.[a-z_]+"
        counts = re.findall(r"\d+", " ".join(re.findall(r"^## .*$", page, re.MULTILINE)))
        return [(check, sorted(re.findall(key, said, re.ASCII))) for check, said in checks], counts

    assert len(facts("doctor.md")[0]) > 60
    assert facts("doctor.zh.md") == facts("doctor.md")


def test_the_chinese_page_on_machines_lists_the_settings_of_the_english_one():
    pages = [(DOCS / f"portability{end}").read_text(encoding="utf-8") for end in (".md", ".zh.md")]
    english, chinese = (re.findall(r"\| `([A-Z_]+=\w+)` \|", page) for page in pages)
    assert english == chinese
    assert len(english) > 5


def test_no_sentence_of_a_page_begins_with_of():
    starts = re.compile(r"(?:^|[.:;] |\*\* |^- |\| )Of (?!\d)\w+", re.MULTILINE)
    found = {
        str(page.relative_to(ROOT)): starts.findall(page.read_text(encoding="utf-8"))
        for page in PAGES
        if page.name != "CHANGELOG.md"
    }
    assert {page: sentences for page, sentences in found.items() if sentences} == {}


def test_the_first_page_goes_from_a_file_to_titles(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for kind, text in BLOCK.findall((DOCS / START[0]).read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, START[0], "exec"), names)
        else:
            for line in text.strip().splitlines():
                command, *arguments = shlex.split(line)
                assert command == "shortlist"
                app(arguments, standalone_mode=False)
    said = capsys.readouterr().out
    assert "Product" in said
    assert "ndcg@10" in said
    # The shop of the page has tastes to find: most of what a customer is shown is of one shelf.
    shown = names["retriever"].recommend([f"c{number}" for number in range(100)], k=5).ids
    shelves = [[int(product[1:]) % 12 for product in row] for row in shown]
    assert sum(max(map(row.count, row)) for row in shelves) > 0.6 * 5 * len(shelves)
