"""Write the measured laws into docs/trust.md: `python -m tests.laws.table`."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS = ROOT / "results/laws.json"
BEGIN, END = "<!-- laws: begin -->\n", "<!-- laws: end -->"


def grid(head, rows):
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def jumps(found):
    """Table: distance from the data law by jump and steps."""
    steps = ("1", "8", "64", "1024")
    rows = [[name, *(f"{row['tv'][n]:.4f}" for n in steps), f"{row['order_512_1024']:.2f}"] for name, row in found["jumps"].items()]
    return grid(["source, jump", "1 step", *(f"{n} steps" for n in steps[1:]), "order"], rows)


def selections(found):
    """Table: how the selection among K changes a midpoint's law."""
    rows = []
    for name, row in found["selection"].items():
        one, eight, many = (row["candidates"].index(k) for k in (1, 8, 64))
        tv, over = row["tv"], row["mean_log_ratio"]["argmin"][many] - row["mean_log_ratio_of_the_true_law"]
        values = tv["random"][one], tv["boltzmann"][eight], tv["boltzmann"][many], tv["argmin"][many], tv["worst"][many]
        rows.append([name, *(f"{v:.3f}" for v in values), f"{over:+.2f}"])
    head = ["midpoint", "blind, random", "boltzmann, K = 8", "K = 64", "argmin, K = 64", "worst, K = 64"]
    return grid([*head, "argmin's log ratio beyond the law's, nats"], rows)


def targets(found):
    """Table: distance of each chain's target from the exact transition."""
    rows = []
    for name in found["targets"]["uniform"]:
        cells = ["one posterior, no chain" if name.startswith("l1") else name]
        for source in ("uniform", "mask"):
            row = found["targets"][source][name]
            cells += ["0" if v < 1e-9 else f"{v:.1e}" for v in (row["marginal_tv"][i] for i in (0, 2))]
            cells.append("exact" if row["order"] is None else f"{row['order']:.1f}")
        rows.append(cells)
    return grid(["target", "uniform, h = 1/2", "h = 1/8", "order", "mask, h = 1/2", "h = 1/8", "order"], rows)


def students(found):
    """Table: distance of teacher and students from the data law by steps."""
    rows = []
    for name in found["students"]["uniform"]["tv"]:
        label = name if name in ("teacher", "blind") else f"shaped, {name}"
        values = [v for source in ("uniform", "mask") for v in found["students"][source]["tv"][name]]
        rows.append([label, *(f"{v:.3f}" for v in values)])
    return grid(["", "uniform, 1 step", "2", "4", "8", "mask, 1 step", "2", "4", "8"], rows)


def sentences(found):
    """The results that are sentences, not tables."""
    tail = found["tail"]
    usual = next(v for k, v in tail.items() if "usual" in k)
    ours = [v for k, v in tail.items() if "usual" not in k and "exact share" not in k]
    bridge = max(v for row in found["bridge_float32_tv"].values() for v in row.values())
    bound = found["bound"]
    worst = max(abs(r["estimated_nats"] - r["exact_bound_nats"]) / r["standard_error"] for r in bound.values())
    energy = [row for source in found["trained_energy"].values() for row in source.values()]
    return "\n".join([
        f"- `bridge` with the true posterior and one position ends in the data law after 1 to 1,024 steps: the package's own float32 "
        f"kernels are off by {bridge:.0e} at most, exponents 1, 2 and 3, both sources.",
        f"- A tail of 5 % of the mass, on 1,000 tokens of 5e-5 each among 50,257, is visited {100 * min(ours):.1f} to "
        f"{100 * max(ours):.1f} % of the time over 1,024 steps, by every route that draws; the usual `jax.random.categorical` (V = 1,001) visits it "
        f"{100 * usual:.1f} % of the time.",
        f"- The ELBO behind the bits per byte is −log p(x) exactly under the mask source, and above it by a gap that a second "
        f"calculation gives under the uniform one; its estimator is within {worst:.1f} standard errors of the quadrature in all "
        f"{len(bound)} cases.",
        f"- A compass trained by the stage's own contrast finds the log density ratio: correlation {min(r['correlation'] for r in energy):.3f} "
        f"to {max(r['correlation'] for r in energy):.3f}, mean error {min(r['mean_error_nats'] for r in energy):.3f} to "
        f"{max(r['mean_error_nats'] for r in energy):.3f} nats where the ratio's mean size is {min(r['mean_size_nats'] for r in energy):.2f} to "
        f"{max(r['mean_size_nats'] for r in energy):.2f}.",
        same_sentence(found["invariance"]),
    ])  # fmt: skip


def same_sentence(same):
    """The sentence on the invariance tests."""
    compared, differing = (sum(row[key] for row in same.values()) for key in ("symbols", "differing"))
    return (
        f"- Of {compared:,} tokens of texts and trajectories made again with other batches, orders, stops and 1, 2, 4 or 8 devices, "
        f"{differing} differ."
    )


def trajectory_models(found):
    """Table: the laws of Normalizing Trajectory Models, each with how far the package is from it."""
    total = max(abs(value - 1) for value in found["integrals"].values())
    bound, euler, draws = found["bound"], found["euler"], f"{found['sampling']['draws']:,} drawn"
    worst = lambda values: f"{max(values):.0e}"
    rows = [
        ["transporter: x from u from x, with cached keys and without", worst(found["inverse"].values())],
        ["transporter: log-determinant against autodiff's, nats", worst(found["log_determinant"].values())],
        ["density of a step and of a trajectory, random networks: integral less 1", worst([total])],
        [f"exact model: mean -log p less the entropy of {found['entropy']['nats'][0]:.1f} nats", worst([found["entropy"]["nats_off"]])],
        ["exact model: bound less -log p of level 0, nats", worst(map(abs, bound["gaps"][:3]))],
        [f"other models: the same, {min(bound['gaps'][3:]):.1f} to {max(bound['gaps']):.1f} nats, less the KL", worst([bound["nats_off"]])],
        ["score denoising less the posterior mean of the data", worst([found["denoising"]["off"]])],
        ["guidance less the product of powers of densities, w = 0.25, 1, 4", worst(found["guidance"].values())],
        [f"forward chain, {draws}: covariances, in units of the law's", f"{found['chain']['covariance_off']:.3f}"],
        [f"sampler, {draws}: covariances, in units of the law's", f"{found['sampling']['covariance_off']:.3f}"],
        [f"Euler, exact velocity, 16, 64, 512 steps (order {euler['order']:.2f})", " · ".join(f"{euler['off'][n]:.3f}" for n in ("16", "64", "512"))],
    ]  # fmt: skip
    return grid(["law", "off by at most"], rows)


def block():
    """Everything between the two marks of docs/trust.md."""
    found = json.loads(RESULTS.read_text())
    parts = [
        sentences(found),
        "Total variation from the data law, three positions of three tokens, true posterior, n = 1 (mean of four joint laws):",
        jumps(found),
        "Choosing one of K candidates of a midpoint by the exact density ratio: total variation from the true joint law. `boltzmann` is "
        "importance resampling and tends to it; `argmin` goes past it:",
        selections(found),
        "The student's target against the exact h-step transition (total variation per position, mean of three joint laws, t = 1/4; K = 8 "
        "where shaped, compass at its optimum):",
        targets(found),
        "Students of whole trajectories (8 midpoints, K = 8, compass at its optimum) against their teacher at the same steps: total variation "
        "from the data law:",
        students(found),
        "The second method, NTM, in float32: random networks against autodiff and quadrature, and linear models against Gaussian data, for which "
        "entropy, bound, posterior mean and samples are known in closed form (three numbers, four steps):",
        trajectory_models(found["ntm"]),
    ]
    return "\n\n".join(parts) + "\n"


def place(page, text):
    """The page with the block between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    file = ROOT / "docs/trust.md"
    file.write_text(place(file.read_text(), block()))
