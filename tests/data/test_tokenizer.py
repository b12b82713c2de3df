"""A tokenizer decodes what it encodes; the same text trains the same tokenizer."""

import itertools
import pickle

import hypothesis
import numpy as np
import pytest
import tokenizers
from hypothesis import strategies

from tests import tiny
from tsdfm_jax import main
from tsdfm_jax.data import corpus, tokenizer

_TRICKY = [
    "\u2581",
    "\0",
    "\n",
    "\r\n",
    "  ",
    "</s>",
    "<unk>",
    "<0x41>",
    "<s>",
    "<|endoftext|>",
    "\ufeff",
    "\u2028",
    "e\u0301",
    "ﬁ",
    "🙂",
    "▒",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(corpus.documents(corpus.CorpusConfig(limit_bytes=200_000)), path, 512, 100_000, 0)
    return path


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A small byte-level tokenizer.json, like GPT-2's."""
    path = tmp_path_factory.mktemp("json") / "gpt.json"
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(["the cat sat on the mat " * 20], trainer)
    model.save(str(path))
    return path


def _texts():
    piece = strategies.one_of(strategies.sampled_from(_TRICKY), strategies.text(max_size=12))
    return strategies.lists(piece, max_size=8).map("".join)


@hypothesis.given(text=_texts())
@hypothesis.settings(max_examples=300, deadline=None)
def test_any_text_survives_a_trained_model(trained, text):
    """decode(encode(text)) is the text for every Unicode string, and the tokens contain no document end."""
    loaded = _load(trained)
    ids = loaded.encode(text)
    assert loaded.decode(ids) == text
    assert ids.dtype == np.int32 and loaded.eos_id not in ids and np.all((ids >= 0) & (ids < loaded.vocab_size))


@hypothesis.given(text=_texts())
@hypothesis.settings(max_examples=100, deadline=None)
def test_any_text_survives_a_byte_level_tokenizer(byte_level, tmp_path_factory, text):
    """decode(encode(text)) is the text with an adopted tokenizer.json too; text that spells the document end stays text."""
    path = byte_level.parent / "adopted"
    if not path.exists():
        tokenizer.adopt(str(byte_level), path)
    loaded = _load(path)
    ids = loaded.encode(text)
    assert loaded.decode(ids) == text and loaded.eos_id not in ids


def test_tokens_are_the_librarys_own(byte_level, tmp_path):
    """An adopted tokenizer.json gives exactly the library's tokens, none added, in a batch and in a pickled copy."""
    tokenizer.adopt(str(byte_level), tmp_path)
    loaded, library = tokenizer.load(tmp_path), tokenizers.Tokenizer.from_file(str(byte_level))
    library.post_processor = tokenizers.processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    library.save(str(tmp_path / "adds.json"))
    tokenizer.adopt(str(tmp_path / "adds.json"), tmp_path / "adds")
    texts = ["the cat sat", " on  the mat\n", "", *(text for text in _TRICKY if "|" not in text)]
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    for one in (loaded, pickle.loads(pickle.dumps(loaded)), tokenizer.load(tmp_path / "adds")):
        assert [ids.tolist() for ids in one.encode_batch(texts)] == expected
        assert one.eos_id == library.token_to_id("<|endoftext|>") == 0
        spelt = one.encode("the<|endoftext|>cat")
        assert 0 not in spelt and one.decode(spelt) == "the<|endoftext|>cat"


def test_a_document_end_that_text_can_spell_is_refused(byte_level, tmp_path):
    """A tokenizer with a document end that is not a special token is refused in one line."""
    (tmp_path / "t.json").write_text(byte_level.read_text().replace('"special": true', '"special": false'))
    with pytest.raises(ValueError, match="t.json.*<.endoftext.>.*special") as caught:
        main.run(tiny.changed(**{"tokenizer.path": str(tmp_path / "t.json")}), tmp_path / "run", ["tokenizer"])
    assert "\n" not in str(caught.value)
    tokenizer.require_special_end(tokenizer.from_file(str(byte_level)), "the same, where it is special")


_LOADED = {}


def _load(path):
    return _LOADED.setdefault(path, tokenizer.load(path))


@hypothesis.given(texts=strategies.lists(_texts(), max_size=6))
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_batch_is_its_texts_one_by_one(trained, texts):
    """encode_batch gives the result of encode for each text, in order."""
    loaded = _load(trained)
    batch = loaded.encode_batch(texts)
    assert len(batch) == len(texts)
    assert all(np.array_equal(ids, loaded.encode(text)) for ids, text in zip(batch, texts, strict=True))


def test_a_newline_is_one_token(trained):
    """Every newline is one token, also in a row."""
    assert len(_load(trained).encode("\n\n\n")) == 3


def test_masks_and_document_ends_are_shown(trained):
    """A token outside the vocabulary decodes to ▒; a document end to nothing, or to an empty line in decode_pretty."""
    loaded = _load(trained)
    ids = [*loaded.encode("one"), loaded.eos_id, loaded.vocab_size, *loaded.encode(" two"), -1]
    assert loaded.decode(ids) == "one▒ two▒"
    assert loaded.decode_pretty(np.array(ids)) == "one\n\n▒ two▒"


def test_training_is_deterministic_and_follows_its_seed(tmp_path):
    """The same text and seed give the same tokenizer; another seed gives another."""
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        documents = corpus.documents(corpus.CorpusConfig(limit_bytes=200_000))
        tokenizer.train(documents, tmp_path / str(number), 400, 20_000, seed)
        hashes.append(tokenizer.load(tmp_path / str(number)).content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_reads_no_more_than_it_needs(tmp_path):
    """An endless corpus trains a tokenizer."""
    words = (f"word{number % 977} and so on\n" for number in itertools.count())
    tokenizer.train(words, tmp_path, 300, 10_000, 0)
    assert tokenizer.load(tmp_path).vocab_size == 300


@pytest.mark.parametrize(("size", "says"), [(200, "200 is too small"), (50_000, "50000 is too large")])
def test_an_impossible_vocabulary_is_refused_in_one_line(tmp_path, size, says):
    """A vocabulary too small for the bytes or too large for the text is refused in one line with a number that works."""
    with pytest.raises(ValueError, match=says + r".*\d+") as caught:
        tokenizer.train(iter(["a little text, and not much of it"] * 9), tmp_path, size, 1000, 0)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_it_pickles(trained, byte_level, tmp_path):
    """A pickled copy encodes and decodes the same."""
    tokenizer.adopt(str(byte_level), tmp_path)
    for path in (trained, tmp_path):
        loaded = tokenizer.load(path)
        copy = pickle.loads(pickle.dumps(loaded))
        assert np.array_equal(copy.encode("the cat ▁ sat"), loaded.encode("the cat ▁ sat"))
        assert (copy.vocab_size, copy.eos_id, copy.content_hash) == (loaded.vocab_size, loaded.eos_id, loaded.content_hash)
        assert copy.decode(copy.encode("the cat")) == "the cat"


def test_adopting_copies_the_bytes_and_replaces_the_other_kind(trained, byte_level, tmp_path):
    """After `adopt` the directory holds only the tokenizer given last."""
    tokenizer.adopt(str(trained / "tokenizer.model"), tmp_path)
    assert tokenizer.load(tmp_path).content_hash == tokenizer.load(trained).content_hash
    tokenizer.adopt(str(byte_level), tmp_path)
    assert tokenizer.load(tmp_path).decode(tokenizer.load(tmp_path).encode("the cat")) == "the cat"
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_what_cannot_be_loaded_is_named(trained, tmp_path):
    """A missing, truncated or unknown tokenizer gives one line with its path."""
    with pytest.raises(FileNotFoundError, match="tokenizer first"):
        tokenizer.load(tmp_path)
    for name, data in (("tokenizer.json", b"{}"), ("tokenizer.model", b""), ("tokenizer.model", b"junk" * 50)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name) as caught:
            tokenizer.load(tmp_path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=name):
            tokenizer.adopt(str(tmp_path / name), tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tokenizer.adopt("nowhere.model", tmp_path)
    with pytest.raises(ValueError, match="surrogate"):
        _load(trained).encode("half \ud800")
