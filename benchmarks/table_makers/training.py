"""Tables of what trainings end with."""

from __future__ import annotations

from statistics import mean
from typing import Any

from regrow.lab.report.leaderboard import mean_and_error

from .reading import markdown, plus_minus, read


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


def time_to_accuracy(model: str) -> str:
    """Errors that whole trainings end with, and the seconds that they take by the measured epoch."""
    result = read(f"time_to_accuracy_{model}")
    (dense,) = (row for row in result["arms"] if row["arm"].startswith("dense"))
    kinds = list(dense["dense_epoch_seconds"])
    rows = [
        [
            row["arm"].replace(",", ", "),
            f"{row['flop_density']:.2f}",
            str(row["epochs"]),
            f"{row['test_error']:.2f}",
            f"{row['epoch_seconds']:.0f} s",
            f"{row['seconds'] / 60:.0f} min",
            *(f"{dense['epochs'] * row['dense_epoch_seconds'][kind] / row['seconds']:.2f}" for kind in kinds),
        ]
        for row in result["arms"]
    ]
    head = ["arm, rule-density@epochs", "FLOP density", "epochs", "test error, %", "an epoch", "all of them"]
    head += [f"{dense['epochs']} epochs dense in {kind} / this" for kind in kinds]
    how = "Without `--plot-only`, and with another `--results`, this trains them:"
    return f"{markdown(head, rows)}\n\nOne seed each, {_threads(result['arms'])}. {how} `{result['command']}`"


def gain() -> str:
    """The README's table: for each network the sparse training with the lowest error in less time than dense takes."""
    rows = []
    for model in ("vgg16-d", "alexnet-s", "wrn-28-2"):
        arms = read(f"time_to_accuracy_{model}")["arms"]
        (dense,) = (arm for arm in arms if arm["arm"].startswith("dense"))
        quicker = [arm for arm in arms if arm["seconds"] < dense["seconds"]]
        arm = min(quicker, key=lambda arm: arm["test_error"])
        seconds = dense["epochs"] * arm["dense_epoch_seconds"]["fp32"]
        rows.append(
            [
                model,
                f"{arm['density']:.0%}",
                f"{arm['test_error']:.2f} in {arm['epochs']} epochs",
                f"{dense['test_error']:.2f} in {dense['epochs']} epochs",
                f"{seconds / arm['seconds']:.2f} times",
            ]
        )
    return markdown(
        ["network on CIFAR-10", "weights", "sparse, test error in %", "dense", "less time than dense"], rows
    )


def _threads(arms: list[dict]) -> str:
    """With how many threads the arms were trained, which decides on the last bits."""
    names: dict[int, list[str]] = {}
    for row in arms:
        names.setdefault(row["threads"], []).append(f"`{row['arm']}`")
    said = {threads: "one thread" if threads == 1 else f"{threads} threads" for threads in names}
    if len(names) == 1:
        return f"trained with {next(iter(said.values()))}"
    return "trained " + "; ".join(f"with {said[threads]}: {', '.join(those)}" for threads, those in names.items())


def share_rules() -> str:
    """Error and FLOPs of each redistribution rule in a short schedule, the lowest validation error first."""
    result = read("share_rules")
    rows = [
        [
            row["arm"],
            *(plus_minus(*row[name]) for name in ("validation_error", "test_error")),
            *(f"{row[name][0]:.3f}" for name in ("flop_density_mean", "flop_density_end")),
            str(row["seeds"]),
        ]
        for row in sorted(result["table"], key=lambda row: row["validation_error"][0])
    ]
    head = [
        "arm, rule-density in %",
        "validation error, %",
        "test error, %",
        "mean FLOP density",
        "at the end",
        "seeds",
    ]
    return f"{markdown(head, rows)}\n\n`{result['command']}`"


def neurons_without_inputs() -> str:
    """Returns where weights of a layer would grow that has neurons without active weights."""
    result = read("neurons_without_inputs")
    rows = [
        [
            row["layer"],
            f"{100 * row['density']:g} %",
            str(row["seed"]),
            f"{row['without_inputs']} of {row['neurons']}",
            *("–" if row[name] is None else f"{row[name]:.2f}" for name in ("gradient_there", "gradient_elsewhere")),
            f"{row['grown_there']} of {row['grown']}",
        ]
        for row in result["rows"]
    ]
    head = ["layer", "density", "seed", "neurons without inputs", "mean gradient there", "elsewhere", "grown there"]
    return f"{markdown(head, rows)}\n\n`{result['command']}`"


def storage_switch() -> str:
    """Returns steps and errors of GraNet, masked to the end and compressed on the way."""
    result = read("storage_switch")
    by_arm: dict[str, list[Any]] = {}
    for row in result["rows"]:
        by_arm.setdefault(row["arm"], []).append(row)
    epochs = max(row["epoch"] for row in result["rows"])
    cells = []
    for arm, rows in by_arm.items():
        times = [mean(row["step_ms"] for row in rows if row["epoch"] == epoch + 1) for epoch in range(epochs)]
        ends = [row for row in rows if row["epoch"] == epochs]
        errors = [
            plus_minus(*mean_and_error([row[f"{split}_error"] for row in ends])) for split in ("validation", "test")
        ]
        cells.append([arm, *(f"{time:.2f}" for time in times), *errors])
    densities = [
        mean(row["density"][1] for row in by_arm["masked to the end"] if row["epoch"] == e + 1) for e in range(epochs)
    ]
    head = ["", *(f"epoch {e + 1}, ms" for e in range(epochs)), "validation error, %", "test error, %"]
    cells.append(["density of GraNet at the end", *(f"{density:.3f}" for density in densities), "", ""])
    return f"{markdown(head, cells)}\n\n`{result['command']}`, processor time of one thread, {result['isa']}."


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
