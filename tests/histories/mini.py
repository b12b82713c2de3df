"""The smallest runs that use every stage, what of them a history may change, and the files that they read."""

import json
import random
import shutil

from configs import base
from tests import published_models

MODELS = {
    "autoregressive": ("autoregressive",),
    "teacher": ("teacher",),
    "shaped": ("teacher", "student_shaped"),
    "students": ("teacher", "student_shaped", "student_blind"),
    "all": ("teacher", "student_shaped", "student_blind", "autoregressive"),
}
# Families of runs, and how often each is drawn: those without students take a third of the time.
FAMILIES = {"autoregressive": 5, "teacher": 3, "shaped": 4, "students": 3, "all": 1}
# What a history changes: {key: (the value to begin with, another)}. Keys of `input` say what the files hold that the run reads.
VALUES = {
    "tokenizer.vocab_size": (300, 310),
    "data.length": (8, 16),
    "data.holdout": (0.3, 0.4),
    "judges.optimiser.steps": (2, 3),
    "autoregressive.optimiser.steps": (2, 4),
    "teacher.optimiser.steps": (2, 4),
    "teacher.optimiser.learning_rate": (1e-2, 2e-2),
    "compass.kind": ("lookahead", "nce"),
    "shaping.candidates": (2, 3),
    "trajectories.count": (16, 24),
    "trajectories.seed": (0, 1),
    "student.optimiser.steps": (2, 4),
    "student.target": ("endpoint", "chain"),
    "rounds": (1, 2),
    "evaluate.samples": (4, 3),
    "evaluate.temperature": (1.0, 0.8),
    "evaluate.seeds": ((0,), (0, 1)),
    "evaluate.student_steps": ((1,), (1, 2)),
    "evaluate.frontier": ("", "teacher:2"),
    "evaluate.text": ("", "input/elsewhere.jsonl"),
    "evaluate.pretrained": ("", "input/judge"),
    "report.bootstrap": (10, 20),
    "sample.prompt": ("", "the "),
    "seed": (0, 1),
    "input.corpus": ("as it was", "edited", "one more file"),
    "input.elsewhere": ("as it was", "edited"),
    "input.weights": (0, 1),
    "input.bos": (7, 9),
}
# Models that a change needs in order to matter; without an entry it matters to every run.
MATTERS = {
    "autoregressive.optimiser.steps": "autoregressive",
    "teacher.optimiser.steps": "teacher",
    "teacher.optimiser.learning_rate": "teacher",
    "evaluate.frontier": "teacher",
    "compass.kind": "student_shaped",
    "shaping.candidates": "student_shaped",
    "trajectories.count": "student_shaped",
    "trajectories.seed": "student_shaped",
    "student.optimiser.steps": "student_shaped",
    "student.target": "student_shaped",
    "evaluate.student_steps": "student_shaped",
    "rounds": "student_shaped",
}
# The files of `input` are read only where these keys name them.
READ_BY = {"input.elsewhere": "evaluate.text", "input.weights": "evaluate.pretrained", "input.bos": "evaluate.pretrained"}
# Stages with networks, and those of them that a change of a key leaves alone; a key that is not here leaves all of them alone.
NETWORKS = ("judges", "teacher", "autoregressive", "compass", "student")
KEEPS = {
    "seed": (),
    "tokenizer.vocab_size": (),
    "data.length": (),
    "data.holdout": (),
    "input.corpus": (),
    "judges.optimiser.steps": ("teacher", "autoregressive"),
    "teacher.optimiser.steps": ("judges", "autoregressive"),
    "teacher.optimiser.learning_rate": ("judges", "autoregressive"),
    "autoregressive.optimiser.steps": ("judges", "teacher", "compass", "student"),
    "compass.kind": ("judges", "teacher", "autoregressive"),
    "shaping.candidates": ("judges", "teacher", "autoregressive"),
    "trajectories.count": ("judges", "teacher", "autoregressive", "compass"),
    "trajectories.seed": ("judges", "teacher", "autoregressive", "compass"),
    "student.optimiser.steps": ("judges", "teacher", "autoregressive", "compass"),
    "student.target": ("judges", "teacher", "autoregressive", "compass"),
}
WORDS = "the union state of our people and a new year has come to be for work that we do in peace with all who stand here".split()


def start(family):
    """The state that a history of a family begins with: {key: value}, with `models`."""
    return {"models": MODELS[family]} | {key: values[0] for key, values in VALUES.items()}


def matters(state, key):
    """Whether the value of a key can matter to a run of this state."""
    if key in READ_BY:
        return bool(state[READ_BY[key]])
    return MATTERS.get(key, state["models"][0]) in state["models"]


def essence(state):
    """The state without what does not matter to it: two states of one essence are one run."""
    return {key: value for key, value in state.items() if matters(state, key)}


def get_config(state):
    """The config of a state; its paths are relative to the directory that holds `input` and the work directory."""
    c = base.get_config()
    with c.unlocked():
        c.log_every, c.save_every = 1, 2
        c.data.update(files="input/corpus/*.jsonl", limit_bytes=0, workers=1)
        c.model.update(blocks=1, width=8, heads=1, cond_width=4)
        c.judges.update(widths=(8,), blocks=(1,), heads=(1,))
        c.autoregressive.update(blocks=1, width=8, heads=1)
        c.compass.update(blocks=1, width=8, heads=1, heldout=8, steered_samples=4, steered_steps=2)
        c.trajectories.update(midpoints=2, shard=8)
        c.teacher.heldout = 8
        for section in (c.teacher, c.judges, c.autoregressive, c.compass, c.student):
            section.batch = 8
            section.optimiser.update(steps=2, warmup=1, learning_rate=1e-2)
        c.trajectories.batch = 8
        c.evaluate.update(batch=4, teacher_steps=(2,), frontier_temperatures=(2.0,))
        c.report.traces = 0
        c.sample.update(number=1, steps=2, model=state["models"][-1], live=False)
        c.update_from_flattened_dict({key: value for key, value in essence(state).items() if not key.startswith("input.")})
    return c


def write_inputs(directory, state):
    """Write the files of `input` as the state has them; a file that already holds just that is left alone."""
    stories = [{"text": text(seed)} for seed in range(24)]
    if state["input.corpus"] == "edited":
        stories[3]["text"] += " now it is another"
    lines = [json.dumps(story) + "\n" for story in stories]
    put(directory / "corpus/part_0.jsonl", "".join(lines[:12]))
    put(directory / "corpus/part_1.jsonl", "".join(lines[12:]))
    more = directory / "corpus/part_2.jsonl"
    if state["input.corpus"] == "one more file":
        put(more, "".join(json.dumps({"text": text(seed)}) + "\n" for seed in range(100, 106)))
    else:
        more.unlink(missing_ok=True)
    edited = state["input.elsewhere"] == "edited"
    put(directory / "elsewhere.jsonl", "".join(json.dumps({"text": text(200 + i + edited)}) + "\n" for i in range(4)))
    write_judge(directory / "judge", state["input.weights"], state["input.bos"])


def write_judge(directory, seed, bos):
    """Write a tiny GPT-2 with these weights and this first token, file by file, where it differs from what is there."""
    fresh = directory.with_name("judge.new")
    published_models.write(fresh, published_models.GPT2 | {"bos_token_id": bos}, published_models.gpt2(seed))
    for file in sorted(fresh.iterdir()):
        put(directory / file.name, file.read_bytes())
    shutil.rmtree(fresh)


def put(file, content):
    """Write a file unless it already has this content, so that an untouched file keeps its time."""
    content = content.encode() if isinstance(content, str) else content
    if not file.exists() or file.read_bytes() != content:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def text(seed):
    """A story of some hundred characters."""
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=120))
