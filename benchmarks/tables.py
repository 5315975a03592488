"""Writes the tables of README.md and docs/ from the result files, between marks, so that no figure is typed by hand.

python benchmarks/tables.py            # writes
python benchmarks/tables.py --check    # says whether the pages agree with results/, exit code 1 if not
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from regrow.io.atomic import write_atomically
from table_makers import files, kernels, methods, networks, race, registry, training, windows
from table_makers.reading import ROOT

TABLES: dict[str, Callable[[], str]] = {
    "gain": training.gain,
    "methods": registry.methods,
    "lenet300": lambda: training.mnist("lenet300-mnist"),
    "lenet5": lambda: training.mnist("lenet5-mnist"),
    "overhead": kernels.overhead,
    "data": networks.data,
    "layers": kernels.fixed_layers,
    "steps": lambda: networks.steps("steps", "steps-small", "steps-wrn-16-8", "steps-avx2"),
    "epochs": lambda: networks.epochs("run", "run-avx2", "run-densities", "run-half", "run-alexnet-s", "run-wrn-28-2"),
    "export": files.export,
    "scaling": networks.scaling,
    "storages": lambda: networks.storages("storages-lenet300-mnist"),
    "two_storages": training.two_storages,
    "call_overhead": kernels.call_overhead,
    "few_images": kernels.few_images,
    "mlp_step": kernels.mlp_step,
    "mlp_lanes": kernels.mlp_lanes,
    "mlp_before": kernels.mlp_before,
    "thresholds": lambda: kernels.layers("layer_thresholds"),
    "window_overlap": windows.window_overlap,
    "window_layers": windows.window_layers,
    "window_linear": windows.window_linear,
    "window_convolutions": windows.window_convolutions,
    "window_ways": windows.window_ways,
    "window_errors": windows.window_errors,
    "layer_memory": kernels.layer_memory,
    "wide_mlp": networks.wide_mlp,
    "blocked_layers": kernels.blocked_layers,
    "blocked_numerics": kernels.blocked_numerics,
    "survival": files.survival,
    "distributed": files.distributed,
    "leaderboard": lambda: methods.leaderboard("lenet300-from-scratch", "lenet300-own-intervals", "lenet300-lottery"),
    "published_length": lambda: methods.published("lenet300-published-length"),
    "published_length_variants": lambda: methods.published(
        "lenet300-published-length-er",
        "lenet300-published-length-weight-decay",
        "lenet300-published-length-600",
        "lenet300-bn-published-length",
        "lenet300-bn-published-length-static",
        "lenet300-bn-published-length-er",
        "lenet300-bn-published-length-weight-decay",
        "lenet300-bn-published-length-600",
    ),
    "ablation": lambda: methods.ablation("lenet300-ablation"),
    "ablation_1_percent": lambda: methods.ablation("lenet300-ablation-1-percent"),
    "growth_rules": methods.growth_rules,
    "growth_costs": methods.growth_costs,
    "lenet5_methods": lambda: methods.listed("lenet5"),
    "time_to_accuracy": lambda: training.time_to_accuracy("vgg16-d"),
    "time_to_accuracy_alexnet": lambda: training.time_to_accuracy("alexnet-s"),
    "time_to_accuracy_wrn": lambda: training.time_to_accuracy("wrn-28-2"),
    "share_rules": training.share_rules,
    "neurons_without_inputs": training.neurons_without_inputs,
    "storage_switch": training.storage_switch,
    "imagenette": training.imagenette,
    "imagenet_throughput": networks.imagenet_throughput,
    "models": files.models,
    "inference": networks.inference,
    "features": training.features,
    "shakespeare": training.shakespeare,
    "race_mnist": lambda: race.race("mnist"),
    "race_table": lambda: race.race("table"),
}


def rendered(text: str) -> str:
    """The text with every table between `<!-- table NAME -->` and `<!-- end -->` made anew."""
    return re.sub(
        r"(<!-- table (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def main() -> int:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    stale = [page for page in pages if rendered(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        print("\n".join(f"{page.relative_to(ROOT)} does not agree with results/" for page in stale))
        return 1 if stale else 0
    for page in stale:
        with write_atomically(page) as temporary:
            temporary.write_text(rendered(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
