"""What shaping is worth: K candidates × the time tau from which jumps are shaped × the policy, on the quickstart's model.

    python -m launch.sweep --config=configs/sweeps/shaping.py --workdir=runs/shaping

18 runs of `python -m tsdfm_jax.main`: 3 numbers of candidates, 2 values of tau, 3 policies. They share tokenizer, data, judges
and teacher, which are made once. Every run trains a blind student beside the shaped one, and it is the same in all runs.
An estimate, not a measurement, from the quickstart's 14 minutes: about 7 minutes for the shared stages and 5 to 8 for each
run, so some two hours on 2 CPU cores. `--dry-run` prints the commands, `--table` gathers the finished runs.
"""

from configs import quickstart


def get_config():
    """The quickstart."""
    return quickstart.get_config()


def get_hyper(hyper):
    """All combinations of candidates, tau and policy."""
    return hyper.product(
        [
            hyper.sweep("shaping.candidates", (2, 4, 8)),
            hyper.sweep("shaping.tau", (0.0, 0.5)),
            hyper.sweep("shaping.policy", ("sequence", "token", "sequence_to_token")),
        ]
    )
