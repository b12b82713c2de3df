"""The README shows what was measured."""

from tests.laws import table


def test_the_readme_shows_the_laws_as_measured():
    """The README's table of laws is what results/laws.json says, to the character."""
    readme = (table.ROOT / "README.md").read_text()
    assert table.place(readme, table.block()) == readme, "run: python -m tests.laws.table"
