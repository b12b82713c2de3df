"""How much looking ahead is worth: K candidates × where the shaping begins × who chooses, on the quickstart's model.

    python -m launch.sweep --config=configs/sweeps/shaping.py --workdir=runs/shaping

18 runs of `python -m tsdfm_jax.main`: 3 numbers of candidates, 2 times tau, 3 policies. Tokenizer, data, judges and
teacher are made once for all of them; every run trains a blind student beside the shaped one, the same in all of them.
An estimate, not a measurement, from the quickstart's 14 minutes: about 7 minutes for what is shared and 5 to 8 a
run, so some two hours on 2 CPU cores. `--dry-run` prints the commands, `--table` gathers what is finished.
"""

from configs import quickstart


def get_config():
    """The quickstart."""
    return quickstart.get_config()


def get_hyper(hyper):
    """Candidates, tau and policy, each with each."""
    return hyper.product(
        [
            hyper.sweep("shaping.candidates", (2, 4, 8)),
            hyper.sweep("shaping.tau", (0.0, 0.5)),
            hyper.sweep("shaping.policy", ("sequence", "token", "sequence_to_token")),
        ]
    )
