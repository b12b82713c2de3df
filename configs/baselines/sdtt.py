"""Progressive self-distillation after SDTT (arXiv 2410.21035): each round halves the number of steps, from 64 to 8 in three rounds.

    python -m tsdfm_jax.main --config=configs/baselines/sdtt.py:quickstart --workdir=runs/sdtt_quickstart

The argument names the config that data, judges, teacher and budget come from: quickstart, sotu or fineweb_170m.

From the paper: the round's teacher takes two steps from a noised text. The student learns both as one step, by KL: at each
position the posterior of the step in which the position left, or the second one where it did not leave in the first. The student
of a round is the teacher of the next. Ours: the student is given its step size; it starts from the averaged weights of the round
before; 64 steps at first and three rounds (the paper has longer runs of seven); two-step records made offline, in each round as
many as a third of the jumps of the other students' trajectories; batch and learning rate of those students, and their updates
divided by the rounds. The paper's source is `mask`. Under `uniform` a position that left in the first of two steps could move
again in the second, which this target ignores. The last student has learnt only steps of 1/8: its other rows in the table are
outside its training.
"""

from configs import baselines

ROUNDS, STEPS = 3, 64


def get_config(base_name="quickstart"):
    """The config named `base_name` with three rounds of a blind student, each taught by the one before."""
    return student(baselines.start(base_name, ("teacher", "student_blind")))


def student(c):
    """The config `c`, with its blind student changed to this one."""
    c.rounds = ROUNDS
    c.shaping.candidates = 1
    c.trajectories.count = c.trajectories.count * c.trajectories.midpoints // ROUNDS  # two steps are one jump and an evaluation
    c.trajectories.chain = "sdtt"
    c.student.update(target="chain", evaluator="generator", teacher_below=0.0, progressive=STEPS)
    optimiser = c.student.optimiser
    optimiser.update(steps=optimiser.steps // ROUNDS, warmup=optimiser.warmup // ROUNDS)
    return c
