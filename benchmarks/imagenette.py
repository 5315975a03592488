"""resnet50-imagenette trained twice from one seed: undisturbed, and killed with SIGKILL once in every epoch.

A kill falls at a moment drawn from --seed, between the start of an epoch and as long as it took undisturbed; then the
same command goes on with --resume. The two end with the same bits, or this ends with an error. Writes
results/resnet50-imagenette.json.

    python benchmarks/imagenette.py --threads 2
    python benchmarks/imagenette.py --epochs 2 --density 0.1 --results /tmp/try --runs /tmp/try
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from grid import ROOT
from regrow.io.atomic import write_atomically
from regrow.lab.training.restored import load_network

RECIPE = "resnet50-imagenette"
CLOCKED = ("seconds", "wait", "rss")
"""Parts of the names of figures that two runs need not share."""


def arguments() -> argparse.Namespace:
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--density", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the run folders (default runs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder for the result file")
    return parser.parse_args()


def words(chosen: argparse.Namespace) -> list[str]:
    """Returns what `regrow train` is told."""
    given = ["train", RECIPE, "--density", f"{chosen.density:g}", "--epochs", str(chosen.epochs)]
    given += ["--threads", str(chosen.threads), "--workers", str(chosen.workers)]
    return given + (["--data-dir", chosen.data_dir] if chosen.data_dir else [])


def start(chosen: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "regrow.lab", *words(chosen), "--out", str(out), "--resume"]
    return subprocess.Popen(command, start_new_session=True)


def finish(chosen: argparse.Namespace, out: Path) -> None:
    if code := start(chosen, out).wait():
        sys.exit(f"regrow train ended with exit code {code}, see above; {out} has what was trained")


def epochs_of(out: Path) -> list[dict[str, Any]]:
    """The lines of the epochs that are finished."""
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kill_in_epoch(chosen: argparse.Namespace, out: Path, epoch: int, seconds: float) -> dict[str, float]:
    """Goes on with the run, and kills it so long after it began the epoch (counted from 0)."""
    process = start(chosen, out)
    while len(epochs_of(out)) < epoch and process.poll() is None:
        time.sleep(0.1)
    try:
        process.wait(seconds)
        sys.exit(f"the run ended by itself, before it was to be killed in epoch {epoch + 1}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"epoch": epoch + 1, "after_seconds": round(seconds, 1)}


def figures(out: Path) -> list[dict[str, Any]]:
    """Returns the figures of every epoch that two runs have in common."""
    lines = epochs_of(out)
    return [{key: value for key, value in line.items() if not any(part in key for part in CLOCKED)} for line in lines]


def same_bits(one: Path, other: Path) -> bool:
    """Returns whether two runs have the same figures after every epoch, and end with the same weights and topology."""
    ours, theirs = (load_network(run)[1].state_dict() for run in (one, other))
    same = ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    return same and figures(one) == figures(other)


def main() -> int:
    chosen = arguments()
    folder = chosen.runs / RECIPE
    whole, killed = folder / "undisturbed", folder / "killed"
    if killed.exists():
        sys.exit(f"there is {killed}; delete it, because its kills would be too few")
    finish(chosen, whole)
    draw = random.Random(chosen.seed)
    seconds = [line["train_seconds"] for line in epochs_of(whole)]
    lengths = [after - before for before, after in zip([0.0, *seconds], seconds, strict=False)]
    kills = [kill_in_epoch(chosen, killed, epoch, draw.uniform(0, length)) for epoch, length in enumerate(lengths)]
    finish(chosen, killed)
    content = {
        "command": shlex.join(["regrow", *words(chosen)]),
        "kills": kills,
        "same_bits": same_bits(whole, killed),
        "summary": json.loads((whole / "summary.json").read_text()),
        "epochs": epochs_of(whole),
    }
    file = chosen.results / f"{RECIPE}.json"
    with write_atomically(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"killed {len(kills)} times, same bits: {content['same_bits']}; results in {file}")
    return 0 if content["same_bits"] else 1


if __name__ == "__main__":
    sys.exit(main())
