"""The page's sections as HTML; each function takes the report and gives "" if there is no data. All text is escaped."""

from html import escape

from tsdfm_jax.report import cells, figures, shell, svg

COLUMNS = {  # field → heading, decimals, description
    "entropy_nats": ("entropy, nats", 2, "entropy of a text's token histogram, mean over texts"),
    "distinct_1": ("distinct-1", 2, "distinct tokens over all tokens"),
    "distinct_2": ("distinct-2", 2, "distinct 2-grams over all 2-grams"),
    "distinct_3": ("distinct-3", 2, "distinct 3-grams over all 3-grams"),
    "repetition_4": ("repetition-4", 3, "share of 4-grams that occur earlier in the same text"),
    "lexical": ("lexical", 2, "share of words that occur in the training text"),
    "mauve": ("mauve", 3, "area under the divergence frontier against held-out text; 1 is best"),
    "frechet": ("Fréchet", 3, "Fréchet distance to held-out text in a judge's features; 0 is best"),
    "tokens_per_second": ("tokens/s", 0, "sampled tokens a second, without compilation"),
}


def answer(report):
    """The verdict with its ratios in bold, and its caveat."""
    verdict = shell.verdict(report.get("verdict"))
    return verdict and verdict + caveat(report)


def caveat(report):
    """The evidence for the verdict: seeds, texts, and the entropies beside the perplexities."""
    table = cells.gather(report)
    models = [m for m in ("student_shaped", "student_blind", "autoregressive") if any(c.model == m for c in table)]
    if not models:
        return ""
    first = [c for c in table if c.model == models[0]]
    cell = next((c for c in first if c.steps == 8), first[-1])
    others = [c for c in table if c.model in models[1:] and c.steps == cell.steps] + [c for c in table if c.model == "data"]
    seeds = "one seed" if cell.seeds == 1 else f"{cell.seeds} seeds"
    each = "each" if cell.seeds == 1 else "each seed,"
    sentence = f"Based on {seeds}: {cell.samples:,} texts of {cell.length} tokens for {each} model and number of steps."
    known = [c for c in (cell, *others) if "entropy_nats" in c.fields]
    if len(known) > 1 and known[0] is cell:
        entropies = ", ".join(f"{c.fields['entropy_nats'].value:.2f} nats ({cells.label(c.model)})" for c in known)
        sentence += f" Entropy at {cell.steps} step{'s' * (cell.steps != 1)}: {entropies}. Lower entropy means less diverse text, which lowers perplexity too."
    return f'<p class="caveat">{escape(sentence)}</p>'


def table(report):
    """The table of metrics: a line for each model and number of steps; text without steps is set apart."""
    lines = cells.gather(report)
    if not lines:
        return ""
    judges, known = cells.judges(report), [c.model for c in lines]
    columns = {name: column for name, column in COLUMNS.items() if any(name in c.fields for c in lines)}
    head = "".join(f'<th scope="col" title="{escape(what)}">{escape(title)}</th>' for title, _, what in columns.values())
    head = (
        "".join(f'<th scope="col" title="{escape(n)}">{escape("ppl, " + cells.judge_label(n, r))}</th>' for n, r in judges.items())
        + head
    )
    bodies, last = [], None
    for c in lines:
        group = "text" if c.steps == 0 else c.model
        bodies += ["</tbody>"] * (last is not None and group != last) + [
            f'<tbody class="{"apart" if c.steps == 0 else "made"}">'
        ] * (group != last)
        last = group
        bodies.append(line(c, judges, columns, known))
    head = f'<tr><th scope="col">text</th><th scope="col">steps</th>{head}</tr>'
    return shell.scroller("Metrics", f"<table><thead>{head}</thead>{''.join(bodies)}</tbody></table>") + table_note(report, lines)


def line(c, judges, columns, known):
    """One row of the table."""
    values = [value(c.ppl.get(name), 1) for name in judges]
    for name, (_, decimals, _) in columns.items():
        m = c.fields.get(name)
        if name == "mauve" and m and m.spread is None and "mauve_spread" in c.fields:
            m = m._replace(spread=c.fields["mauve_spread"].value)
        values.append(value(m, decimals))
    steps = f"{c.steps:,}" if c.steps else "–"
    return f'<tr><th scope="row">{swatch(c.model, known)}</th><td>{steps}</td>{"".join(f"<td>{v}</td>" for v in values)}</tr>'


def value(m, decimals):
    """A mean with its standard deviation, as HTML."""
    if m is None:
        return "–"
    spread = f' <span class="spread">± {m.spread:,.{decimals}f}</span>' if m.spread is not None else ""
    return f"{m.value:,.{0 if m.value >= 1000 else decimals}f}{spread}"


def plain(x, decimals):
    """A number as HTML; a dash for one that is missing."""
    return f"{x:,.{decimals}f}" if cells.number(x) else "–"


def table_note(report, lines):
    """The note below the table: settings that all rows share."""
    row = report["rows"][0]
    facts = [
        f"source {row.get('source')}",
        f"jump {row.get('jump')}",
        f"temperature {row.get('temperature')}",
        f"{row.get('dtype')}",
    ]
    seeds = max(c.seeds for c in lines)
    facts.append(f"means over {seeds} seeds ± standard deviation" if seeds > 1 else "one seed")
    return f'<p class="note">Generative perplexity (<code>ppl_token</code>) is exp of a judge\'s mean NLL per token; {escape(", ".join(facts))}.</p>'


def swatch(model, known):
    """A model's name with its colour."""
    kind = model if model in svg.MODELS else "other"
    return f'<span class="swatch {kind}" style="--c: {svg.variable(model, known)}">{escape(cells.label(model))}</span>'


def legend(report, models=None):
    """The models' names with their colours."""
    known = list(dict.fromkeys(c.model for c in cells.gather(report)))
    shown = [m for m in (models or known) if m != "unigram"]
    return '<p class="legend">' + "".join(swatch(m, known) for m in shown) + "</p>"


def perplexity(report):
    """Perplexity against steps, against entropy, and at matched entropy."""
    steps, entropy = figures.against_steps(report), figures.against_entropy(report)
    if not steps and not entropy:
        return ""
    out = legend(report)
    if steps:
        out += "<h3>against steps</h3>" + shell.panels(steps)
    if entropy:
        frontiers = report.get("frontiers")
        note = "Each curve is one model at one number of steps over temperature; bars are bootstrap intervals." if frontiers else ""
        note = note or "The number at each point is its number of steps."
        matched = " The dashed line is the entropy at which the models are compared." if report.get("matched") else ""
        out += f"<h3>against entropy</h3>{shell.panels(entropy)}<p class='note'>{note}{matched}</p>{at_entropy(report)}"
    return out


def at_entropy(report):
    """Sentences with the perplexities at matched entropy, one for each judge."""
    judges, out = cells.judges(report), {}
    for m in report.get("matched") or []:
        start = f"At the entropy of {m['entropy_of']} ({plain(m['entropy_nats'], 2)} nats), perplexity by the {cells.judge_label(m['judge'], judges.get(m['judge'], {}))}: "
        model = f"{cells.label(m['model'])} at {m['steps']:,} step{'s' * (m['steps'] != 1)}"
        interval = f" ({m['low']:.1f} to {m['high']:.1f})" if cells.number(m.get("low")) and cells.number(m.get("high")) else ""
        reached = f"{model} {m['ppl_token']:.1f}{interval}" if cells.number(m.get("ppl_token")) else f"{model} does not reach it"
        out.setdefault(start, []).append(reached)
    return "".join(f'<p class="matched">{escape(start)}{escape(", ".join(results))}.</p>' for start, results in out.items())


def training(report):
    """Held-out ELBO in bits per byte, and the training losses."""
    bounds = {name: v for name, v in (report.get("bounds") or {}).items() if cells.number(v)}
    drawn = figures.losses(report)
    out = ""
    if bounds:
        largest = max(bounds.values())
        bars = "".join(
            f'<div class="bar" style="--c: {svg.variable(m)}; --w: {100 * v / largest:.1f}%"><dt>{escape(cells.label(m))}</dt><dd>{v:.3f}</dd></div>'
            for m, v in bounds.items()
        )
        out += f"<h3>held-out ELBO, bits per byte (lower is better)</h3><dl class='bars'>{bars}</dl>"
        for m, remark in (report.get("bounds_exact") or {}).items():
            out += f'<p class="note">{escape(cells.label(m))}: {escape(remark)}.</p>'
    if drawn:
        models = [m for m in svg.OWN if m in bounds or not bounds and m != "autoregressive"]
        out += f"<h3>training loss</h3>{legend(report, models)}{shell.panels(drawn)}"
    return out


def compass(report):
    """The compass's accuracy and AUC, and the perplexity and entropy of texts that it steers."""
    metrics, drawn = report.get("compass") or {}, figures.compass(report)
    steered = metrics.get("steered") or []
    facts = [
        f"{what} {metrics[key]:.2f}" for key, what in (("accuracy", "accuracy"), ("auc", "AUC")) if cells.number(metrics.get(key))
    ]
    out = ""
    if drawn or facts:
        pairs = f" over {metrics['pairs']:,} held-out pairs" if cells.number(metrics.get("pairs")) else ""
        out += f"<p>Kind: <code>{escape(str(metrics.get('kind')))}</code>; {escape(', '.join(facts))}{pairs}.</p>"
    if drawn:
        out += '<p class="legend"><span class="swatch" style="--c: var(--accent)">accuracy</span><span class="swatch" style="--c: var(--soft)">AUC</span></p>'
        out += shell.panels(drawn)
    if steered:
        rows = "".join(
            f'<tr><th scope="row">{escape(str(r["selection"]))}</th><td>{plain(r["ppl_token"], 1)}</td><td>{plain(r["entropy_nats"], 2)}</td></tr>'
            for r in steered
        )
        head = '<tr><th scope="col">candidate kept</th><th scope="col">ppl, pilot judge</th><th scope="col">entropy, nats</th></tr>'
        out += f"<h3>teacher steered by the compass, {steered[0]['steps']} steps</h3>"
        out += shell.scroller(
            "Texts steered by the compass", f'<table class="small"><thead>{head}</thead><tbody>{rows}</tbody></table>'
        )
    return out


def energies(report):
    """The candidates' energies, and how often the first draw was kept."""
    drawn = figures.energies(report)
    if not drawn:
        return ""
    s = report["shaping"]
    kept = [p["first_kept"] for p in s["midpoints"] if cells.number(p.get("first_kept")) and p.get("shaped", True)]
    out = f"<p>{s['candidates']} candidates at each midpoint of {s['records']:,} trajectories. "
    out += (
        f"Where they were compared, the first draw was kept in <b>{sum(kept) / len(kept):.0%}</b> of cases.</p>" if kept else "</p>"
    )
    names = {
        "teacher": ("var(--soft)", "all candidates: range, mean"),
        "b": ("var(--blind)", "first draw"),
        "s": ("var(--shaped)", "kept candidate"),
    }
    keys = "".join(f'<span class="swatch" style="--c: {c}">{meaning}</span>' for c, meaning in names.values())
    return f'{out}<p class="legend">{keys}</p>{shell.panels(drawn)}'
