"""The state of a run on the terminal: each artefact, whether it is whole, why not, and how long it took last time."""

import pathlib

import rich.console
import rich.markup
import rich.table

from tsdfm_jax.lineage.states import Kind
from tsdfm_jax.workspace import plan, record

STYLES = {Kind.DONE: "green", Kind.STALE: "red", Kind.DAMAGED: "red", Kind.MORE: "yellow", Kind.UNFINISHED: "yellow"}


def lines(state):
    """(name, state, why, seconds of its last time) of each artefact."""
    for name, one in state.states.items():
        why = [*one.reasons, *(f"{cause} would be another" for cause in one.because)]
        seconds = one.record["figures"].get("seconds") if one.record else None
        yield name, one.kind, "; ".join(why), seconds


def show(config, workdir):
    """Print the state of a work directory under a config, and return whether nothing is stale or damaged; changes nothing.

    Raises ValueError if there is no such directory.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"no work directory '{workdir}': give the --workdir of a run")
    record.require_method(config, workdir)
    state = plan.make(config, workdir, change=False)
    console = rich.console.Console(width=None if rich.console.Console().is_terminal else 160)
    table = rich.table.Table(title=f"{workdir}")
    for column in ("made", "state", "why", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for name, kind, why, seconds in lines(state):
        style = STYLES.get(kind, "dim")
        shown = "-" if seconds is None else f"{seconds:,.0f}"
        table.add_row(name, f"[{style}]{kind.value}[/{style}]", rich.markup.escape(why), shown)
    console.print(table)
    remade = state.refusal(state.states)
    bad = [name for name, one in state.states.items() if one.kind in (Kind.STALE, Kind.DAMAGED)]
    console.print(
        remade or ("nothing is stale" if not bad else f"the next run makes {', '.join(bad)} again"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return not bad
