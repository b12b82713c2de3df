"""Progressive self-distillation in the manner of SDTT (arXiv 2410.21035): each round halves the number of steps, 64 to 8 in three.

    python -m tsdfm_jax.main --config=configs/baselines/sdtt.py:quickstart --workdir=runs/sdtt_quickstart

The argument says which config's data, judges, teacher and budget it has: quickstart, sotu or fineweb_170m.

The paper's: from a noised text the round's teacher takes two steps, and the student is taught in one, by KL, the posterior
that each position left by, or the last one where it has not left; the student of a round is the teacher of the next.
Ours: the student is told its step size; it goes on from its average's weights; 64 steps to begin with and three rounds (the
paper has longer runs of seven); two-step records made offline, in each round as many as there are jumps in a third of the other
students' trajectories; batch and rate of those students, and their updates divided by the rounds. The paper's source is
`mask`. Under `uniform` what left in the first of two steps could move again in the second, which this target does not tell.
The last student has learnt steps of 1/8 alone: its other rows are beyond what it was taught.
"""

from configs import baselines

ROUNDS, STEPS = 3, 64


def get_config(of="quickstart"):
    """The config `of` that name with three rounds of a blind student, each taught by the one before."""
    return student(baselines.start(of, ("teacher", "student_blind")))


def student(c):
    """The config `c`, whose blind student is this one."""
    c.rounds = ROUNDS
    c.shaping.candidates = 1
    c.trajectories.count = c.trajectories.count * c.trajectories.midpoints // ROUNDS  # two steps are one jump and an evaluation
    c.trajectories.chain = "sdtt"
    c.student.update(target="chain", evaluator="generator", teacher_below=0.0, progressive=STEPS)
    optimiser = c.student.optimiser
    optimiser.update(steps=optimiser.steps // ROUNDS, warmup=optimiser.warmup // ROUNDS)
    return c
