"""What a tokenizer loses of a text is counted, its cause is named, and more than the config accepts is refused."""

import io
import json
import re

import pytest
import sentencepiece
import tokenizers

from tests import tiny
from tsdfm_jax import main
from tsdfm_jax.data import corpus, survival, tokenizer

TEXT = "The Senate met in the House; the Union spoke of peace and of war.\n"
TRICKY = "Мы, народ Штатов. 我們人民。 हम भारत के लोग \U0001f642 \0 a\r\nb\tc ▁d  e \u2028 ﬁ e\u0301 "


def json_tokenizer(path, **parts):
    """A tokenizer.json over bytes (or characters, with a decoder of its own), with further parts."""
    byte_level = "decoder" not in parts
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    if byte_level:
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = tokenizers.decoders.ByteLevel()
    for name, value in parts.items():
        setattr(model, name, value)
    special = ["[UNK]", "<|endoftext|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([TEXT * 20], trainer)
    model.save(str(path))
    return tokenizer.from_file(str(path))


def sentence_piece(path, **options):
    model = io.BytesIO()
    options = dict(vocab_size=330, byte_fallback=True, model_type="bpe", minloglevel=3) | options
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([TEXT] * 40), model_writer=model, **options)
    path.write_bytes(model.getvalue())
    return tokenizer.from_file(str(path))


def test_a_tokenizer_trained_here_loses_nothing(tmp_path):
    """Cyrillic, Chinese, emoji, NUL, line ends, tabs and '▁' survive, and no token is unknown, whatever it was trained on."""
    tokenizer.train(corpus.documents(corpus.CorpusConfig(limit_bytes=100_000)), tmp_path, 400, 50_000, 0)
    texts = [TRICKY, TRICKY * 100, "", *corpus.documents(corpus.CorpusConfig(limit_bytes=100_000))]
    found = survival.survival(tokenizer.load(tmp_path), texts)
    assert (found["lost_bytes"], found["unknown_tokens"], found["cause"]) == (0, 0, None)
    assert found["bytes"] > 10_000 and 0 < found["tokens"] < found["bytes"]
    survival.check(found, 0.0, "tokenizer.model")


NORMALISERS = {
    "Lowercase": tokenizers.normalizers.Lowercase(),
    "NFKC": tokenizers.normalizers.NFKC(),
    "Strip": tokenizers.normalizers.Strip(),
}


@pytest.mark.parametrize(("name", "text", "lost"), [
    ("Lowercase", "The House", 2),
    ("NFKC", "the ﬁrst", 3),
    ("Strip", " the house  ", 3),
])  # fmt: skip
def test_a_normaliser_is_named(tmp_path, name, text, lost):
    """The lost bytes are those of the changed characters, and the cause is the normaliser, also behind one that does nothing."""
    for normaliser in (NORMALISERS[name], tokenizers.normalizers.Sequence([tokenizers.normalizers.NFC(), NORMALISERS[name]])):
        tok = json_tokenizer(tmp_path / "t.json", normalizer=normaliser)
        found = survival.survival(tok, ["plain text", text])
        assert found["lost_bytes"] == lost and found["bytes"] == 10 + len(text.encode()) and found["unknown_tokens"] == 0
        assert found["cause"] == f"its normaliser {name}"


def test_other_causes_are_named(tmp_path):
    """A pre-tokenizer that drops spaces, characters without a token, and a decoder that joins differently are told apart."""
    spaces = json_tokenizer(
        tmp_path / "a.json", pre_tokenizer=tokenizers.pre_tokenizers.Whitespace(), decoder=tokenizers.decoders.Fuse()
    )
    found = survival.survival(spaces, ["the House"])
    assert (found["lost_bytes"], found["cause"]) == (1, "its pre-tokenizer Whitespace")
    letters = json_tokenizer(tmp_path / "b.json", decoder=tokenizers.decoders.Fuse())
    found = survival.survival(letters, ["the мир"])
    assert found["unknown_tokens"] == 3 and found["lost_bytes"] == 6
    assert found["cause"] == "characters that its vocabulary lacks"
    joins = json_tokenizer(tmp_path / "c.json", decoder=tokenizers.decoders.WordPiece())
    assert survival.survival(joins, ["the House"])["cause"] == "its decoder WordPiece"
    clean = json_tokenizer(tmp_path / "d.json")
    assert survival.survival(clean, [TRICKY, TEXT])["lost_bytes"] == 0


def test_a_sentencepiece_normaliser_is_named(tmp_path):
    """NFKC with case folding, extra spaces, and characters without byte fallback each are the cause."""
    folded = sentence_piece(tmp_path / "a.model", normalization_rule_name="nmt_nfkc_cf", remove_extra_whitespaces=False)
    found = survival.survival(folded, ["The House"])
    assert (found["lost_bytes"], found["cause"]) == (2, "its normaliser nmt_nfkc_cf")
    spaces = sentence_piece(tmp_path / "b.model", normalization_rule_name="identity")
    found = survival.survival(spaces, ["the  house"])
    assert (found["lost_bytes"], found["cause"]) == (1, "its normaliser's remove_extra_whitespaces")
    options = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=False, vocab_size=60)
    found = survival.survival(sentence_piece(tmp_path / "c.model", **options), ["the м"])
    assert found["unknown_tokens"] == 1 and found["cause"] == "characters that its vocabulary lacks"
    exact = sentence_piece(tmp_path / "d.model", normalization_rule_name="identity", remove_extra_whitespaces=False)
    assert survival.survival(exact, [" the  House\n"])["lost_bytes"] == 0


@pytest.mark.parametrize(("lost", "size", "accepts"), [(31, 1000, "0.032"), (1, 3, "0.34"), (1, 10**9, "1.1e-09"), (9, 9, "1")])
def test_more_than_is_accepted_is_refused(lost, size, accepts):
    """The line has share, cause and the key with a value that accepts the tokenizer; that value does."""
    found = {"bytes": size, "lost_bytes": lost, "tokens": 9, "unknown_tokens": 0, "cause": "its normaliser Lowercase"}
    with pytest.raises(ValueError) as caught:
        survival.check(found, 0.0, "x.json")
    said = str(caught.value)
    assert "\n" not in said and "tokenizer x.json loses" in said and "its normaliser Lowercase" in said
    assert said.endswith(f"--config.data.text_loss={accepts}")
    survival.check(found, float(accepts), "x.json")


def test_long_documents_are_sampled(tmp_path):
    """A long document gives pieces from its beginning to its end, cut inside words, so that trimming costs nothing."""
    tok = json_tokenizer(tmp_path / "t.json", normalizer=tokenizers.normalizers.Strip())
    found = survival.survival(tok, [TEXT.strip() + " " + TEXT * 500 + "END"])
    assert found["lost_bytes"] == 0 and 6_000 < found["bytes"] < 9_000
    assert json.loads(tok.file)["normalizer"]["type"] == "Strip"


def test_the_stage_refuses_a_tokenizer_that_loses_text_or_says_what_it_loses(tmp_path):
    """Refused before it is taken; accepted with the key, and its loss stands in done.json; a lower limit is refused later."""
    file = tmp_path / "lower.json"
    json_tokenizer(file, normalizer=tokenizers.normalizers.Lowercase())
    changes = {"tokenizer.path": str(file), "data.limit_bytes": 50_000}
    with pytest.raises(ValueError, match="Lowercase.*--config.data.text_loss=") as caught:
        main.run(tiny.changed(**changes), tmp_path / "run", ["tokenizer"])
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    accepted = float(re.search(r"text_loss=([\d.]+)", str(caught.value))[1])
    main.run(tiny.changed(**changes, **{"data.text_loss": accepted}), tmp_path / "run", ["tokenizer"])
    found = json.loads((tmp_path / "run/tokenizer/done.json").read_text())["figures"]["text"]
    assert 0 < found["lost_bytes"] / found["bytes"] <= accepted and "Lowercase" in found["cause"]
    with pytest.raises(ValueError, match="Lowercase"):
        main.run(tiny.changed(**changes), tmp_path / "run", ["tokenizer"])
