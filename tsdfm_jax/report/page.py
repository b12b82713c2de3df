"""Write the page: one HTML file with styles, figures, data and viewer, which opens from disk without a network."""

from tsdfm_jax.report import making, pack, sections, shell

SECTIONS = {  # id → heading, function that makes it
    "table": ("Metrics", sections.table),
    "perplexity": ("Perplexity", sections.perplexity),
    "training": ("Training", sections.training),
    "compass": ("The compass", sections.compass),
    "energies": ("Candidate energies", sections.energies),
}


def write(path, report, traces):
    """Write the page of a report to `path`; the same report and traces give the same bytes.

    `report` is the dict of report.json (schema 1 or 2), `traces` the dict of traces.json, or None. Sections without data are
    left out. Raises ValueError for a report of another schema, and for traces with states of different lengths.
    """
    schema = report.get("schema")
    if schema not in (1, 2):
        raise ValueError(f"report.json has schema {schema!r}, the page knows 1 and 2: run the stage report again with this version")
    shell.write(path, page(report, traces))


def page(report, traces):
    """The page as a string."""
    packed = pack.pack(traces) if traces else {}
    parts = {name: (heading, make(report)) for name, (heading, make) in SECTIONS.items()}
    if packed.get("trajectories"):
        parts["viewer"] = ("Trajectories", shell.viewer("viewer.html", choice="Trajectory", step="midpoint"))
    if packed.get("students"):
        parts["students"] = ("Student sampling steps", shell.viewer("students.html", choice="Text", step="step"))
    parts["making"] = ("How this report was made", making.made(report))
    viewing = packed.get("trajectories") or packed.get("students")
    return shell.frame(
        "Trajectory-Shaped Discrete Flow Matching",
        "Does trajectory shaping train a better few-step student?",
        sections.answer(report),
        parts,
        data=pack.script_json(packed) if viewing else None,
        scripts=("walker.js", "viewer.js"),
    )
