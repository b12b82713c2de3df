"""A report and traces of random words, in the format that the stages write: for tests of the page."""

import random

WORDS = """the of and to in that it is we our for this have be by which with as has will not from are all a on at Congress nation
people government peace law States Union world year war work great every Senate American freedom must can public upon its
their been was more these would should power country citizens commerce treasury army navy schools labor children""".split()
MODELS = {"teacher": (8, 64, 1024), "student_shaped": (1, 2, 4, 8), "student_blind": (1, 2, 4, 8)}
JUDGES = {"judge_0": 113_120, "judge_1": 636_768}


def vocabulary(text_vocab=200):
    """Tokens as the page shows them: words after a space, word pieces, punctuation, the document end."""
    shown = [f" {w}" for w in WORDS] + [",", ".", "\n", "¶", "ing", "ed", "s", "▒"]
    return {
        str(i): shown[i] if i < len(shown) else f"{random.Random(i).choice('bcdfgk')}{random.Random(i).choice('aeiou')}"
        for i in range(text_vocab)
    }


def row(model, steps, seed, judge, **changes):
    """One row of the table: more steps give a lower perplexity, and the shaped student's is below the blind one's."""
    chance = random.Random(f"{model}{steps}{seed}{judge}")
    base = {"data": 190, "unigram": 2600, "teacher": 420, "student_shaped": 330, "student_blind": 440}.get(model, 280)
    ppl = base * (1 + 1.6 / max(steps, 1) ** 0.9 if steps else 1) * chance.uniform(0.95, 1.05)
    entropy = {"student_shaped": 3.77, "unigram": 3.93}.get(model, 3.85) + chance.uniform(-0.02, 0.02)
    told = {"model": model, "source": "uniform", "steps": steps, "seed": seed, "temperature": 1.0, "top_p": 1.0, "jump": "bridge"}
    told |= {"dtype": "float32", "samples": 48, "length": 64, "tokens_per_second": 40_000 / steps if steps else None}
    told |= {"entropy_nats": entropy, "entropy_bits": entropy / 0.6931, "distinct_1": 0.6, "distinct_2": 0.86, "distinct_3": 0.98}
    told |= {"repetition_4": 0.004, "lexical": 0.8, "mauve": 0.31, "mauve_spread": 0.02, "frechet": 4.2, "judge": judge}
    told |= {"judge_parameters": JUDGES[judge], "judge_hash": f"{judge}-" + "9f" * 28, "judge_tokenizer": "own", "judge_bos": True}
    return told | {"judge_context": 64, "ppl_token": ppl, "ppl_sample": ppl * 1.05, "bits_per_byte": 1.9} | changes


def curve(first, last, steps):
    return [[n, last + (first - last) * 2.718 ** (-5 * n / steps)] for n in range(1, steps + 1, steps // 12)]


def frontier(model, steps, judge, **changes):
    """Perplexity and entropy at five temperatures, with intervals."""
    at = row(model, steps, 0, judge)
    points = []
    for t in (0.7, 0.8, 0.9, 1.0, 1.1):
        entropy, ppl = at["entropy_nats"] + 0.6 * (t - 1), at["ppl_token"] * 2.718 ** (2.4 * (t - 1))
        point = {"temperature": t, "entropy_nats": entropy, "entropy_low": entropy - 0.02, "entropy_high": entropy + 0.02}
        points.append(point | {"ppl_token": ppl, "ppl_low": ppl * 0.93, "ppl_high": ppl * 1.07})
    return {"model": model, "steps": steps, "judge": judge, "points": points} | changes


def report(seeds=(0, 1)):
    """A complete report of schema 2."""
    sets = [("data", 0), ("unigram", 0), ("text:a peer", 0)] + [(m, s) for m, steps in MODELS.items() for s in steps]
    rows = [row(m, s, seed, judge) for m, s in sets for seed in seeds for judge in JUDGES]
    rows += [row("student_shaped", 8, 0, judge, temperature=0.7, ppl_token=1.0) for judge in JUDGES]
    stages = {
        "teacher": curve(8, 3.5, 1200),
        "student/shaped/round_0": curve(4, 2.9, 220),
        "student/blind/round_0": curve(4.4, 3.5, 220),
    }
    stages = {
        n: {"seconds": 260.0, "share_of_time": 0.3, "peak_memory_bytes": 2**30, "tokens_per_second": 1e4, "curve": c}
        for n, c in stages.items()
    }
    stages["judges"] = {"seconds": 140.0, "share_of_time": 0.1, "peak_memory_bytes": 2**30}
    stages["judges"]["judges"] = {str(i): {"curve": curve(8, 6 - i / 2, 220)} for i in range(2)}
    matched = {"entropy_nats": 3.85, "entropy_of": "teacher, 1024 steps", "steps": 8}
    found = [
        {"model": "student_shaped", "ppl_token": 402.2, "low": 380.0, "high": 431.9},
        {"model": "student_blind", "ppl_token": None, "low": None, "high": None},
    ]
    return {
        "schema": 2,
        "commit": "1c6b55b7fcd3b012231f18093674ae15a71701a5",
        "command": "python -m tsdfm_jax.main --config=configs/quickstart.py",
        "config": {"evaluate": {"temperature": 1.0, "seeds": list(seeds)}, "data": {"files": "", "length": 64}},
        "environment": {"python": "3.11.7", "device": "cpu", "jax": "0.10.2"},
        "stages": stages,
        "compass": compass(),
        "rows": rows,
        "bounds": {"teacher": 2.383, "student_shaped": 2.61, "student_blind": 2.44},
        "frontiers": [
            frontier(m, s, j) for j in JUDGES for m, s in (("teacher", 1024), ("student_shaped", 8), ("student_blind", 8))
        ],
        "matched": [{"judge": j, **matched, **f} for j in JUDGES for f in found],
        "shaping": shaping(),
        "verdict": "The shaped student at 8 steps is below the blind student under all judges (×0.78, ×0.74).",
    }


def compass():
    """The report section of a look-ahead compass; one accuracy is NaN."""
    sized = [{"h": 0.5**n, "pairs": 144, "accuracy": 0.95 - 0.05 * n, "auc": 0.64 - 0.01 * n} for n in range(8)]
    timed = [
        {"time": t, "pairs": 100, "accuracy": a, "auc": 0.55}
        for t, a in (("0-0.25", float("nan")), ("0.25-0.5", 0.7), ("0.5-1", 0.8))
    ]
    deep = [{"depth": d, "pairs": 288, "accuracy": 0.65 + 0.05 * d, "auc": 0.54} for d in (1, 2, 3)]
    steered = [
        {"selection": s, "steps": 8, "ppl_token": p, "ppl_sample": p, "entropy_nats": 3.9}
        for s, p in (("blind", 471.9), ("random", 469.5), ("worst", 1000.7), ("shaped", 278.0))
    ]
    told = {"kind": "lookahead", "pairs": 864, "accuracy": 0.73, "auc": 0.53, "by_step_size": sized, "by_time": timed}
    return told | {"by_depth": deep, "steered": steered}


def shaping(candidates=8, midpoints=8):
    """Candidate energies by time: the mean falls, and the kept candidate is the lowest."""
    out = []
    for n in range(1, midpoints + 1):
        mean = 6 - 4 * n / midpoints
        point = {"time": n / midpoints, "lowest": mean - 0.3, "highest": mean + 0.3, "mean": mean, "first": mean + 0.02}
        out.append(point | {"kept": mean - 0.3, "first_kept": 1 / candidates + 0.01 * n, "shaped": True})
    return {"midpoints": out, "candidates": candidates, "records": 64}


def traces(length=64, midpoints=8, candidates=8, seed=0):
    """Two trajectories, and eight steps of each student for two texts."""
    chance, shown = random.Random(seed), vocabulary()
    word = lambda: chance.randrange(len(WORDS) + 4)
    noise = lambda: [chance.randrange(len(shown)) for _ in range(length)]
    leap = lambda x, share: [word() if chance.random() < share else s for s in x]
    share = lambda n, of: 1 / (of - n + 1) if n < of else 0.95
    trajectories = []
    for record in (0, 5):
        start = state = noise()
        out = []
        for n in range(1, midpoints + 1):
            drawn = [leap(state, share(n, midpoints)) for _ in range(candidates)]
            energy = [[round(chance.gammavariate(3, 1.2) * (1.4 - n / midpoints), 3) for _ in range(length)] for _ in drawn]
            total = [round(sum(e) / length, 4) for e in energy]
            kept = total.index(min(total))
            state = drawn[kept]
            out.append(
                {
                    "time": n / midpoints,
                    "shaped": True,
                    "kept": kept,
                    "state": state,
                    "candidates": drawn,
                    "energy": total,
                    "token_energy": energy,
                }
            )
        trajectories.append({"record": record, "start": start, "midpoints": out})
    students = []
    for model in ("student_shaped", "student_blind"):
        for index in (0, 1):
            states = [noise()]
            for n in range(1, 9):
                states.append(leap(states[-1], share(n, 8)))
            students.append({"model": model, "index": index, "seed": 0, "times": [n / 8 for n in range(9)], "states": states})
    return {"schema": 1, "vocabulary": shown, "tau": 0.0, "policy": "sequence", "trajectories": trajectories, "students": students}
