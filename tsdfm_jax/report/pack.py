"""Pack traces for the viewer: for each state and candidate only the tokens that changed, with their energies."""

from tsdfm_jax.storage import atomic


def pack(traces):
    """Traces with every state and candidate as a difference from the previous state.

    A difference is {"at": positions, "to": tokens, "energy": their token energies or null}. A state's token energies come
    from the candidate with that token: the kept one if it has the token, else the lowest of the others that have it.
    Raises ValueError if a state or a candidate differs in length from its trajectory's noise.
    """
    out = {key: traces.get(key) for key in ("tau", "policy")}
    out["vocabulary"] = {str(token): shown for token, shown in traces["vocabulary"].items()}
    out["trajectories"] = [trajectory(t) for t in traces.get("trajectories") or [] if t["midpoints"]]
    out["students"] = [student(s) for s in traces.get("students") or [] if len(s["states"]) > 1]
    return out


def changes(before, after, energy=None):
    """The difference of two states: positions, new tokens, and their energies; ValueError if the lengths differ."""
    if len(before) != len(after):
        raise ValueError(f"a state of {len(after)} tokens follows one of {len(before)}: write the traces of one run again, whole")
    at = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    return {"at": at, "to": [after[i] for i in at], "energy": [energy[i] for i in at] if energy else None}


def trajectory(t):
    """One trajectory: its noise, and at each midpoint the candidates and the kept state."""
    before, midpoints = t["start"], []
    for m in t["midpoints"]:
        candidates, energies = m.get("candidates") or [], m.get("token_energy") or []
        packed = {"time": m["time"], "shaped": m.get("shaped", True), "kept": m.get("kept"), "energy": m.get("energy")}
        packed["candidates"] = [changes(before, c, energies[k] if k < len(energies) else None) for k, c in enumerate(candidates)]
        packed["state"] = changes(before, m["state"], token_energies(m, candidates, energies))
        midpoints.append(packed)
        before = m["state"]
    return {"record": t["record"], "start": t["start"], "midpoints": midpoints}


def token_energies(m, candidates, energies):
    """Token energies of a state, each from a candidate that has the token; None if there are no token energies."""
    if not energies:
        return None
    kept = m.get("kept") or 0
    out = []
    for i, token in enumerate(m["state"]):
        known = [energies[k][i] for k, c in enumerate(candidates) if c[i] == token and energies[k][i] is not None]
        in_kept = candidates[kept][i] == token
        out.append(energies[kept][i] if in_kept else min(known, default=None))
    return out


def student(s):
    """One text of a student: its noise, and the changes of each step."""
    steps = [changes(a, b) | {"time": time} for a, b, time in zip(s["states"], s["states"][1:], s["times"][1:])]
    head = {key: s.get(key) for key in ("model", "index", "seed")}
    return head | {"start": s["states"][0], "time": s["times"][0], "steps": steps}


def script_json(value):
    """JSON that is safe inside a script element: `<`, `>` and `&` escaped, null for NaN."""
    text = atomic.json_text(atomic.finite(value), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
