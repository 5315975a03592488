"""Tables of the window in which momentum of inactive weights is collected."""

from __future__ import annotations

from .reading import markdown, read


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


def window_linear() -> str:
    """Ways to collect the momentum of a Linear layer."""
    result = read("window_linear")
    ways = list(result["rows"][0]["ms"])
    rows = [
        [row["layer"], str(row["batch"]), *(f"{row['ms'][way]:.0f} ms, {row['mb'][way]:.0f} MB" for way in ways)]
        for row in result["rows"]
    ]
    return f"{markdown(['layer', 'batch', *ways], rows)}\n\n`{result['command']}`"


def window_convolutions() -> str:
    """What a window of either kernel costs."""
    result = read("window_convolutions")
    cost = result["cost"]
    rows = [
        [name, f"{cost['window_step_ms'][key]:.0f} ms", f"{cost['of_an_epoch'][key]:.1%}"]
        for name, key in (("torch's operator", "torch"), ("Winograd's algorithm", "winograd"))
    ]
    return (
        f"{markdown(['gradients of all weights', 'added to a step', 'window, of an epoch'], rows)}\n\n"
        f"VGG16-D, 5 %, a sparse step of {cost['step_ms']:.0f} ms, one update in {cost['steps_per_epoch']} steps. "
        f"`{result['command']}`, {result['processor']}, {result['isa']}, processor time of one thread."
    )


def window_ways() -> str:
    """Ways to make the window of a convolutional network cheaper, by what they would grow."""
    result = read("window_convolutions")
    rows = []
    for row in result["overlap"]:
        layers = row["grown_by_layer"].values()
        rows.append([row["way"], f"{row['grown']:.1%}", f"{min(layers):.0%}"])
    return f"{markdown(['way', 'of the exact grown set', 'worst layer'], rows)}\n\n`{result['command']}`"


def window_errors() -> str:
    """Validation errors behind either kernel, and behind torch's with another rounding."""
    error = read("window_convolutions")["error"]
    names = {"torch": "torch's operator", "winograd": "Winograd's algorithm"}
    names["torch, reversed"] = "torch's operator, images in reverse order"
    rows = []
    for key, name in names.items():
        known = key in error["difference"]
        away = f"{error['difference'][key]:+.2f} ± {error['difference_stderr'][key]:.2f}" if known else "–"
        rows.append([name, f"{error['mean'][key]:.2f}%", away])
    seeds = len(error["validation_error"]["torch"])
    table = markdown(["gradients of all weights", "validation error", "from torch's, points"], rows)
    return f"{table}\n\nMeans of {seeds} seeds, an update each {error['update_every']} of {error['steps']} steps."
