"""Tables of single layers and calls."""

from __future__ import annotations

from typing import Any

from .reading import markdown, read, where


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
    return f"{table}\n\n{where(result[0])}"


def _ratio(row: dict[str, Any]) -> str:
    onednn = row["ratio_onednn"]
    return f"{row['ratio_best_fp32']:.1f}" + ("" if onednn is None else f" ({onednn:.1f})")


def call_overhead() -> str:
    """Microseconds of a call."""
    result = read("call_overhead")
    rows = [
        [row["layer"], *(f"{row['microseconds']['over'][way]:.0f}" for way in ("forward", "forward_backward"))]
        for row in result["rows"]
    ]
    return markdown(["layer", "forward, µs over the kernel", "with backward"], rows)


def few_images() -> str:
    """Microseconds of convolutions of a few images."""
    result = read("few_images")
    rows = [
        [row["layer"], str(row["images"]), *(f"{best:.0f}" for best in row["best_us"].values())]
        for row in result["rows"]
    ]
    place = result["rows"][0]
    table = markdown(["3x3 convolution", "images", *(f"{name}, µs" for name in place["best_us"])], rows)
    return f"{table}\n\n`{result['command']}`, {place['processor']}, {place['isa']}."


def mlp_step() -> str:
    """Milliseconds of an MLP's step by part."""
    result = read("mlp_step")
    parts = {"linear": "Linear", "bias": "its bias gradients", "activation": "ReLU", "loss": "loss"}
    parts |= {"optimizer": "optimizer", "rest": "Python, autograd"}
    rows = [
        [row["sizes"], str(row["batch"]), f"{row['ms']['step']:.2f}", *(f"{row['ms'][part]:.2f}" for part in parts)]
        for row in result["rows"]
    ]
    return f"{markdown(['network', 'batch', 'step, ms', *parts.values()], rows)}\n\n{_mlp_step_place(result)}"


def mlp_lanes() -> str:
    """What lanes between Linear layers would save, and what they would cost."""
    result = read("mlp_step")
    rows = []
    for row in result["rows"]:
        ms, ratio = row["ms"], row["lanes"]["ratio"]
        shares = ((ms["linear"] + ms["activation"]) * (1 - 1 / ratio) / ms["step"], -ms["dispatch"] / ms["step"])
        changes = (f"{share:+.0%}" for share in (*shares, sum(shares)))
        rows.append([row["sizes"], str(row["batch"]), f"{ratio:.2f}", *changes])
    head = ["network", "batch", "kernels and ReLU, rows / lanes", "saved, of the step", "dispatch", "together"]
    return markdown(head, rows)


def mlp_before() -> str:
    """Ratio of the step before and after the kernels were mended."""
    result = read("mlp_step")
    rows = [
        [row["sizes"], str(row["batch"]), f"{row['ratio_before']:.2f}", f"{row['noise_before']:.0%}"]
        for row in result["rows"]
    ]
    return markdown(["network", "batch", "step before / now", "quartile distance"], rows)


def _mlp_step_place(result: dict[str, Any]) -> str:
    place = result["rows"][0]
    return f"`{result['command']}`, {place['processor']}, {place['isa']}."


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


def overhead() -> str:
    result = read("masked_overhead")
    rows = [
        ["dense", f"{result['dense_ms']:.2f} ms", "1"],
        ["masked, static", f"{result['static_ms']:.2f} ms", f"{result['static_ratio']:.2f}"],
        ["masked, sparse momentum", f"{result['sparse-momentum_ms']:.2f} ms", f"{result['sparse_momentum_ratio']:.2f}"],
    ]
    table = markdown(["step", "median", "against dense"], rows)
    return f"{table}\n\nA topology update takes {result['update_ms']:.1f} ms. `{result['command']}`."
