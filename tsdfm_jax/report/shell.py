"""The frame of every report page: one HTML file with styles, sections, data and scripts, which opens from disk without a network."""

import pathlib
import re
import string
from html import escape

HERE = pathlib.Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(path, text):
    """Write a page whole or not at all: no reader sees a part of it."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def frame(method, heading, answer, sections, data=None, scripts=(), policy=POLICY):
    """A page as a string.

    `method` stands above the heading and in the title, `answer` is HTML below the heading, `sections` is {id: (heading, HTML)};
    sections without HTML are left out. `data` is JSON that is safe inside a script element (`pack.script_json`) or None,
    `scripts` are the files that read it, and `policy` is what the browser may load.
    """
    kept = {name: part for name, part in sections.items() if part[1]}
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{title}</h2>{content}</section>'
        for name, (title, content) in kept.items()
    ]
    return string.Template(read("template.html")).substitute(
        method=method,
        heading=heading,
        policy=policy,
        style=read("page.css"),
        answer=answer,
        links="".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in kept.items()),
        sections="\n".join(parts),
        data=f'<script type="application/json" id="traces">{data}</script>' if data else "",
        script=f"<script>{''.join(map(read, scripts))}</script>" if data else "",
    )


def verdict(text):
    """The verdict with its ratios (×0.78) in bold; "" if there is none."""
    if not text:
        return ""
    marked = re.sub(r"×\d+(\.\d+)?", lambda m: f"<b>{m[0]}</b>", escape(text))
    return f'<p class="verdict">{marked}</p>'


def read(name):
    """Text of a file in this directory."""
    return (HERE / name).read_text(encoding="utf-8")


def viewer(name, choice, step):
    """HTML of a viewer: the file `name`, with controls that choose one of several (`choice`) and walk through its steps (`step`)."""
    controls = string.Template(read("controls.html")).substitute(choice=choice, step=step, capital=step.capitalize())
    return string.Template(read(name)).substitute(controls=controls.rstrip("\n"))


def scroller(name, content):
    """A scrolling box for content wider than a phone's screen."""
    return f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{content}</div>'


def panels(drawings):
    """Figures (title, SVG) side by side, or in one column on a phone."""
    html = "".join(f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>" for title, drawing in drawings)
    return f'<div class="panels">{html}</div>'
