"""Write the page: one HTML file with styles, figures, data and viewer, which opens from disk without a network."""

import pathlib
import string

from tsdfm_jax.report import making, pack, sections

HERE = pathlib.Path(__file__).parent
SECTIONS = {  # id → heading, function that makes it
    "table": ("Metrics", sections.table),
    "perplexity": ("Perplexity", sections.perplexity),
    "training": ("Training", sections.training),
    "compass": ("The compass", sections.compass),
    "energies": ("Candidate energies", sections.energies),
    "viewer": ("Trajectories", None),
    "students": ("Student sampling steps", None),
    "making": ("How this report was made", making.made),
}


def write(path, report, traces):
    """Write the page of a report to `path`; the same report and traces give the same bytes.

    `report` is the dict of report.json (schema 1 or 2), `traces` the dict of traces.json, or None. Sections without data are
    left out. Raises ValueError for a report of another schema, and for traces with states of different lengths.
    """
    schema = report.get("schema")
    if schema not in (1, 2):
        raise ValueError(f"report.json has schema {schema!r}, the page knows 1 and 2: run the stage report again with this version")
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page(report, traces), encoding="utf-8")
    partial.replace(path)


def page(report, traces):
    """The page as a string."""
    packed = pack.pack(traces) if traces else {}
    shown = {"viewer": packed.get("trajectories"), "students": packed.get("students")}
    parts, links = [], []
    for name, (heading, make) in SECTIONS.items():
        content = make(report) if make else read(f"{name}.html") if shown[name] else ""
        if content:
            parts.append(
                f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{heading}</h2>{content}</section>'
            )
            links.append(f'<a href="#{name}">{heading}</a>')
    viewing = any(shown.values())
    data = pack.script_json(packed) if viewing else "null"
    return string.Template(read("template.html")).substitute(
        style=read("page.css"),
        answer=sections.answer(report),
        links="".join(links),
        sections="\n".join(parts),
        data=f'<script type="application/json" id="traces">{data}</script>' if viewing else "",
        script=f"<script>{read('viewer.js')}</script>" if viewing else "",
    )


def read(name):
    """Text of a file in this directory."""
    return (HERE / name).read_text(encoding="utf-8")
