"""What a person asks for: text that is given, and how much is to be written around it; alone or as a file of prompts."""

import dataclasses
import json
import pathlib

import numpy as np

FREE = -1
LARGEST = 2**31 - 1
# Whole numbers and their bounds. The texts of one ask are all kept in memory until they are written.
BOUNDS = {"span_length": (1, LARGEST), "length": (0, LARGEST), "number": (1, 2**16), "seed": (0, LARGEST)}
TEXTS = ("prompt", "suffix", "infill", "span")
FIELDS = ("prompt", "suffix", "infill", "length", "span_length", "number", "seed")  # of a line of .jsonl


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked for in characters, before any tokenizer has seen it.

    Attributes:
      prompt: the text's beginning.
      suffix: its end.
      infill: the whole text, with a marker wherever something is to be written.
      span: that marker.
      span_length: tokens that a marker stands for.
      length: tokens of the text, given ones included; 0 is as many as the model writes. An infill has its own.
      number: how many texts.
      seed: of all of them; text i is a function of (seed, i).

    Raises ValueError, in one line, for a value out of bounds and for what cannot go together.
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
    """The same in tokens.

    Attributes:
      ask: what was asked for.
      given_L: int32, the given tokens in their places, -1 where one is to be written.
      length: tokens of the text: the first of the window of L; what is behind them is cut off.
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


def check_left_to_right(ask):
    """Raise ValueError where an Ask gives text behind what is to be written, which a model of one direction cannot know."""
    for name in ("suffix", "infill"):
        if value := getattr(ask, name):
            raise ValueError(
                f"{name} {value!r}: the autoregressive model writes from left to right and takes a prompt alone; take another model"
            )


def request(tok, ask, window):
    """The Request of an Ask for a model that writes `window` tokens.

    Raises ValueError, with the numbers, where the text would be longer than that, or where nothing is left to write.
    """
    pieces = _pieces(tok, ask)
    given = sum(len(ids) for ids in pieces)
    if ask.infill:
        length, gap = given + (len(pieces) - 1) * ask.span_length, ask.span_length
        if length > window:
            raise ValueError(f"infill is {length} tokens long, and the model writes {window}: shorten it, or lower span_length")
    else:
        length = ask.length or window
        gap = length - given
        if length > window:
            raise ValueError(f"length {length} exceeds the {window} tokens that the model writes: lower it")
        if gap < 1:
            what = " and ".join(name for name in ("prompt", "suffix") if getattr(ask, name))
            raise ValueError(
                f"{what}: {given} tokens fill the {length} of the text, and nothing is left to write: shorten what is given"
            )
    free = np.full(gap, FREE)
    parts = [part for ids in pieces for part in (free, ids)][1:]
    rest = np.full(window - length, FREE)
    return Request(ask=ask, given_L=np.concatenate([*parts, rest]).astype(np.int32), length=length)


def _pieces(tok, ask):
    """Tokens of the given pieces, with something to be written between each two of them."""
    first, *others = ask.infill.split(ask.span) if ask.infill else (ask.prompt, ask.suffix)
    return [_encode(tok, first), *(_encode_behind(tok, text) for text in others)]


def _encode(tok, text):
    return tok.encode(text) if text else np.zeros(0, np.int32)


def _encode_behind(tok, text):
    """Tokens of text that stands behind other text: tokenizers that begin every text with a space must not add one here."""
    front = _encode(tok, "a")
    for ids in (_encode(tok, text), _encode(tok, text.removeprefix(" "))):
        if tok.decode([*front, *ids]) == tok.decode(front) + text:
            return ids
    return _encode(tok, text)


def from_file(file, ask, tok, window):
    """The Requests of a file of prompts, in order: a prompt a line of .txt, an object a line of .jsonl; see `FIELDS`.

    Empty lines are passed over. What a line does not say is as in `ask`. Raises ValueError with the file and the line.
    """
    path, found = pathlib.Path(file), []
    parse = READERS[check_kind(file)]
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(request(tok, dataclasses.replace(ask, **parse(line)), window))
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"{file} has no line with a prompt: write one a line")
    return found


def check_kind(file):
    """The ending of a file of prompts; ValueError where it is none that is read."""
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
