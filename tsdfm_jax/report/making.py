"""The section on how the report was made, as HTML: command, commit, environment, stages, judges and config."""

from html import escape

from tsdfm_jax.report import cells, shell


def made(report):
    """All parts that a reader needs to reproduce the report; parts without data are left out."""
    parts = (sources(report), text(report), stages(report), judges(report), config(report))
    return "".join(parts)


def sources(report):
    """Command, commit and environment."""
    facts = {key: report.get(key) for key in ("command", "commit")} | (report.get("environment") or {})
    facts = {key: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for key, v in facts.items() if v is not None}
    if not facts:
        return ""
    lines = "".join(f"<div><dt>{escape(str(key))}</dt><dd>{escape(str(v))}</dd></div>" for key, v in facts.items())
    return f'<dl class="facts">{lines}</dl>'


def text(report):
    """What the tokenizer loses of a sample of the corpus; reports of older versions do not say."""
    found = ((report.get("stages") or {}).get("tokenizer") or {}).get("text")
    if not found:
        return ""
    share, unknown = found["lost_bytes"] / max(found["bytes"], 1), found["unknown_tokens"] / max(found["tokens"], 1)
    line = f"The tokenizer gives back {'all' if not found['lost_bytes'] else f'{1 - share:.2%}'} of {found['bytes']:,} bytes of the corpus"
    line += f"; lost to {found['cause']}" if found["lost_bytes"] else ""
    return f'<p class="note">{escape(line)}; {unknown:.2g} of its tokens are unknown.</p>'


def duration(seconds):
    """A duration as text, such as 45 s, 12 min 30 s or 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def stages(report, columns=("seconds", "share_of_time", "tokens_per_second", "peak_memory_bytes")):
    """Figures of every stage: time, share of time, speed and peak memory, or other keys of STAGE_COLUMNS."""
    stage_figures = report.get("stages") or {}
    if not stage_figures:
        return ""
    lines = []
    for name, f in stage_figures.items():
        values = (STAGE_COLUMNS[key][1](f[key]) if cells.number(f.get(key)) else "–" for key in columns)
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>')
    return folded("Stages", grid("Stages", ("stage", *(STAGE_COLUMNS[key][0] for key in columns)), lines))


STAGE_COLUMNS = {  # figure of a stage → heading, how it is written
    "parameters": ("parameters", "{:,.0f}".format),
    "seconds": ("time", duration),
    "share_of_time": ("share of time", "{:.0%}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "images_per_second": ("images/s", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory", lambda n: f"{n / 2**30:.1f} GiB"),
}


def judges(report):
    """Size, tokenizer, BOS, context and hash of each judge."""
    lines = []
    for name, row in cells.judges(report).items():
        size, bos = row.get("judge_parameters"), row.get("judge_bos")
        values = (
            f"{size:,}" if cells.number(size) else "–",
            short(row.get("judge_tokenizer")),
            "–" if bos is None else escape(str(bos)),
            "–" if row.get("judge_context") is None else escape(str(row["judge_context"])),
            short(row.get("judge_hash")),
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{v}</td>" for v in values)}</tr>')
    return folded("Judges", grid("Judges", ("judge", "parameters", "tokenizer", "BOS", "context", "hash"), lines)) if lines else ""


def short(value):
    """The first characters of a hash, with the whole hash as tooltip."""
    if value is None:
        return "–"
    value = str(value)
    return f'<code title="{escape(value)}">{escape(value[:10])}</code>' if len(value) > 12 else f"<code>{escape(value)}</code>"


def config(report):
    """Every config key and its value."""
    flat = dict(flatten(report.get("config") or {}))
    if not flat:
        return ""
    lines = [
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td><code>{escape(v)}</code></td></tr>' for key, v in flat.items()
    ]
    return folded("Config", grid("Config", ("key", "value"), lines, kind="keys"))


def flatten(value, prefix=""):
    """Dotted keys and their values as text."""
    for key, v in value.items():
        if isinstance(v, dict):
            yield from flatten(v, f"{prefix}{key}.")
        else:
            yield prefix + str(key), ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else "''" if v == "" else str(v)


def grid(name, heads, lines, kind="small"):
    """A plain table in its own scrolling box."""
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    return shell.scroller(name, f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>')


def folded(title, content):
    """A part that is closed until the reader opens it."""
    return f"<details><summary>{title}</summary>{content}</details>"
