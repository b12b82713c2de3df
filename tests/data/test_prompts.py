"""A request becomes tokens in the right places or a one-line error, without a network."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers

from tsdfm_jax.data import prompts, tokenizer

L = 24
SPEECH = ["The Senate and the House of the Union met, and they spoke of peace, of war and of the laws of the land.\n"] * 40


@pytest.fixture(scope="module", params=["trained", "prefixed"])
def tok(request, tmp_path_factory):
    """The project's tokenizer, and one that adds a space before every text, as Llama's does."""
    where = tmp_path_factory.mktemp(request.param)
    if request.param == "trained":
        tokenizer.train(iter(SPEECH), where, 290, 10_000, 0)
        return tokenizer.load(where)
    model, options = io.BytesIO(), dict(model_type="bpe", vocab_size=300, byte_fallback=True, minloglevel=3)
    options |= dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SPEECH), model_writer=model, **options)
    (where / "given.model").write_bytes(model.getvalue())
    tokenizer.adopt(str(where / "given.model"), where / "tokenizer")
    return tokenizer.load(where / "tokenizer")


def request(tok, **fields):
    return prompts.request(tok, prompts.Ask(**fields), L)


def written(tok, asked, between="of"):
    """The text of a request, with one word's token in all free places."""
    word = tok.encode(between)[-1]
    return tok.decode(np.where(asked.given_L < 0, word, asked.given_L)[: asked.length])


@pytest.mark.parametrize("length", [0, 20, L])
@pytest.mark.parametrize("prompt, suffix", [("", ""), ("The laws", ""), ("", " of war"), ("The Senate", " the land.")])
def test_a_prompt_begins_and_a_suffix_ends(tok, prompt, suffix, length):
    """The text has the requested length, begins with the prompt and ends with the suffix, letter for letter."""
    asked = request(tok, prompt=prompt, suffix=suffix, length=length)
    text = written(tok, asked)
    assert asked.length == (length or L) and asked.given_L.shape == (L,) and asked.given_L.dtype == np.int32
    assert text.startswith(prompt) and text.endswith(suffix)
    head = len(tok.encode(prompt)) if prompt else 0
    tail = len(asked.given) - head
    assert asked.given == [*range(head), *range(asked.length - tail, asked.length)]
    last = asked.given_L[asked.given[head:]]
    assert tok.decode([*tok.encode("a"), *last]) == "a" + suffix  # no added space


@pytest.mark.parametrize("infill", ["The ____ of the", "____ of war", "The laws____", "____ of ____", "The____ of____ the"])
def test_an_infill_is_its_pieces_and_spans(tok, infill):
    """Each marker becomes `span_length` free tokens in its place; all other text is given, the rest of the window free."""
    spans = infill.count("____")
    asked = request(tok, infill=infill, span_length=3)
    free = [i for i in range(asked.length) if i not in asked.given]
    assert len(free) == 3 * spans and (asked.given_L[asked.length :] == prompts.FREE).all()
    runs = [i for i in free if i - 1 not in free]
    assert len(runs) == spans
    first, *others = infill.split("____")
    text = written(tok, asked, "peace")
    assert text.startswith(first)
    for piece in others:
        assert piece in text[len(first) :]
    assert text.endswith(others[-1])


def test_a_marker_of_ones_own(tok):
    """Any string can be the marker; the default marker is then plain text."""
    asked = request(tok, infill="The __ of ____ <?>", span="<?>", span_length=2)
    assert asked.length - len(asked.given) == 2 and written(tok, asked).startswith("The __ of ____ ")


@pytest.mark.parametrize("fields, said", [
    (dict(length=99), ("99", str(L), "lower")),
    (dict(prompt="of the laws of the land " * 5), ("prompt: ", str(L), "shorten")),
    (dict(prompt="The Senate", suffix=" of the", length=3), ("prompt and suffix", "3", "shorten")),
    (dict(infill="The ____ of", span_length=30), (str(L), "span_length")),
    (dict(infill="The ____ of", span_length=2**31 - 1), (str(L), "span_length")),
    (dict(infill="The ____ of", prompt="We"), ("The ____ of", "prompt")),
    (dict(infill="The ____ of", suffix="We"), ("The ____ of", "suffix")),
    (dict(infill="The ____ of", length=9), ("length 9", "leave it out")),
    (dict(infill="The of"), ("'The of'", "'____'")),
    (dict(infill="The ____ of", span=""), ("span", "''")),
    (dict(span_length=0), ("span_length 0", "at least 1")),
    (dict(number=0), ("number 0", "at least 1")),
    (dict(number=2**16 + 1), ("number 65537", "65,536")),
    (dict(seed=-1), ("seed -1", "at least 0")),
    (dict(seed=True), ("seed True", "whole")),
    (dict(length=4.0), ("length 4.0", "whole")),
    (dict(prompt=3), ("prompt 3", "text")),
])  # fmt: skip
def test_what_cannot_be_written_is_one_line(tok, fields, said):
    """Too little room, no marker, two ways at once and bad numbers each give one line with the value and a remedy."""
    with pytest.raises(ValueError) as caught:
        request(tok, **fields)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in said), str(caught.value)


def test_a_file_of_prompts(tok, tmp_path):
    """A text line is a prompt; a JSON object sets any fields, the config the rest; empty lines are skipped."""
    plain, objects = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("\ufeffThe Senate\r\n\n  of war \n", encoding="utf-8", newline="")
    lines = [{}, {"prompt": "The", "length": 7, "number": 3, "seed": 9}, {"infill": "of ____", "span_length": 2}, {"suffix": "war"}]
    objects.write_text("\n".join(json.dumps(line) for line in lines))
    rest = prompts.Ask(length=12, number=2, seed=5)
    asks = [found.ask for found in prompts.from_file(str(plain), rest, tok, L)]
    assert [ask.prompt for ask in asks] == ["The Senate", "  of war "]
    assert all((ask.number, ask.seed, ask.length) == (2, 5, 12) for ask in asks)
    nothing, prompt, infill, suffix = prompts.from_file(str(objects), rest, tok, L)
    assert nothing.ask == rest and nothing.length == 12 and not nothing.given
    assert (prompt.ask.number, prompt.ask.seed, prompt.length) == (3, 9, 7) and prompt.ask.prompt == "The"
    assert infill.length == len(infill.given) + 2 and infill.ask.number == 2
    assert suffix.given[-1] == 11 and suffix.ask.span == "____"


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """A byte-level tokenizer.json that lower-cases, and drops spaces at both ends."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Lowercase(), tokenizers.normalizers.Strip()])
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator(SPEECH, trainer)
    file = tmp_path_factory.mktemp("lossy") / "t.json"
    model.save(str(file))
    return tokenizer.from_file(str(file))


@pytest.mark.parametrize("fields, said", [
    (dict(prompt="The law"), "prompt 'The law' would become 'the law'"),
    (dict(prompt="the law "), "prompt 'the law ' would become 'the law'"),
    (dict(suffix="of War"), "suffix 'of War' would become 'of war'"),
    (dict(infill="the ____ of____"), "infill 'the ' would become 'the'"),
    (dict(infill="the____ of Peace"), "infill ' of Peace' would become 'of peace'"),
])  # fmt: skip
def test_given_text_that_would_change_is_refused(lossy, tmp_path, fields, said):
    """A text that the tokenizer does not give back is refused in a line with what it would become; in a file with its line."""
    with pytest.raises(ValueError) as caught:
        request(lossy, **fields)
    assert said in str(caught.value) and "never changed" in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "a.jsonl").write_text('{"prompt": "the"}\n' + json.dumps(fields))
    with pytest.raises(ValueError, match="a.jsonl, line 2: ") as caught:
        prompts.from_file(str(tmp_path / "a.jsonl"), prompts.Ask(), lossy, L)
    assert said in str(caught.value)
    kept = request(lossy, prompt="the law", suffix=" of war")  # Strip drops the space only where a text begins
    assert lossy.decode([*lossy.encode("a"), *kept.given_L[kept.given][len(lossy.encode("the law")) :]]) == "a of war"


@pytest.mark.parametrize("name, content, said", [
    ("a.jsonl", b'{"prompt": "The"}\n\n{"promt": "The"}\n', ("a.jsonl, line 3", "'promt'", "prompt, suffix")),
    ("a.jsonl", b'{"prompt": "The"', ("a.jsonl, line 1", "not JSON")),
    ("a.jsonl", b"[" * 100_000, ("a.jsonl, line 1", "not JSON")),
    ("a.jsonl", b'"The"', ("a.jsonl, line 1", "object")),
    ("a.jsonl", b'{"number": "many"}', ("a.jsonl, line 1", "number 'many'")),
    ("a.jsonl", b'{"prompt": null}', ("a.jsonl, line 1", "prompt None")),
    ("a.jsonl", b'{}\n{"infill": "The"}', ("a.jsonl, line 2", "marker")),
    ("a.jsonl", b'{"prompt": "\\ud800"}', ("a.jsonl, line 1", "surrogate")),
    ("a.txt", b"The\n" + b"of the laws of " * 9, ("a.txt, line 2", str(L))),
    ("a.txt", b"caf\xe9\n", ("a.txt", "UTF-8")),
    ("a.txt", b" \n\n", ("a.txt", "no line")),
    ("a.txt", None, ("a.txt", "cannot be read")),
    ("a.csv", b"The\n", ("a.csv", ".txt or .jsonl")),
])  # fmt: skip
def test_a_bad_file_of_prompts_is_one_line(tok, tmp_path, name, content, said):
    """A bad file of prompts gives one line that names the file and, where known, the line and the field."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        prompts.from_file(str(tmp_path / name), prompts.Ask(), tok, L)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in said), str(caught.value)
