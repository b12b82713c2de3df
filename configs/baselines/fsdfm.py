"""FS-DFM (arXiv 2509.20624): the student learns from blind chains, with nothing looked at.

    python -m tsdfm_jax.main --config=configs/baselines/fsdfm.py:quickstart --workdir=runs/fsdfm_quickstart

The argument says which config's data, judges, teacher and budget it has: quickstart, sotu or fineweb_170m.

The paper's: the `cumulative` jump, the chain of four evaluations and three jumps, the student's own average as evaluator of
its target, told h/2, forward KL to (l1 + 2 l2 + 2 l3 + l4) / 6, and the path loss against data for the smallest steps.
Ours, where we do not know the paper's or the comparison asks for it: all step sizes with one weight; the path loss that
the config's teacher has; chains recorded offline by the teacher, as many as make the jumps of the other students'
trajectories; batch, updates and learning rate of those students.
"""

from configs import baselines


def get_config(of="quickstart"):
    """The config `of` that name with a blind student on chain targets alone."""
    return student(baselines.start(of, ("teacher", "student_blind")))


def student(c):
    """The config `c`, whose blind student is this one."""
    c.flow.jump = "cumulative"
    c.shaping.candidates = 1
    c.trajectories.count = c.trajectories.count * c.trajectories.midpoints // 3  # a chain has three jumps
    c.trajectories.chain = "fsdfm"
    c.student.update(target="chain", evaluator="ema", teacher_below=2.0**-9, loss=c.teacher.loss)
    return c
