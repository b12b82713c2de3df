"""Words of any script; ASCII text has the words that it always had."""

import re

import hypothesis
import pytest
from hypothesis import strategies

from tsdfm_jax.data import words


@hypothesis.given(text=strategies.text(strategies.characters(max_codepoint=127), max_size=60))
@hypothesis.settings(max_examples=200, deadline=None)
def test_ascii_text_keeps_its_words(text):
    """Both patterns find the same words in ASCII text, also where other text makes the whole pattern run."""
    found = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    assert words.words(text) == words.words(text, words.ASCII) == found
    assert words.words(text + " Ω") == [*found, "ω"] == words.words(text + "\nΩ")


@pytest.mark.parametrize(("text", "found"), [
    ("Übermut, café!", ["übermut", "café"]),
    ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
    ("don\u2019t \u2019tis 'Штаты'", ["don\u2019t", "tis", "штаты"]),
    ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ("日本語、テスト。", ["日本語", "テスト"]),
    ("𐐨𐐩 x²1_y", ["𐐨𐐩", "x", "y"]),
    ("🙂 123 \0 —", []),
])  # fmt: skip
def test_words_of_other_scripts(text, found):
    """Letters and their marks make words; digits, signs, emoji and spaces end them."""
    assert words.words(text) == found
    assert words.whole_words(f"a {text} z") == found
