"""Tables of whole networks' time and memory."""

from __future__ import annotations

from .reading import ROOT, markdown, read, where


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
    return "\n\n".join([markdown(head, rows), *dict.fromkeys(where(row) for row in result)])


def epochs(*names: str) -> str:
    """Whole epochs on trained topologies, from one file or several."""
    result = [row for name in names for row in read(name)]
    rows = [
        [
            row["model"],
            f"{row['density']:.0%}",
            row.get("rule", row["share"]),
            ", ".join(name.removesuffix(".weight") for name in row.get("dense", ())) or "none",
            str(row["topology"]["epochs"]),
            f"{row['flop_density']:.3f}",
            row["isa"],
            f"{row['sparse_epoch_s']:.0f} s",
            f"{row['dense_epoch_s'][row['best_fp32']]:.0f} s ({row['best_fp32']})",
            f"{row['ratio_best_fp32']:.2f}",
            f"{row['ratio_bf16']:.2f}" if row["ratio_bf16"] else "–",
        ]
        for row in result
    ]
    head = ["network", "density", "redistribution", "dense layers", "epochs trained", "FLOP density", "instructions"]
    table = markdown([*head, "sparse epoch", "best dense fp32", "ratio", "against bf16"], rows)
    return "\n\n".join([table, *dict.fromkeys(where(row) for row in result)])


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
    table = markdown(["network", "density", "batch", "threads", "sparse", "best dense fp32", "ratio"], rows)
    highest = {row["model"]: row["density"] for row in sorted(result["rows"], key=lambda row: row["density"])}
    crossings = [
        [name, f"{density:.0%}" if density else f"above {highest[name]:.0%}"]
        for name, density in result["dense_wins_from"].items()
    ]
    row = result["rows"][0]
    where_measured = f"`{result['command']}` ({row['processor']}, {row['isa']}, torch {row['torch']})."
    return "\n\n".join([table, markdown(["network", "dense is faster from density"], crossings), where_measured])


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


def data() -> str:
    """Milliseconds of a batch beside those of the step it feeds."""
    result = read("data_speed")
    rows = [
        [row["recipe"], f"{row['batch_ms']:.1f} ms", f"{row['step_ms']:.0f} ms", f"{row['share']:.1%}"]
        for row in result
    ]
    table = markdown(["recipe", "batch of 128", "whole sparse step", "share"], rows)
    return f"{table}\n\n`{result[0]['command']}` ({result[0]['processor']}, {result[0]['isa']})."


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
    return f"{table}\n\n{where(result)}"


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
