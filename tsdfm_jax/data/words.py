"""Words of a text in any script, for the lexicon; the manifest of the data names the pattern that made its words."""

import functools
import re
import sys
import unicodedata

ASCII = "ascii"  # the letters a to z: what a manifest means that names no pattern
LETTERS = "letters"  # letters and marks of any script
_ASCII_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def words(text: str, pattern: str = LETTERS) -> list[str]:
    """The lower-cased words of a text, in order: runs of letters, with one inner apostrophe at most.

    A script that writes no spaces gives runs of letters. ASCII text has the same words under both patterns.
    """
    text = text.lower()
    if pattern == ASCII or text.isascii():
        return _ASCII_WORD.findall(text)
    found = []
    for line in text.split("\n"):  # no word crosses a line end, and the ASCII pattern is six times as fast
        found += (_ASCII_WORD if line.isascii() else _letters_word()).findall(line)
    return found


def whole_words(text: str, pattern: str = LETTERS) -> list[str]:
    """The words of a window of text without its first and last, which may be cut."""
    return words(text, pattern)[1:-1]


@functools.cache
def _letters_word() -> re.Pattern[str]:
    letter, mark = _character_class("L"), _character_class("M")
    run = f"[{letter}][{letter}{mark}]*"
    return re.compile(f"{run}(?:['\u2019]{run})?")


def _character_class(category: str) -> str:
    """The characters whose Unicode category begins with a letter, as ranges for a regular expression."""
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point))[0] == category:
            if ranges and ranges[-1][1] == point - 1:
                ranges[-1][1] = point
            else:
                ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
