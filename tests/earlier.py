"""Work directories as an earlier version of the code left them: fingerprints and figures, and no identities."""

import json
import os

from tsdfm_jax.config import settings
from tsdfm_jax.data import corpus
from tsdfm_jax.storage import atomic


def finish(directory, fingerprint, figures):
    """Write the done.json of a stage."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "done.json").write_text(json.dumps({"fingerprint": fingerprint, "figures": figures}, indent=1))


def make(config, workdir):
    """Turn a finished work directory of a config into one of an earlier version; files keep their times."""
    manifest = workdir / "data/manifest.json"  # which knew the text by its files' times
    body = {**atomic.read_if_sealed(manifest), "corpus": corpus.fingerprint(settings.corpus_config(config))}
    times = os.stat(manifest)
    atomic.write_sealed(manifest, body)
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))
    for file in sorted(workdir.rglob("done.json")):
        body = json.loads(file.read_text())
        if file.parent.parent.name.startswith("round_"):  # one record served both sets of a round
            for name in ("done.json", "fingerprint.json", "seconds.json"):
                (file.parent / name).unlink()
            continue
        fingerprint = body["fingerprint"]
        if file.parent.name == "compass":
            for key, value in body["made_of"]["figure_keys"].items():
                fingerprint["compass"][key.removeprefix("compass.")] = value
        rewrite(file, {"fingerprint": fingerprint, "figures": body["figures"]})
        if file.with_name("fingerprint.json").exists():
            rewrite(file.with_name("fingerprint.json"), fingerprint)
    for file in workdir.rglob("model/meta.json"):
        rewrite(file, {name: value for name, value in json.loads(file.read_text()).items() if name != "network"})
    for file in (*workdir.glob("samples/*.json"), *workdir.glob("evaluate/*.json")):
        body = json.loads(file.read_text())
        if "judges" in body:
            hashes = {row["judge_identity"]: row["judge_hash"] for row in json.loads((workdir / "evaluate/rows.json").read_text())}
            body["judges"] = {hashes[identity]: scores for identity, scores in body["judges"].items()}
            body |= {"features": {hashes[name]: one["figures"] for name, one in body["features"].items()}, "sha256": None}
        for name in ("made_of", "texts") if file.parent.name == "samples" else ("of",) if isinstance(body, dict) else ():
            body.pop(name, None)
        if file.parent.name == "samples":
            body.pop("sha256", None)
        rewrite(file, body)
    rows = workdir / "evaluate/rows.json"
    rewrite(rows, [{k: v for k, v in row.items() if k != "judge_identity"} for row in json.loads(rows.read_text())])
    bounds = workdir / "evaluate/bounds.json"
    rewrite(bounds, {name: one["bits_per_byte"] for name, one in json.loads(bounds.read_text()).items() if isinstance(one, dict)})
    for name in ("report/done.json", "report/fingerprint.json", "report/seconds.json", "commands.jsonl", "samples/sample.json"):
        (workdir / name).unlink(missing_ok=True)


def rewrite(file, body):
    """Write a JSON file and keep its time."""
    times = os.stat(file)
    file.write_text(json.dumps(body, indent=1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
