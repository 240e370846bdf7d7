"""`make portable` counts what took effect, and its page keeps all but the results."""

import pytest

from portable.run import ROOT, SETTINGS, TESTS, Result, environment, table, write

PLAIN = {
    "aten": "?", "products": "?", "mkl": "?", "blas": "?", "numba": "?", "threads": "1"
}  # fmt: skip


def test_a_setting_that_changes_nothing_is_not_available():
    kept = [setting.name for setting in SETTINGS if setting.took_effect(PLAIN, PLAIN)]
    assert kept == ["as it is"]


def test_a_setting_stands_alone(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    for setting in SETTINGS:
        own = environment(setting)
        others = {name for each in SETTINGS for name in each.variables} - set(setting.variables)
        assert not others & set(own)
        assert setting.variables.items() <= own.items()


def test_its_tests_are_there():
    assert [path for path in TESTS if not (ROOT / "tests" / path).exists()] == []


def test_results_go_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    result = Result(SETTINGS[1], "3 passed", failed=False, here=True)
    write(page, table([result]))
    text = page.read_text()
    assert text.startswith("before\n<!-- results -->")
    assert text.endswith("<!-- end of results -->\nafter\n")
    assert "`ATEN_CPU_CAPABILITY=default` | 3 passed |" in text
    assert "old" not in text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no place"):
        write(page, "x")
