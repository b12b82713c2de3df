"""What a run leaves behind, as far as it says something about models and texts, and how two runs differ in that."""

import hashlib
import json

# What two runs of one config may differ in: times, costs, and how the command was typed.
TIMES = {"seconds", "compile_seconds", "compilations", "from_cache", "recompilations", "seconds_to_first_step", "share_of_time"}
TIMES |= {
    "tokens_per_second",
    "records_per_second",
    "device_busy",
    "peak_memory_bytes",
    "costs",
    "commit",
    "command",
    "environment",
}
RESULTS = (".array_record", ".model", ".txt", ".npy")  # ends of the files whose bytes are results


def read(workdir):
    """{name: value} of every network, record, text and number of a finished run, causes before effects."""
    found = {}
    for room in ("tokenizer", "data", "trajectories"):
        for file in sorted((workdir / room).rglob("*")):
            if file.suffix in RESULTS and not file.name.startswith("."):
                found[str(file.relative_to(workdir))] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(workdir.rglob("model/meta.json")):
        found[f"{file.parent.relative_to(workdir)}: hash"] = json.loads(file.read_text())["hash"]
    for file in sorted(workdir.glob("samples/*.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[f"samples/{file.name}"] = [dict(flat(line)) for line in lines]
    found |= {f"config/{name}": value for name, value in flat(json.loads((workdir / "config.json").read_text()))}
    report = json.loads((workdir / "report/report.json").read_text())
    return found | {f"report/{name}": value for name, value in flat(report)}


def flat(tree, prefix=""):
    """Yield (name, value) of every leaf of a JSON tree that is not a time."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, value in items:
        if name in TIMES:
            continue
        if isinstance(value, (dict, list)) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(found, expected):
    """Lines that name what a fresh run has otherwise; files and texts that only the older run has are no difference."""
    lines = []
    for name, value in expected.items():
        other = found.get(name, "nothing")
        if other != value and not (other != other and value != value):  # NaN is NaN
            lines.append(f"{name}: {short(other)}, not {short(value)} as in a fresh run")
    extra = [name for name in found if name not in expected and name.startswith(("report/", "config/"))]
    return lines + [f"{name}: {short(found[name])}, which no fresh run has" for name in extra]


def short(value, limit=60):
    """A value in a few characters."""
    return text if len(text := json.dumps(value)) <= limit else text[: limit - 1] + "…"
