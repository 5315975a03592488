"""Tables of models, exported files, runs that survive, and bytes between processes."""

from __future__ import annotations

from .reading import markdown, read


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


def models() -> str:
    """Returns what is sparse in networks of other libraries."""
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


def survival() -> str:
    """Returns what befell runs, and what came of it."""
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
