"""docs/trust.md shows the measured numbers."""

from tests.laws import table


def test_the_page_shows_the_laws_as_measured():
    """The table of laws in docs/trust.md equals, to the character, the one made from results/laws.json."""
    page = (table.ROOT / "docs/trust.md").read_text()
    assert table.place(page, table.block()) == page, "run: python -m tests.laws.table"
