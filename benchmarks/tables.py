"""Writes the tables of README.md and docs/ from the result files, between marks, so that no figure is typed by hand.

python benchmarks/tables.py            # writes
python benchmarks/tables.py --check    # says whether the pages agree with results/, exit code 1 if not
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from regrow.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> Any:
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plus_minus(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def mnist(name: str) -> str:
    """Test error against density, mean and standard error over seeds."""
    result = read(name)
    epochs = {row["epochs"] for row in result["rows"]}
    rows = [
        [
            "dense" if row["method"] == "dense" else f"{row['density']:.0%}",
            plus_minus(row["test_error"], row["se"]),
            plus_minus(row["published"], row["published_se"]),
            str(row["seeds"]),
        ]
        for row in result["table"]
    ]
    table = markdown(["density", "test error, %", "published, %", "seeds"], rows)
    failed = "".join(f" Failed: {line.split(', see')[0]}." for line in result["failed"])
    return f"{table}\n\n`{result['command']}`, {'/'.join(map(str, epochs))} epochs: `results/{name}.json`.{failed}"


def overhead() -> str:
    result = read("masked_overhead")
    rows = [
        ["dense", f"{result['dense_ms']:.2f} ms", "1"],
        ["masked, static", f"{result['static_ms']:.2f} ms", f"{result['static_ratio']:.2f}"],
        ["masked, sparse momentum", f"{result['sparse-momentum_ms']:.2f} ms", f"{result['sparse_momentum_ratio']:.2f}"],
    ]
    table = markdown(["step", "median", "against dense"], rows)
    return f"{table}\n\nA topology update takes {result['update_ms']:.1f} ms. `{result['command']}`."


def layers(name: str) -> str:
    """Dense time over sparse time of single layers."""
    result = read(name)
    by_case: dict[tuple[str, int], dict[float, float]] = {}
    for row in result:
        by_case.setdefault((row["case"], row["batch"]), {})[row["density"]] = row["ratio_best_fp32"]
    densities = sorted({row["density"] for row in result}, reverse=True)
    rows = [
        [case.split("b")[0], str(batch), *(f"{ratios[d]:.1f}" if d in ratios else "–" for d in densities)]
        for (case, batch), ratios in by_case.items()
    ]
    table = markdown(["layer", "batch", *(f"{d:.0%}" for d in densities)], rows)
    return f"{table}\n\n`{result[0]['command']}`"


def fixed_layers() -> str:
    """Dense time over sparse time of the layers that regrow is judged by; in brackets against oneDNN."""
    result = read("layers")
    by_case: dict[tuple[str, int], dict[float, Any]] = {}
    for row in result:
        by_case.setdefault((row["case"], row["batch"]), {})[row["density"]] = row
    densities = sorted({row["density"] for row in result}, reverse=True)
    rows = [
        [case.split("b")[0], str(batch), *(_ratio(row[d]) for d in densities)] for (case, batch), row in by_case.items()
    ]
    table = markdown(["layer", "batch", *(f"{d:.0%}" for d in densities)], rows)
    return f"{table}\n\n{_where(result[0])}"


def _ratio(row: dict[str, Any]) -> str:
    onednn = row["ratio_onednn"]
    return f"{row['ratio_best_fp32']:.1f}" + ("" if onednn is None else f" ({onednn:.1f})")


def _where(row: dict[str, Any]) -> str:
    return f"`{row['command']}` ({row['processor']}, {row['isa']}, {row['threads']} threads, torch {row['torch']})."


def steps(*names: str) -> str:
    """Whole training steps, from one file or several."""
    result = [row for name in names for row in read(name)]
    rows = [
        [
            row["model"],
            f"{row['density']:.0%}",
            f"{row['flop_density']:.3f}",
            row["isa"],
            f"{row['sparse_ms']:.0f} ms",
            f"{row['dense_ms'][row['best_fp32']]:.0f} ms ({row['best_fp32']})",
            f"{row['ratio_best_fp32']:.2f}",
            "–" if row["ratio_bf16"] is None else f"{row['ratio_bf16']:.2f}",
            f"{row['dense_ms'][row['best_fp32']] / row['sparse_converting_ms']:.2f}",
            f"{max(row['noise']['sparse'], row['noise'][row['best_fp32']]):.0%}",
        ]
        for row in result
    ]
    head = [
        "network",
        "density",
        "FLOP density",
        "instructions",
        "sparse",
        "best dense fp32",
        "ratio",
        "against bf16",
        "converting at every layer",
        "noise",
    ]
    return "\n\n".join([markdown(head, rows), *dict.fromkeys(_where(row) for row in result)])


def epochs() -> str:
    """Whole epochs on trained topologies."""
    result = read("run")
    rows = [
        [
            row["model"],
            f"{row['density']:.0%}",
            row.get("rule", row["share"]),
            str(row["topology"]["epochs"]),
            f"{row['flop_density']:.3f}",
            f"{row['sparse_epoch_s']:.0f} s",
            f"{row['dense_epoch_s'][row['best_fp32']]:.0f} s ({row['best_fp32']})",
            f"{row['ratio_best_fp32']:.2f}",
            f"{row['ratio_bf16']:.2f}",
        ]
        for row in result
    ]
    head = ["network", "density", "share rule", "epochs trained", "FLOP density", "sparse epoch", "best dense fp32"]
    table = markdown([*head, "ratio", "against bf16"], rows)
    return f"{table}\n\n{_where(result[0])}"


def time_to_accuracy() -> str:
    """Errors that whole trainings end with, and the seconds that they take by the measured epoch."""
    result = read("time_to_accuracy_vgg16-d")
    (dense,) = (row for row in result["arms"] if row["arm"].startswith("dense"))
    (measured,) = (row for row in read("run") if row["model"] == result["model"])
    seconds = [dense["epochs"] * measured["dense_epoch_s"][measured[best]] for best in ("best_bf16", "best_fp32")]
    rows = [
        [
            row["arm"].replace(",", ", "),
            f"{row['flop_density']:.2f}",
            str(row["epochs"]),
            f"{row['test_error']:.2f}",
            f"{row['epoch_seconds']:.0f} s",
            f"{row['seconds'] / 60:.0f} min",
            *(f"{other / row['seconds']:.2f}" for other in seconds),
        ]
        for row in result["arms"]
    ]
    head = ["arm, rule-density@epochs", "FLOP density", "epochs", "test error, %", "an epoch", "all of them"]
    head += [f"dense {precision} / this" for precision in ("bf16", "fp32")]
    end = f"One seed each; dense fp32: {seconds[1] / 60:.0f} min by its measured epoch, not trained."
    return f"{markdown(head, rows)}\n\n{end} `{result['command']}`"


def scaling() -> str:
    """Training steps as density, batch and threads vary, and from which density dense wins."""
    result = read("scaling")
    rows = [
        [
            row["model"],
            f"{row['density']:.0%}",
            str(row["batch"]),
            str(row["threads"]),
            f"{row['sparse_ms']:.0f} ms",
            f"{row['dense_ms'][row['best_fp32']]:.0f} ms",
            f"{row['ratio_best_fp32']:.2f}",
        ]
        for row in result["rows"]
    ]
    table = markdown(["network", "density", "batch", "threads", "sparse", "channels_last", "ratio"], rows)
    return f"{table}\n\n`{result['command']}`"


def storages(name: str) -> str:
    """Whole runs of each storage."""
    result = read(name)
    rows = [
        [
            row["storage"],
            f"{row['train_seconds']:.0f} s",
            f"{1 / row['time_of_dense']:.2f}",
            f"{1000 * row['seconds_per_step']:.2f} ms",
            f"{row['topology_seconds']:.1f} s",
            f"{row['peak_rss_mb']:.0f} MiB",
        ]
        for row in result["table"]
    ]
    table = markdown(["storage", "training", "times as fast", "a step", "topology updates", "peak memory"], rows)
    return f"{table}\n\n`{result['command']}`"


def two_storages() -> str:
    """Masked beside compressed: the difference of the means, and two standard errors of it."""
    results = [read("lenet300-mnist"), read("lenet300-mnist-compressed")]
    masked, compressed = ({row["density"]: row for row in result["table"]} for result in results)
    rows = []
    for density, row in compressed.items():
        other = masked[density]
        error = 2 * (row["se"] ** 2 + other["se"] ** 2) ** 0.5
        errors = [plus_minus(one["test_error"], one["se"]) for one in (other, row)]
        difference = row["test_error"] - other["test_error"]
        rows.append([f"{density:.0%}", *errors, f"{difference:+.2f}", f"{error:.2f}", str(row["seeds"])])
    head = ["density", "masked, error in %", "compressed", "difference", "two standard errors of it", "seeds"]
    return f"{markdown(head, rows)}\n\n`{results[1]['command']}`"


def call_overhead() -> str:
    """Microseconds of a call."""
    result = read("call_overhead")
    rows = [
        [row["layer"], *(f"{row['microseconds']['over'][way]:.0f}" for way in ("forward", "forward_backward"))]
        for row in result["rows"]
    ]
    return markdown(["layer", "forward, µs over the kernel", "with backward"], rows)


def window_overlap() -> str:
    """Grown sets of windows and sub-batches against those of exact momentum, and what they cost."""
    result = read("window_overlap")
    networks = result["networks"]
    rows = []
    for same in zip(*(network["table"] for network in networks), strict=True):
        cells = [str(same[0]["window"]), f"{same[0]['batch_share']:.0%}"]
        for row in same:
            cells.append(f"{row['grown']:.0%} ({row['active']:.0%})")
            cells.append(f"{row['interval_ms']:.0f} ms, {row['interval_cost']:.1%}" if "interval_ms" in row else "–")
        rows.append(cells)
    head = [cell for network in networks for cell in (network["network"], "cost")]
    table = markdown(["window", "of the batch", *head], rows)
    return f"{table}\n\nMeans of {result['mean_of']}. `{result['command']}`"


def window_layers() -> str:
    """The same for whole batches, by layer and by update."""
    rows = []
    for network in read("window_overlap")["networks"]:
        whole = [row for row in network["table"] if row["batch_share"] == 1]
        for key, label in (("grown_by_layer", "{}"), ("grown_by_update", "update {}")):
            for part in whole[0][key]:
                shares = [row[key][part] for row in whole]
                cells = ["–" if share is None else f"{share:.0%}" for share in shares]
                rows.append([network["network"], label.format(part.removesuffix(".weight")), *cells])
    return markdown(["network", "of which", *(str(row["window"]) for row in whole)], rows)


def data() -> str:
    """Milliseconds of a batch beside those of the step it feeds."""
    result = read("data_speed")
    rows = [
        [row["recipe"], f"{row['batch_ms']:.1f} ms", f"{row['step_ms']:.0f} ms", f"{row['share']:.1%}"]
        for row in result
    ]
    table = markdown(["recipe", "batch of 128", "whole sparse step", "share"], rows)
    return f"{table}\n\n`{result[0]['command']}` ({result[0]['processor']}, {result[0]['isa']})."


def window_linear() -> str:
    """Ways to collect the momentum of a Linear layer."""
    result = read("window_linear")
    ways = list(result["rows"][0]["ms"])
    rows = [
        [row["layer"], str(row["batch"]), *(f"{row['ms'][way]:.0f} ms, {row['mb'][way]:.0f} MB" for way in ways)]
        for row in result["rows"]
    ]
    return f"{markdown(['layer', 'batch', *ways], rows)}\n\n`{result['command']}`"


def layer_memory() -> str:
    """Bytes of a layer under training, as shares of the dense layer's parameter, gradient and momentum."""
    result = read("layer_memory")
    dense = sum(result["dense"]["counted"].values())
    parts = list(result["rows"][0]["counted"])
    rows = [
        [
            f"{row['density']:.0%}",
            *(f"{row['counted'][part] / dense:.1%}" for part in parts),
            f"{row['counted_share']:.1%}",
            f"{row['resident_share']:.1%}",
        ]
        for row in result["rows"]
    ]
    return f"{markdown(['density', *parts, 'together', 'resident'], rows)}\n\n`{result['command']}`"


def wide_mlp() -> str:
    """Memory and time of wide-mlp as it grows wider, beside the dense network where there is one."""
    result = read("wide_mlp")
    rows = [
        [
            f"{row['width']:,}",
            f"{row['positions']:,}",
            f"{sum(row['active'].values()):,}",
            f"{row['made_s']:.1f} s",
            *(f"{row[step]:,.0f} ms" for step in ("step_ms", "window_step_ms", "step_after_update_ms")),
            f"{row['update_s']:.1f} s",
            f"{row['peak_mib']:,.0f} MiB",
            f"{row['dense']['step_ms']:,.0f} ms, {row['dense']['peak_mib']:,.0f} MiB" if row["dense"] else "–",
        ]
        for row in result["rows"]
    ]
    steps = ["step", "step of the window", "step after an update"]
    head = ["width", "positions", "active", "making it", *steps, "update", "peak memory", "dense step"]
    return f"{markdown(head, rows)}\n\n`{result['command']}` ({result['processor']}, {result['isa']})."


def blocked_layers() -> str:
    """BatchNorm, ReLU and pool in the kernels' layout and in PyTorch's."""
    result = read("blocked_layers")
    layouts = ("blocked", "nchw", "channels_last")
    rows = [
        [
            row["layers"],
            f"{row['channels']}@{row['size']}²",
            *(f"{row[f'{layout} forward']:.1f} + {row[f'{layout} backward']:.1f}" for layout in layouts),
        ]
        for row in result["rows"]
    ]
    table = markdown(["layers", "activation", *layouts], rows)
    return f"{table}\n\n`{result['command']}` ({result['processor']}, {result['isa']})."


def blocked_numerics() -> str:
    """Distances of float32 weight gradients from float64, by layer."""
    result = read("blocked_numerics")
    found = [
        (kinks, kind, result[kinks][kind])
        for kinks in ("ReLU, max pool", "SiLU, average pool")
        for kind in ("dense", "blocked")
    ]
    head = ["convolution", *(f"{kind}, {kinks}" for kinks, kind, _ in found)]
    layers = zip(*(values for *_, values in found), strict=True)
    rows = [[str(at), *(f"{value:.1e}" for value in same)] for at, same in enumerate(layers, 1)]
    return f"{markdown(head, rows)}\n\n`{result['command']}`"


def survival() -> str:
    """What befell runs, and what came of it."""
    result = read("survival")
    keys = ("trials", "kills", "stopped_with_cause", "same_bits", "lost")
    rows = [[row["fault"], *(str(row[key]) for key in keys)] for row in result["table"]]
    rows.append(["together", *(str(sum(row[key] for row in result["table"])) for key in keys)])
    table = markdown(
        ["fault", "runs", "kills", "stopped with the cause named", "ended with the same bits", "lost"], rows
    )
    return f"{table}\n\n`{result['command']}`"


def distributed() -> str:
    """Bytes of all-reduces in a step and in an update."""
    result = read("distributed")
    rows = [
        [
            row["network"],
            row["storage"],
            f"{row['density']:.0%}",
            f"{row['step_bytes']:,}",
            f"{row['weight_share']:.2%}",
            f"{row['update_bytes']:,}",
        ]
        for row in result["rows"]
    ]
    head = ["network", "storage", "density", "bytes a step", "share of the dense weights", "bytes more at an update"]
    return f"{markdown(head, rows)}\n\n`{result['command']}`: `results/distributed.json`."


def imagenette() -> str:
    """The epochs of a short training on image files."""
    result = read("resnet50-imagenette")
    rows = [
        [str(row["epoch"]), f"{row['loss']:.2f}", f"{row['validation_error']:.1f}", f"{row['data_wait_share']:.0%}"]
        for row in result["epochs"]
    ]
    table = markdown(["epoch", "loss", "validation error, %", "waiting for data"], rows)
    summary = result["summary"]
    end = f"Test error: {summary['test_error']:.1f} %, where guessing gives 90 %; {summary['updates']} updates."
    kills = f"Killed with SIGKILL {len(result['kills'])} times, once in every epoch, and resumed, it ends with "
    kills += "the same bits." if result["same_bits"] else "other bits."
    return f"{table}\n\n{end} `{result['command']}`. {kills} (`python benchmarks/imagenette.py`)"


IMAGENET_IMAGES = 1_281_167


def imagenet_throughput() -> str:
    """Hours of the recipe's training steps on ImageNet, and the processes that keep them fed."""
    if not (ROOT / "results" / "imagenet_throughput.json").exists():
        return "Not measured yet: `python benchmarks/imagenet_throughput.py`, on a quiet machine, writes the figures."
    result = read("imagenet_throughput")
    reading = result["reading"]
    rows = [
        [
            row["kind"],
            f"{row['step_ms']:.0f} ms",
            f"{row['images_per_second']:.1f}",
            f"{result['epochs'] * IMAGENET_IMAGES / row['images_per_second'] / 3600:,.0f}",
            f"{row['images_per_second'] / reading['images_per_second']:.2f}",
            f"{row['noise']:.0%}",
        ]
        for row in result["steps"]
    ]
    head = ["network", f"step of {result['steps'][0]['batch']} images", "images a second"]
    table = markdown([*head, f"hours of {result['epochs']} epochs", "cores that read", "noise"], rows)
    return f"{table}\n\n{_where(result)}"


def export() -> str:
    """Files of one network, and how far their outputs lie from its own."""
    result = read("export")
    rows = [
        [
            row["format"],
            f"{row['bytes']:,}",
            f"{row['bytes'] / result['active']:.1f}",
            f"{row['max_rel_difference']:.0e}",
        ]
        for row in result["rows"]
    ]
    head = ["format", "bytes", "per active weight", "largest difference of an output, of the largest output"]
    of = f"{result['recipe']} at {result['density']:.0%}, {result['active']:,} active weights, "
    of += f"{result['test_images']:,} test images of CIFAR-10"
    return f"{markdown(head, rows)}\n\n{of}: `{result['command']}`"


def inference() -> str:
    """Latency of a forward pass, and of the dense network by each of its ways."""
    rows = read("inference")
    kinds = list(rows[0]["dense_ms"])
    cells = [
        [
            f"`{row['model']}`",
            f"{row['density']:.0%}",
            str(row["batch"]),
            f"{row['sparse_ms']:.2f}",
            *(f"{row['dense_ms'][kind]:.2f}" if kind in row["dense_ms"] else "–" for kind in kinds),
            f"{row['ratio_best_dense']:.2f} ({row['best_dense']})",
        ]
        for row in rows
    ]
    table = markdown(["network", "density", "batch", "sparse, ms", *kinds, "best dense / sparse"], cells)
    return (
        f"{table}\n\n`{rows[0]['command']}`, threads: {rows[0]['threads']}, {rows[0]['processor']}, {rows[0]['isa']}."
    )


def shakespeare() -> str:
    """The character GPT: time of a step and loss at equal steps."""
    result = read("gpt_shakespeare")
    dense = result["rows"][0]
    cells = [
        [
            row["name"],
            f"{row['validation_loss']:.3f}",
            f"{row['validation_loss'] - dense['validation_loss']:+.3f}",
            f"{row['test_loss']:.3f}",
            f"{row['step_ms']:,.0f}",
            f"{row['step_ratio']:.2f}",
            f"{row['seconds']:,.0f}",
            f"{row['ratio']:.2f}",
        ]
        for row in result["rows"]
    ]
    head = [
        "",
        "validation loss, nats",
        "above dense",
        "test loss",
        "ms a step",
        "dense / this",
        "seconds",
        "dense / this",
    ]
    rescaled = read("gpt_shakespeare-rescale")
    other = (
        f"With active values rescaled to the variance of the dense layer: {rescaled['summary']['validation_loss']:.3f} "
    )
    other += f"at 10 % (`{rescaled['command']}`)."
    where = f"{dense['steps']} steps, threads: {result['threads']}, {result['processor']}, {result['isa']}"
    return f"{markdown(head, cells)}\n\n`{result['command']}`; {where}. {other}"


def features() -> str:
    """Mean class specialisation of the channels behind each ReLU, sparse beside dense."""
    result = read("features-alexnet-s")
    networks = result["networks"]
    rows = [
        [layers[0]["name"], str(layers[0]["channels"]), *(f"{mean(layer['specialisation']):.3f}" for layer in layers)]
        for layers in zip(*(network["layers"] for network in networks), strict=True)
    ]
    table = markdown(["layer", "channels", *(network["label"] for network in networks)], rows)
    return f"{table}\n\n`{result['command']}`"


def models() -> str:
    """What is sparse in networks of other libraries."""
    result = read("model_summaries")
    rows = []
    for name, model in result["models"].items():
        for group in model["rows"]:
            reason = group["storage"] if group["why"] == "auto" else f"{group['storage']}: {group['why']}"
            rows.append([name, group["kind"], f"`{group['first']}`", str(group["weights"]), f"{group['positions']:,}"])
            rows[-1] += [f"{group['active'] / group['positions']:.1%}", reason]
            name = ""
        rows.append(["", "stays dense", "", "", f"{model['dense']:,}", "", ""])
    table = markdown(["network", "module", "first of them", "weights", "positions", "density", "storage"], rows)
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    return f"{table}\n\n`{result['command']}` ({versions})."


TABLES: dict[str, Callable[[], str]] = {
    "lenet300": lambda: mnist("lenet300-mnist"),
    "lenet5": lambda: mnist("lenet5-mnist"),
    "overhead": overhead,
    "data": data,
    "layers": fixed_layers,
    "steps": lambda: steps("steps", "steps-small", "steps-wrn-16-8", "steps-avx2"),
    "epochs": epochs,
    "export": export,
    "scaling": scaling,
    "storages": lambda: storages("storages-lenet300-mnist"),
    "two_storages": two_storages,
    "call_overhead": call_overhead,
    "thresholds": lambda: layers("layer_thresholds"),
    "window_overlap": window_overlap,
    "window_layers": window_layers,
    "window_linear": window_linear,
    "layer_memory": layer_memory,
    "wide_mlp": wide_mlp,
    "blocked_layers": blocked_layers,
    "blocked_numerics": blocked_numerics,
    "survival": survival,
    "distributed": distributed,
    "time_to_accuracy": time_to_accuracy,
    "imagenette": imagenette,
    "imagenet_throughput": imagenet_throughput,
    "models": models,
    "inference": inference,
    "features": features,
    "shakespeare": shakespeare,
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
