"""What the tests of the steps of jobs share."""

import pytest

from jobs.worlds import close_engines, small_slices


@pytest.fixture
def slices(monkeypatch):
    """Read logs in small slices, and close the engines of a test at its end."""
    small_slices(monkeypatch)
    yield
    close_engines()
