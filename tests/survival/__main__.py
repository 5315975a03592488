"""Does to training runs what machines do to them, many times, and counts what comes of it.

    PYTHONPATH=tests python -m survival                                  all of it; goes on where it was stopped
    PYTHONPATH=tests python -m survival --fault "disk full" --seed 3     one trial again, with its error

Every trial is one run under one fault (see faults.py), and has to end with the bits of the same run undisturbed. Where
it was killed in lines of Python, the same seed kills it there again; "killed at any time" goes by the clock.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from rich.progress import track

import regrow
from regrow.io.atomic import write_atomically
from regrow.lab.training.folder import RunFolder

from .disk import Unavailable
from .faults import FAULTS
from .runs import VARIANTS
from .trial import Bench, Trial

RESULTS = Path(__file__).resolve().parents[2] / "results" / "survival.json"
WORK = Path("runs") / "survival"
TRIALS = "trials.jsonl"
COMMAND = "make survival"


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="survival", description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fault", choices=FAULTS, metavar="NAME", help="of a single trial: " + ", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0, help="of a single trial (default 0)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="result file (default results/survival.json)")
    return parser.parse_args()


def make_trial(bench: Bench, fault: str, number: int) -> Trial:
    """The trial of that number: its variant in turn, its seed from both."""
    variant = list(VARIANTS)[number % len(VARIANTS)]
    out = bench.folder / "trials" / f"{fault.replace(' ', '-')}-{number}"
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    return Trial(bench, variant, f"{fault}, {number}", out)


def outcome(bench: Bench, fault: str, number: int) -> dict[str, Any]:
    """What was done in a trial, and what came of it."""
    trial, lost = make_trial(bench, fault, number), None
    try:
        FAULTS[fault].happen(trial)
    except Unavailable as reason:
        return {"fault": fault, "seed": number, "unavailable": str(reason)}
    except Exception as error:
        lost = f"{type(error).__name__}: {error}"
    return {
        "fault": fault,
        "seed": number,
        "run": trial.variant,
        "kills": trial.kills,
        "events": trial.events,
        "causes": trial.causes,
        "lost": lost,
    }


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each fault: how often it happened, and what came of it."""
    lines = []
    for fault in FAULTS:
        tried = [row for row in rows if row["fault"] == fault and "unavailable" not in row]
        lost = sum(row["lost"] is not None for row in tried)
        lines.append(
            {
                "fault": fault,
                "trials": len(tried),
                "kills": sum(row["kills"] for row in tried),
                "stopped_with_cause": sum(len(row["causes"]) for row in tried),
                "same_bits": len(tried) - lost,
                "lost": lost,
            }
        )
    return lines


def main() -> int:
    chosen = arguments()
    torch.set_num_threads(1)
    if chosen.fault:
        trial = make_trial(Bench(Path(mkdtemp(prefix="survival-"))), chosen.fault, chosen.seed)
        print(f"{trial.variant}, in {trial.out}")
        FAULTS[chosen.fault].happen(trial)
        print(*trial.events, *trial.causes, sep="\n")
        return 0
    bench = Bench(WORK)
    record = RunFolder(WORK)
    rows = record.rows(TRIALS) if (WORK / TRIALS).exists() else []
    done = {(row["fault"], row["seed"]) for row in rows}
    # the first of each fault first, so that what is broken shows early
    all_trials = sorted(((fault, n) for fault in FAULTS for n in range(FAULTS[fault].trials)), key=lambda pair: pair[1])
    for fault, number in track([pair for pair in all_trials if pair not in done], "trials"):
        row = outcome(bench, fault, number)
        record.append(TRIALS, [row])
        rows.append(row)
    return finish(rows, chosen.results)


def finish(rows: Sequence[dict[str, Any]], results: Path) -> int:
    """Writes the result file and says what is in it; exit code 1 where a run was lost."""
    lines = table(rows)
    totals = {key: sum(line[key] for line in lines) for key in ("trials", "kills", "lost")}
    content = {
        "command": COMMAND,
        "regrow": regrow.__version__,
        "torch": str(torch.__version__),
        **totals,
        "unavailable": sorted({f"{row['fault']}: {row['unavailable']}" for row in rows if "unavailable" in row}),
        "table": lines,
        "rows": rows,
    }
    with write_atomically(results) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    shutil.rmtree(WORK)  # the next call begins anew
    print(f"{totals['trials']} trials, {totals['kills']} kills, {totals['lost']} lost: {results}")
    for row in rows:
        if row.get("lost"):
            print(f"LOST: {row['fault']}, seed {row['seed']}: {row['lost']}")
    return 1 if totals["lost"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
