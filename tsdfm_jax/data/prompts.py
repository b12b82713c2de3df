"""Requests for text: what is given, and how much to write around it; a single request or a file of prompts."""

import dataclasses
import json
import pathlib

import numpy as np

from tsdfm_jax.storage import places

FREE = -1
LARGEST = 2**31 - 1
# Whole numbers and their limits. All texts of one Ask stay in memory until they are written.
BOUNDS = {"span_length": (1, LARGEST), "length": (0, LARGEST), "number": (1, 2**16), "seed": (0, LARGEST)}
TEXTS = ("prompt", "suffix", "infill", "span")
FIELDS = ("prompt", "suffix", "infill", "length", "span_length", "number", "seed")  # allowed in a line of .jsonl


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """A request in characters, before tokenisation.

    Attributes:
      prompt: the text's beginning.
      suffix: its end.
      infill: the whole text, with a marker at each gap to fill.
      span: the marker.
      span_length: tokens that a marker stands for.
      length: tokens of the text, given ones included; 0 means as many as the model writes. It must be 0 with an infill.
      number: how many texts.
      seed: the seed of all texts; text i is a function of (seed, i).

    Raises ValueError, in one line, for a value out of range and for fields that cannot go together.
    """

    prompt: str = ""
    suffix: str = ""
    infill: str = ""
    span: str = "____"
    span_length: int = 8
    length: int = 0
    number: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in TEXTS:
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f"{name} {value!r} must be text, in quotes")
        for name, (least, most) in BOUNDS.items():
            check_whole(name, getattr(self, name), least, most)
        if not self.span:
            raise ValueError("span '' is empty: give the marker that stands for what is to be written, such as '____'")
        if not self.infill:
            return
        if self.prompt or self.suffix:
            raise ValueError(f"infill {self.infill!r} cannot go with prompt or suffix: write them before and behind its marker")
        if self.length:
            raise ValueError(
                f"length {self.length} cannot go with infill: that is as long as its pieces and spans, so leave it out"
            )
        if self.span not in self.infill:
            raise ValueError(f"infill {self.infill!r} has no marker {self.span!r}: put one where something is to be written")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """An Ask in tokens.

    Attributes:
      ask: the request in characters.
      given_L: int32, the given tokens at their positions, -1 at positions to write.
      length: tokens of the text, which is the start of the window of L; the rest is cut off.
    """

    ask: Ask
    given_L: np.ndarray
    length: int

    @property
    def given(self):
        """Positions of the given tokens, in order."""
        return np.flatnonzero(self.given_L != FREE).tolist()


def check_whole(name, value, least, most=LARGEST):
    """Raise ValueError unless `value` is a whole number from `least` to `most`."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} {value!r} must be a whole number, at least {least} and at most {most:,}")


def check_infill(text):
    """Raise ValueError for an infill that was given and is empty: it would write as if there was none."""
    if text == "":
        raise ValueError("infill '' is empty: give a whole text with a marker where something is to be written, or leave it out")


def check_left_to_right(ask):
    """Raise ValueError if an Ask gives text after a gap, which a left-to-right model cannot use."""
    for name in ("suffix", "infill"):
        if value := getattr(ask, name):
            raise ValueError(
                f"{name} {value!r}: the autoregressive model writes from left to right and takes a prompt alone; take another model"
            )


def request(tok, ask, window):
    """The Request of an Ask for a model that writes `window` tokens.

    Raises ValueError, with the numbers, if the text would be longer than that, or if nothing is left to write.
    """
    pieces = _pieces(tok, ask)
    given_count = sum(len(ids) for ids in pieces)
    if ask.infill:
        length, gap = given_count + (len(pieces) - 1) * ask.span_length, ask.span_length
        if length > window:
            raise ValueError(f"infill is {length} tokens long, and the model writes {window}: shorten it, or lower span_length")
    else:
        length = ask.length or window
        gap = length - given_count
        if length > window:
            raise ValueError(f"length {length} exceeds the {window} tokens that the model writes: lower it")
        if gap < 1:
            fields = " and ".join(name for name in ("prompt", "suffix") if getattr(ask, name))
            raise ValueError(
                f"{fields}: {given_count} tokens fill the {length} of the text, and nothing is left to write: shorten what is given"
            )
    free = np.full(gap, FREE)
    parts = [part for ids in pieces for part in (free, ids)][1:]
    rest = np.full(window - length, FREE)
    return Request(ask=ask, given_L=np.concatenate([*parts, rest]).astype(np.int32), length=length)


def _pieces(tok, ask):
    """Tokens of the given pieces; between every two pieces is a gap to fill."""
    first, *others = ask.infill.split(ask.span) if ask.infill else (ask.prompt, ask.suffix)
    first_field, field = ("infill", "infill") if ask.infill else ("prompt", "suffix")
    return [_encode_first(tok, first_field, first), *(_encode_after(tok, field, text) for text in others)]


def _encode(tok, text):
    return tok.encode(text) if text else np.zeros(0, np.int32)


def _encode_first(tok, field, text):
    """Tokens of a text's beginning; ValueError if they do not give it back."""
    ids = _encode(tok, text)
    if (found := tok.decode(ids)) != text:
        raise ValueError(_changed(field, text, found))
    return ids


def _encode_after(tok, field, text):
    """Tokens of text that follows other text; ValueError if they do not give it back.

    Tokenizers that begin every text with a space must not add one here.
    """
    prefix = _encode(tok, "a")
    before, alone = tok.decode(prefix), _encode(tok, text)
    for ids in (alone, _encode(tok, text.removeprefix(" ")), *_encoded_behind(tok, text)):
        if tok.decode([*prefix, *ids]) == before + text:
            return ids
    raise ValueError(_changed(field, text, tok.decode([*prefix, *alone]).removeprefix(before)))


def _encoded_behind(tok, text):
    """Tokens of a text as they stand behind other text, where those of the other text stay what they are by themselves."""
    for other in ("\n", ".", "a"):
        ids, prefix = _encode(tok, other + text), _encode(tok, other)
        if ids[: len(prefix)].tolist() == prefix.tolist():
            yield ids[len(prefix) :]


def _changed(field, text, found):
    return (
        f"{field} {text!r} would become {found!r}, and given text is never changed: give text that the model's tokenizer keeps, or "
        f"take a model with another tokenizer"
    )


def from_file(file, ask, tok, window):
    """The Requests of a file of prompts, in order: one prompt per line of .txt, one object per line of .jsonl; see `FIELDS`.

    Empty lines are skipped. Fields that a line lacks come from `ask`, except the length of an infill. Raises ValueError
    with the file and the line.
    """
    path, requests = places.expanded(file), []
    parse = READERS[check_kind(file)]
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            requests.append(request(tok, dataclasses.replace(ask, **parse(line)), window))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    if not requests:
        raise ValueError(f"{file} has no line with a prompt: write one a line")
    return requests


def check_kind(file):
    """The suffix of a file of prompts; raises ValueError for one that cannot be read."""
    if (kind := pathlib.Path(file).suffix) not in READERS:
        raise ValueError(f"file of prompts {file!r} ends in {kind!r}: give {' or '.join(READERS)}")
    return kind


def _text(path):
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}): save it as that") from None
    except OSError as error:
        raise ValueError(f"file of prompts {path} cannot be read ({error.strerror}): check its name") from None


def _line_of_json(line):
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}): write one object a line") from None
    if not isinstance(fields, dict):
        raise ValueError(f'{line.strip()[:40]} is not an object: write one a line, such as {{"prompt": "The Senate"}}')
    for name in fields:
        if name not in FIELDS:
            raise ValueError(f"no field {name!r}: a line has any of {', '.join(FIELDS)}")
    return ({"length": 0} if fields.get("infill") else {}) | fields


READERS = {".txt": lambda line: {"prompt": line}, ".jsonl": _line_of_json}
