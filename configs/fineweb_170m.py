"""The paper's 170M shape on FineWeb-Edu with GPT-2's vocabulary.

    python -m tsdfm_jax.main --config=configs/fineweb_170m.py --workdir=runs/fineweb_170m
    python -m launch.aot_compile --config=configs/fineweb_170m.py --topology=v5e:4x4

It has not been run; the second command compiles it for a TPU slice without one. 169,625,681 parameters (the student
170,168,529), windows of 1,024 symbols. You bring the text, as Parquet files in fineweb/ (or --config.data.files; it needs the
extra `formats`), and GPT-2's tokenizer.json, as fineweb/tokenizer.json (or --config.tokenizer.path). Its 50,257 symbols stand in
`tokenizer.vocab_size` too, which then only tells the second command. `--config.flow.source=mask` is the other source.

From the papers: shape, length, vocabulary, AdamW(0.9, 0.95) with decay 0.03 and clip 1, the teacher's 3e-4 with 10,000
updates of warm-up and a cosine to a tenth, bfloat16, the student's 1e-5, its average's 0.9995. The rest is ours and untried:
batches, numbers of updates and of trajectories, the compass's question, the judges. Batches are for 16 to 64 devices.
"""

from configs import base


def get_config():
    """Half a million symbols an update, in four microbatches: logits alone are 206 MB a window in float32."""
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
    return c
