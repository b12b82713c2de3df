"""The traces as the viewer reads them: of each state and candidate only the tokens that changed, with their energies."""

import json
import math


def pack(traces):
    """Traces with every state and candidate as a difference from the state before it.

    A difference is {"at": positions, "to": tokens, "energy": their token energies or null}. A state's energies are those
    of the candidate that it took each token from: the kept one where that has it, else the lowest of those that have it.
    Raises ValueError where a state or a candidate is not as long as the noise that its trajectory starts from.
    """
    out = {key: traces.get(key) for key in ("tau", "policy")}
    out["vocabulary"] = {str(token): shown for token, shown in traces["vocabulary"].items()}
    out["trajectories"] = [trajectory(t) for t in traces.get("trajectories") or [] if t["midpoints"]]
    out["students"] = [student(s) for s in traces.get("students") or [] if len(s["states"]) > 1]
    return out


def changes(before, after, energy=None):
    """Where two states of one length differ, what then stands there, and its energy."""
    if len(before) != len(after):
        raise ValueError(f"a state of {len(after)} tokens follows one of {len(before)}: write the traces of one run again, whole")
    at = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    return {"at": at, "to": [after[i] for i in at], "energy": [energy[i] for i in at] if energy else None}


def trajectory(t):
    """One trajectory: its noise, and at each midpoint the candidates and what was kept."""
    before, midpoints = t["start"], []
    for m in t["midpoints"]:
        candidates, energies = m.get("candidates") or [], m.get("token_energy") or []
        packed = {"time": m["time"], "shaped": m.get("shaped", True), "kept": m.get("kept"), "energy": m.get("energy")}
        packed["candidates"] = [changes(before, c, energies[k] if k < len(energies) else None) for k, c in enumerate(candidates)]
        packed["state"] = changes(before, m["state"], taken(m, candidates, energies))
        midpoints.append(packed)
        before = m["state"]
    return {"record": t["record"], "start": t["start"], "midpoints": midpoints}


def taken(m, candidates, energies):
    """Token energies of a state, each from the candidate that has the token; None where nothing is known of them."""
    if not energies:
        return None
    kept = m.get("kept") or 0
    out = []
    for i, token in enumerate(m["state"]):
        having = [energies[k][i] for k, c in enumerate(candidates) if c[i] == token and energies[k][i] is not None]
        own = candidates[kept][i] == token
        out.append(energies[kept][i] if own else min(having, default=None))
    return out


def student(s):
    """One text of a student: its noise, and what each step changed."""
    steps = [changes(a, b) | {"time": time} for a, b, time in zip(s["states"], s["states"][1:], s["times"][1:])]
    head = {key: s.get(key) for key in ("model", "index", "seed")}
    return head | {"start": s["states"][0], "time": s["times"][0], "steps": steps}


def script_json(value):
    """JSON that stands inside a script element and cannot leave it: `<`, `>` and `&` escaped, no NaN."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite(value):
    """The same value with null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
