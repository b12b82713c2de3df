"""Turns a PyTorch checkpoint of FS-DFM into a model of ours: `python -m launch.import_fsdfm --checkpoint=X.pth --out=DIR`.

It needs the extra `fsdfm` (pip install -e '.[fsdfm]'). DIR is then what `tsdfm_jax.load` opens, and what --config.teacher.path
and --config.student.path take. Whether it is a teacher or a student, its sizes and, most often, its heads and its source are
read off the tensors; the flags are for what these do not tell. Give --tokenizer=tokenizer.json (GPT-2's, for the published
ones), and the model can read and write text.

The exit code is 0, or 2 if the checkpoint could not be imported.
"""

import functools
import shlex
import sys

from absl import flags

from tsdfm_jax.config import command_line

parse, fail = functools.partial(command_line.parse, "import_fsdfm"), functools.partial(command_line.fail, "import_fsdfm")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "The checkpoint, a .pth file.")
_OUT = flags.DEFINE_string("out", "", "The directory to write.")
_DICTIONARY = flags.DEFINE_string("dictionary", "", "Which network of the file, where it holds several: student_ema_model, …")
_HEADS = flags.DEFINE_integer("heads", 0, "Attention heads, where the file does not tell.")
_SOURCE = flags.DEFINE_string("source", "", "uniform or mask, where the vocabulary's size does not tell.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "Its tokenizer.json (or SentencePiece .model), to be copied in.")
_LENGTH = flags.DEFINE_integer("length", 1024, "Tokens that it was trained on.")
_EXPONENT = flags.DEFINE_float("exponent", 1.0, "n of its path, kappa(t) = t^n.")
_JUMP = flags.DEFINE_string("jump", "cumulative", "How it samples: bridge, cumulative (as FS-DFM) or euler.")
_FORCE = flags.DEFINE_bool("force", False, "Replace a model that is in --out already.")


def main(argv):
    """Read, convert and write; the exit code."""
    try:
        example = "python -m launch.import_fsdfm --checkpoint=X.pth --out=DIR"
        command_line.only_flags(argv, example, checkpoint=_CHECKPOINT.value, out=_OUT.value)
        options = {"dictionary": _DICTIONARY.value, "heads": _HEADS.value, "source": _SOURCE.value, "tokenizer": _TOKENIZER.value}
        options |= {"length": _LENGTH.value, "exponent": _EXPONENT.value, "jump": _JUMP.value, "force": _FORCE.value}
        command = shlex.join(["python", "-m", "launch.import_fsdfm", *sys.argv[1:]])
        from tsdfm_jax.exchange import model_import  # late: help and a mistyped flag should not wait for JAX

        told = model_import.convert(_CHECKPOINT.value, _OUT.value, command=command, **options)
    except (ValueError, OSError) as error:
        return fail(error)
    net = told.network
    print(
        f"{told}: {net.blocks} blocks, width {net.width}, {net.heads} heads, {told.path.text_vocab:,} tokens, source {told.path.source}"
    )
    return 0
