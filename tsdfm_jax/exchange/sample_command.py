"""Writes text with a trained model: `python -m launch.sample --model=results/sotu/student --prompt="The people" --steps=8`.

--model is a run's work directory, of which --network names one network, or a directory that launch.export or
launch.import_fsdfm wrote. Text that is given stays as it is: --prompt at the beginning, --suffix at the end, or --infill with a
marker (--span) for every --span_length tokens to be written. Every text goes to stdout, a blank line between two.

The exit code is 0, or 2 if no text could be written.
"""

import functools

from absl import flags

from tsdfm_jax.config import command_line
from tsdfm_jax.storage import places

parse, fail = functools.partial(command_line.parse, "sample"), functools.partial(command_line.fail, "sample")
IMAGES = "use --stage=sample in its run, or tsdfm_jax.load(…).sample(…) in Python"
_MODEL = flags.DEFINE_string("model", "", "A run's work directory, or the directory of one model.")
_NETWORK = flags.DEFINE_string("network", "", "Of a run: teacher, student_shaped, student_blind or autoregressive.")
_PROMPT = flags.DEFINE_string("prompt", "", "The beginning of every text.")
_SUFFIX = flags.DEFINE_string("suffix", "", "The end of every text.")
_INFILL = flags.DEFINE_string("infill", "", 'A whole text with markers where something is to be written: "The ____ of the Union".')
_SPAN = flags.DEFINE_string("span", "____", "The marker.")
_SPAN_LENGTH = flags.DEFINE_integer("span_length", 8, "Tokens that a marker stands for.")
_STEPS = flags.DEFINE_integer("steps", 8, "Steps from noise to text; an autoregressive model takes one a token.")
_NUMBER = flags.DEFINE_integer("number", 1, "How many texts.")
_LENGTH = flags.DEFINE_integer("length", 0, "Tokens of a text, given ones included; 0: as many as the model writes.")
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Temperature of the posterior.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Mass of the nucleus that tokens are drawn from.")
_SEED = flags.DEFINE_integer("seed", 0, "Text i is a function of the seed and of i.")


def main(argv):
    """Load, write, print; the exit code."""
    try:
        command_line.only_flags(argv, "python -m launch.sample --model=runs/quickstart", model=_MODEL.value)
        infill = _INFILL.value if _INFILL.present else None
        from tsdfm_jax.exchange import loading  # late: help and a mistyped flag should not wait for JAX

        options = dict(steps=_STEPS.value, number=_NUMBER.value, seed=_SEED.value, length=_LENGTH.value or None)
        options |= dict(suffix=_SUFFIX.value, infill=infill, span=_SPAN.value, span_length=_SPAN_LENGTH.value)
        model = loading.load(places.expanded(_MODEL.value), _NETWORK.value or None)
        if not hasattr(model, "tokenizer"):
            raise ValueError(f"{model.name} draws images, and this command writes text: {IMAGES}")
        texts = model.sample(_PROMPT.value, temperature=_TEMPERATURE.value, top_p=_TOP_P.value, **options)
    except (ValueError, OSError) as error:
        return fail(error)
    print(*texts, sep="\n\n")
    return 0
