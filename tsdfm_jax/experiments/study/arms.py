"""What the study trains: every arm by its name, and what sets it apart from the config.

An arm is a student and the trajectories that it learnt from. All arms of a source have one teacher, and, seed by seed,
the same starting states and the same numbers of records and updates, but for those whose subject these are.
"""

import dataclasses
import math
from typing import Any

from configs.baselines import fsdfm, sdtt
from tsdfm_jax.experiments.sweep import hyper

SOURCES = ("uniform", "mask")
SEEDS = (0, 1, 2)
# What an ablation has less of than the main arms, as fractions of the config's; "reference" is the shaped arm at that budget.
ABLATION = {"trajectories.count": 4, "student.optimiser.steps": 2}
BLIND = {"shaping.candidates": 1}
# Factors that are a share of the ablation's own budget.
SCALED = {"records": "trajectories.count", "updates": "student.optimiser.steps"}
LOSSES = ("chain", "mixed")
# What the compass stage's account of itself is made of; no student depends on it.
ACCOUNT = ("compass.heldout", "compass.steered_samples", "compass.steered_steps")
# What a source has of its own. Among masks an unmasked token has no entropy: candidates are compared by how likely their
# tokens are, each one hidden in turn, and have their masks at the same places. That takes two passes a candidate; of half as
# many it costs what the other source's does. Under uniform noise students follow little of a shaping that has the tokens'
# frequency taken out; there a twentieth is (results/STUDY.md).
OF_SOURCE = {
    "uniform": {},
    "mask": {
        "compass.score": "nll",
        "compass.prior": 0.9,
        "shaping.tau": 0.25,
        "shaping.coins": "shared",
        "shaping.candidates": 4,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm.

    Attributes:
      name: its own among all arms.
      factor: what it is about; "main" for those of the headline.
      overrides: {dotted config key: value}.
      reduced: whether it has an ablation's budget.
      scale: its records, or updates, over the reference's; of the factors in SCALED.
    """

    name: str
    factor: str
    overrides: dict[str, Any]
    reduced: bool = True
    scale: float = 1.0


def main_arms(config):
    """The arms of the headline: the blind student, the control, the config's own shaping, every other policy, and other work's."""
    from tsdfm_jax.flow import shaping  # late: help and a mistyped flag should not wait for JAX

    policies = {policy: {"shaping.policy": policy, "shaping.span": 1} for policy in shaping.POLICIES}
    arms = {"blind": BLIND, "random": {"shaping.selection": "random"}, "shaped": {}}
    arms |= {name: changes for name, changes in policies.items() if _differs(config, changes)}
    for name, file in (("fsdfm", fsdfm), ("sdtt", sdtt)):
        arms[name] = hyper.differing(name, config, file.student(config.copy_and_resolve_references()))
    return [Arm(name=name, factor="main", overrides=overrides, reduced=False) for name, overrides in arms.items()]


def _factors(config):
    """{factor: {name: overrides}}; values that the config has already are the reference, and none of these."""
    midpoints, length = config.trajectories.midpoints, config.data.length
    nce, cumulative = {"compass.kind": "nce"}, {"flow.jump": "cumulative"}
    tokens_leave = config.flow.source != "mask"  # among masks none does, and the cumulative jump is the bridge's
    return {
        "candidates": {f"K={k}": {"shaping.candidates": k} for k in (2, 4, 8, 16)},
        "tau": {f"tau={t}": {"shaping.tau": t} for t in (0.0, 0.25, 0.5, 0.75)},
        "coins": {f"coins={c}": {"shaping.coins": c} for c in ("own", "shared")},
        "span": {f"span={n}": {"shaping.policy": "sequence_to_token", "shaping.span": n} for n in (1, 4, 8, 16)},
        "selection": {
            # An energy is a mean over positions: this temperature makes it the log ratio of whole sequences.
            "boltzmann=1/L": {"shaping.selection": "boltzmann", "shaping.temperature": 1 / length},
            "boltzmann=4/L": {"shaping.selection": "boltzmann", "shaping.temperature": 4 / length},
        },
        "compass": {
            "lookahead=nll": {"compass.score": "nll"},
            "lookahead=entropy": {"compass.score": "entropy"},
            "prior=0": {"compass.prior": 0.0},
            "prior=1": {"compass.prior": 1.0},
            "distilled": {"compass.kind": "distilled"},
            "nce": nce,
            "nce,1-block": nce | {"compass.blocks": 1},
            "nce,fresh": nce | {"compass.from_teacher": False},
        },
        "target": {name: {"student.target": name} for name in LOSSES}
        | {f"{name},blind": {"student.target": name, **BLIND} for name in LOSSES},
        "chain": {f"chain={c}": {"student.target": "chain", "trajectories.chain": c} for c in ("classical", "heun")},
        "jump": {"jump=cumulative": cumulative, "jump=cumulative,blind": cumulative | BLIND} if tokens_leave else {},
        "fresh": {f"fresh={share}": {"student.fresh": share} for share in (0.0, 0.5, 1.0)},
        "midpoints": {f"midpoints={s}": {"trajectories.midpoints": s} for s in (midpoints // 2, midpoints * 2)},
        "rounds": {f"rounds={r}": {"rounds": r} for r in (2, 3)} | {f"rounds={r},blind": {"rounds": r, **BLIND} for r in (2,)},
    }


def ablations(config):
    """One factor at a time, each arm at the reduced budget, with the shaped and the blind arm at that budget."""
    plain = config.copy_and_resolve_references()
    arms = [
        Arm(name="reference", factor="reference", overrides={}),
        Arm(name="reference,blind", factor="reference", overrides=BLIND),
    ]
    for factor, choices in _factors(plain).items():
        for name, overrides in choices.items():
            if _differs(plain, overrides):
                arms.append(Arm(name=name, factor=factor, overrides=overrides))
    arms += [Arm(name=f"{factor}={x}", factor=factor, overrides={}, scale=x) for factor in SCALED for x in (0.5, 2.0)]
    return arms


def overrides(config, arm, seed):
    """All that sets a run of an arm apart from its source's config: the arm's own, its budget and its seed."""
    found = {"models": ("teacher", "student_shaped"), "trajectories.seed": seed}
    found |= {"evaluate.seeds": (seed,), "evaluate.teacher_steps": (), "evaluate.frontier": ""}
    # What a compass knows is told by its own part of the study: here it only has to be there.
    found |= dict(zip(ACCOUNT, (config.compass.batch, config.compass.batch, 1)))
    if arm.reduced:
        found |= {key: _value(config, key) // part for key, part in ABLATION.items()}
        found["evaluate.student_steps"] = (4, 8)
    else:
        found["evaluate.frontier"] = "student_shaped:4, student_shaped:8"
    found |= arm.overrides
    if arm.factor in SCALED:
        key = SCALED[arm.factor]
        found[key] = int(_value(config, key) / ABLATION[key] * arm.scale)
    if arm.factor == "rounds":  # all rounds together have the budget of one
        found |= {key: found[key] // arm.overrides["rounds"] for key in ABLATION}
    # Whole batches, and shards that leave no record over: every arm has exactly its budget.
    batch = config.trajectories.batch
    count = found["trajectories.count"] = max(found.get("trajectories.count", config.trajectories.count) // batch, 1) * batch
    found["trajectories.shard"] = math.gcd(count, config.trajectories.shard)
    return found


def _differs(config, overrides):
    return any(_value(config, key) != value for key, value in overrides.items())


def _value(config, key):
    for name in key.split("."):
        config = config[name]
    return config


STEPS = (4, 8)  # that the bars are held at
