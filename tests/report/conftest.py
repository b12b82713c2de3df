"""What the tests of both pages share: a browser, and figures that cost nothing."""

import pytest

from tests.report import browsing
from tsdfm_jax.report import svg


@pytest.fixture
def undrawn(monkeypatch):
    """Empty drawings in place of figures, which take most of the time."""
    empty = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><g><path d=""/><text/><use/><rect/><clipPath/><defs/></g></svg>'
    )
    monkeypatch.setattr(svg, "draw", lambda name, paint, said: svg.adapt(empty, said))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser for the tests of one file."""
    browser = browsing.start(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()
