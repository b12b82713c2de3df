"""The study's arms: each arm's name and its overrides of the config.

An arm is a student and the trajectories that it learnt from. All arms of a source have one teacher, and, seed by seed, the
same starting states and the same numbers of records and updates, except the arms that vary these numbers.
"""

import dataclasses
import math
from typing import Any

from configs.baselines import fsdfm, sdtt
from tsdfm_jax.experiments.sweep import hyper

SOURCES = ("uniform", "mask")
SEEDS = (0, 1, 2)
# Divisors of the config's budget for ablations; "reference" is the shaped arm at that budget.
ABLATION = {"trajectories.count": 4, "student.optimiser.steps": 2}
BLIND = {"shaping.candidates": 1}
# Factors that scale the ablation's own budget.
SCALED = {"records": "trajectories.count", "updates": "student.optimiser.steps"}
LOSSES = ("chain", "mixed")
# Keys of the compass stage's evaluation; no student depends on them.
EVALUATION_KEYS = ("compass.heldout", "compass.steered_samples", "compass.steered_steps")
# Overrides for each source. With masks an unmasked token has no entropy: candidates are compared by the likelihood of their
# tokens, each hidden in turn, and have their masks at the same positions. That takes two passes a candidate; with half as many
# candidates it costs the same as the uniform source. Under uniform noise students follow little of a shaping that removes the
# tokens' frequency; there a twentieth of it is removed (results/STUDY.md).
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
      name: its unique name.
      factor: the factor that it varies; "main" for the headline arms.
      overrides: {dotted config key: value}.
      reduced: whether it has an ablation's budget.
      scale: its records or updates over the reference's, for the factors in SCALED.
    """

    name: str
    factor: str
    overrides: dict[str, Any]
    reduced: bool = True
    scale: float = 1.0


def main_arms(config):
    """The headline arms: blind, the random control, the config's own shaping, every other policy, and published baselines."""
    from tsdfm_jax.flow import shaping  # late: help and a mistyped flag should not wait for JAX

    policies = {policy: {"shaping.policy": policy, "shaping.span": 1} for policy in shaping.POLICIES}
    arms = {"blind": BLIND, "random": {"shaping.selection": "random"}, "shaped": {}}
    arms |= {name: changes for name, changes in policies.items() if _differs(config, changes)}
    for name, file in (("fsdfm", fsdfm), ("sdtt", sdtt)):
        arms[name] = hyper.differing(name, config, file.student(config.copy_and_resolve_references()))
    return [Arm(name=name, factor="main", overrides=overrides, reduced=False) for name, overrides in arms.items()]


def _factors(config):
    """{factor: {name: overrides}}, before `ablations` drops those equal to the config."""
    midpoints, length = config.trajectories.midpoints, config.data.length
    nce, cumulative = {"compass.kind": "nce"}, {"flow.jump": "cumulative"}
    tokens_leave = config.flow.source != "mask"  # with masks no token leaves, and the cumulative jump equals the bridge's
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
    """All overrides of an arm's run over its source's config: the arm's own, its budget and its seed."""
    changes = {"models": ("teacher", "student_shaped"), "trajectories.seed": seed}
    changes |= {"evaluate.seeds": (seed,), "evaluate.teacher_steps": (), "evaluate.frontier": ""}
    # The study's compass part evaluates the compass; here the stage only has to run.
    changes |= dict(zip(EVALUATION_KEYS, (config.compass.batch, config.compass.batch, 1)))
    if arm.reduced:
        changes |= {key: _value(config, key) // part for key, part in ABLATION.items()}
        changes["evaluate.student_steps"] = (4, 8)
    else:
        changes["evaluate.frontier"] = "student_shaped:4, student_shaped:8"
    changes |= arm.overrides
    if arm.factor in SCALED:
        key = SCALED[arm.factor]
        changes[key] = int(_value(config, key) / ABLATION[key] * arm.scale)
    if arm.factor == "rounds":  # all rounds together have the budget of one
        changes |= {key: changes[key] // arm.overrides["rounds"] for key in ABLATION}
    # Whole batches, and shards that divide the count: every arm has exactly its budget.
    batch = config.trajectories.batch
    count = changes["trajectories.count"] = max(changes.get("trajectories.count", config.trajectories.count) // batch, 1) * batch
    changes["trajectories.shard"] = math.gcd(count, config.trajectories.shard)
    return changes


def _differs(config, overrides):
    return any(_value(config, key) != value for key, value in overrides.items())


def _value(config, key):
    for name in key.split("."):
        config = config[name]
    return config


STEPS = (4, 8)  # numbers of steps at which the bars are checked
