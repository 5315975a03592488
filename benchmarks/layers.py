"""`regrow bench layers` without the command line: python benchmarks/layers.py --json results/layers.json"""

import argparse
import json
from pathlib import Path

from regrow.recipes import bench_layers as bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(bench.CASES))
    parser.add_argument("--densities", default=",".join(map(str, bench.DENSITIES)))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kinds", default=",".join(bench.KINDS), help="dense contestants")
    parser.add_argument("--seconds", type=float, default=0.5, help="time of each contestant in a row")
    parser.add_argument("--clock", default="wall", choices=bench.CLOCKS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    densities = [float(density) for density in options.densities.split(",")]
    print(bench.HEADER)
    rows = bench.run(
        options.cases.split(","),
        densities,
        options.batch,
        options.threads,
        options.kinds.split(","),
        options.seconds,
        options.clock,
        lambda row: print(bench.format_row(row), flush=True),
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
