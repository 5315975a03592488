"""Tables of the race."""

from __future__ import annotations

from .reading import markdown, plus_minus, read


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def race(task: str) -> str:
    """The points of all frontiers, and how much sooner the sparse one is as good."""
    result = read(f"race_{task}")
    sooner = {(row["against"], row["epochs"]): row for row in result["verdict"]}
    rows = []
    for point in sorted(result["points"], key=lambda point: (point["contender"], point["seconds"])):
        found = sooner.get((point["contender"], point["epochs"]))
        answer = ""
        if found:
            answer = "never as good"
            if found["times_faster"]:
                answer = f"{found['sparse_seconds']:.1f} ({found['times_faster']:.2f} times as fast)"
        rows.append(
            [
                point["contender"],
                f"{point['epochs']:g}",
                plus_minus(point["error"], point["standard_error"]),
                f"{point['seconds']:.1f}",
                answer,
            ]
        )
    unit = "test error, %" if result["measure"] == "error" else "test loss, nats"
    table = markdown(["contender", "epochs", unit, "seconds", "seconds until sparse is as good"], rows)
    return f"{table}\n\n{_settings(result)}"


def _settings(result: dict) -> str:
    """The winners among the trials, and the command."""
    lines = []
    for contender in dict.fromkeys(trial["contender"] for trial in result["trials"]):
        trials = [trial for trial in result["trials"] if trial["contender"] == contender]
        best = min(trials, key=lambda trial: trial["validation"])
        chosen = ", ".join(f"{name} {_setting(value)}" for name, value in best["settings"].items())
        spread = f"{best['validation']:.2f} to {max(trial['validation'] for trial in trials):.2f} in validation"
        lines.append(f"- {contender}: {chosen} (of {len(trials)} trials, {spread}).")
    runs = [run for run in result["frontier"] if run["contender"] == "sparse"]
    weights = f"The sparse network has {runs[0]['active']:,} of {runs[0]['positions']:,} weights. " if runs else ""
    seeds = len({run["seed"] for run in result["frontier"]})
    forms = sorted({row["form"] for row in result["times"]})
    threads = result["times"][0]["threads"]
    about = f"{weights}{seeds} seeds; {result['processor']}, {threads} threads; forms: {', '.join(forms)}. "
    return "\n".join(lines) + f"\n\n{about}`{result['command']}`"
