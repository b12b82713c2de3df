"""Export a trained model of a run: `python -m launch.export --workdir=runs/quickstart --model=student_shaped --out=DIR`.

DIR gets config.json, model.safetensors, the tokenizer and a model card filled from the run's report.json. `tsdfm_jax.load`
opens it, with the same weights and texts to the bit; another run uses it with --config.teacher.path or --config.student.path.
Of a run of NTM (--model=ntm) it gets the denoiser and the autoencoder among the weights, where the run has them.
--dtype=bfloat16 halves the file, and rounds the weights.

The exit code is 0, or 2 if the model could not be exported.
"""

import functools

from absl import flags

from tsdfm_jax.config import command_line
from tsdfm_jax.storage import places

parse, fail = functools.partial(command_line.parse, "export"), functools.partial(command_line.fail, "export")
_WORKDIR = flags.DEFINE_string("workdir", "", "The run's work directory.")
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "The model to export: teacher, student_shaped (by default) or student_blind; of NTM ntm (by default), ntm_identity or "
    "flow_matching.",
)
_OUT = flags.DEFINE_string("out", "", "The directory to write.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Type of the stored weights: float32 or bfloat16.")
_FORCE = flags.DEFINE_bool("force", False, "Replace the model that --out already holds.")


def main(argv):
    """Export the model; returns the exit code."""
    try:
        example = "python -m launch.export --workdir=runs/quickstart --out=DIR"
        command_line.only_flags(argv, example, workdir=_WORKDIR.value, out=_OUT.value)
        from tsdfm_jax.exchange import model_export  # late: help and a mistyped flag should not wait for JAX

        about = model_export.export(
            places.expanded(_WORKDIR.value), places.expanded(_OUT.value), model=_MODEL.value, dtype=_DTYPE.value, force=_FORCE.value
        )
    except (ValueError, OSError) as error:
        return fail(error)
    print(f"{about}: {about.dtype}, content hash {about.hash}")
    return 0
