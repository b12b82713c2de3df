"""FS-DFM (arXiv 2509.20624): the student learns from blind chains.

    python -m tsdfm_jax.main --config=configs/baselines/fsdfm.py:quickstart --workdir=runs/fsdfm_quickstart

The argument names the config that data, judges, teacher and budget come from: quickstart, sotu or fineweb_170m.

From the paper: the `cumulative` jump; the chain of four evaluations and three jumps; a target that the student's own average
evaluates with the step size h/2; forward KL to (l1 + 2 l2 + 2 l3 + l4) / 6; the path loss against data for the smallest steps.
Ours, where we do not know the paper's choice or the comparison needs it: the config's step weights (equal, except in sotu); the
path loss of the config's teacher; chains that the teacher recorded offline, with as many jumps in all as the other students'
trajectories; batch, updates and learning rate of those students.
"""

from configs import baselines


def get_config(base_name="quickstart"):
    """The config named `base_name` with a blind student that learns from chain targets only."""
    return student(baselines.start(base_name, ("teacher", "student_blind")))


def student(c):
    """The config `c`, with its blind student changed to this one."""
    c.flow.jump = "cumulative"
    c.shaping.candidates = 1
    c.trajectories.count = c.trajectories.count * c.trajectories.midpoints // 3  # a chain has three jumps
    c.trajectories.chain = "fsdfm"
    c.student.update(target="chain", evaluator="ema", teacher_below=2.0**-9, loss=c.teacher.loss)
    return c
