"""Import a PyTorch checkpoint of FS-DFM: `python -m launch.import_fsdfm --checkpoint=X.pth --out=DIR`.

It needs the extra `fsdfm` (pip install -e '.[fsdfm]'). Afterwards `tsdfm_jax.load` opens DIR, and --config.teacher.path and
--config.student.path accept it. The tensors tell whether it is a teacher or a student, its sizes and, most often, its heads
and its source; the flags are for what they do not tell. The model can read and write text only with
--tokenizer=tokenizer.json (GPT-2's for the published checkpoints).

The exit code is 0, or 2 if the checkpoint could not be imported.
"""

import functools
import os
import shlex
import sys

from absl import flags

from tsdfm_jax.config import command_line
from tsdfm_jax.storage import places

parse, fail = functools.partial(command_line.parse, "import_fsdfm"), functools.partial(command_line.fail, "import_fsdfm")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "The checkpoint, a .pth file.")
_OUT = flags.DEFINE_string("out", "", "The directory to write.")
_DICTIONARY = flags.DEFINE_string("dictionary", "", "The network to import if the file holds several: student_ema_model, …")
_HEADS = flags.DEFINE_integer("heads", 0, "Number of attention heads, if the file does not tell.")
_SOURCE = flags.DEFINE_string("source", "", "Source: uniform or mask, if the vocabulary's size does not tell.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "The model's tokenizer.json (or SentencePiece .model), to copy into --out.")
_LENGTH = flags.DEFINE_integer("length", 1024, "Tokens of the texts that the model was trained on.")
_EXPONENT = flags.DEFINE_float("exponent", 1.0, "n of the model's path, kappa(t) = t^n.")
_JUMP = flags.DEFINE_string("jump", "cumulative", "Jump of the sampler: bridge, cumulative (as FS-DFM) or euler.")
_FORCE = flags.DEFINE_bool("force", False, "Replace the model that --out already holds.")


def main(argv):
    """Import the checkpoint; returns the exit code."""
    try:
        example = "python -m launch.import_fsdfm --checkpoint=X.pth --out=DIR"
        command_line.only_flags(argv, example, checkpoint=_CHECKPOINT.value, out=_OUT.value)
        options = {
            "dictionary": _DICTIONARY.value,
            "heads": _HEADS.value,
            "source": _SOURCE.value,
            "tokenizer": os.path.expanduser(_TOKENIZER.value),
        }
        options |= {"length": _LENGTH.value, "exponent": _EXPONENT.value, "jump": _JUMP.value, "force": _FORCE.value}
        command = shlex.join(["python", "-m", "launch.import_fsdfm", *sys.argv[1:]])
        from tsdfm_jax.exchange import model_import  # late: help and a mistyped flag should not wait for JAX

        about = model_import.convert(places.expanded(_CHECKPOINT.value), places.expanded(_OUT.value), command=command, **options)
    except (ValueError, OSError) as error:
        return fail(error)
    net = about.network
    print(
        f"{about}: {net.blocks} blocks, width {net.width}, {net.heads} heads, {about.path.text_vocab:,} tokens, source {about.path.source}"
    )
    return 0
