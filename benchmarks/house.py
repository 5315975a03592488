"""Measure the structure of the source: packages, imports between them, circles, and how many files a change touches.

    python benchmarks/house.py                                        # this tree
    python benchmarks/house.py --before OLD_CHECKOUT --json results/house.json

A file is touched by a method, a storage, a dtype or a setting if a pattern for an example of it is found in its code,
comments and docstrings left out; tests and documentation do not count.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path

import networkx

TOUCHES = {
    "a method (RigL)": r"\bRigL\b|[\"']rigl[\"']",
    "a storage (compressed), outside its package and nn": r"[\"'](compressed|masked)[\"']|_mask\b[\"']",
    "a dtype of the kernels (float64)": (
        r"bool float64|float64 : bool|ScalarType::Double|, double>|\bf64\b|lanes_f64|float32 or float64"
        r"|\b(?:\w*[kK]ernels|table|to|from|forward|backward|VectorOf|LaneMask|BitsOf)<double>"
        r"|torch \. float32 , torch \. float64|== torch \. float64"
    ),
    "a setting (prune_rate), outside the methods": r"\bprune_rate\b",
}
LEFT_OUT = {
    "a storage (compressed), outside its package and nn": ("weights/", "nn/", "storage.py"),
    "a setting (prune_rate), outside the methods": ("updaters/", "schedule", "sharing", "redistribution", "topology"),
}
SHORT = 45
"""Lines below which a file with a single importer is counted."""


def code_of(path: Path) -> str:
    """The text of a file without comments and docstrings."""
    text = path.read_text()
    if path.suffix != ".py":
        return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    tree = ast.parse(text)
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for line in range(node.lineno - 1, node.end_lineno):
                lines[line] = ""
    text = "\n".join(lines) + "\n"
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError):  # a body that was a docstring alone
        return re.sub(r"#.*", "", text)
    return " ".join(token.string for token in tokens if token.type != tokenize.COMMENT)


def imports(source: Path) -> networkx.DiGraph:
    """Files of the package, and an edge from each to the ones that it imports, at any depth of its code."""
    root = source / "regrow"
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            for target in _targets(node, package):
                while target and target not in names:
                    target = target.rpartition(".")[0]
                if target and target != name and names[target].name != "__init__.py":
                    graph.add_edge(name, target)
    return graph


def _targets(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("regrow.")]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names] if base.startswith("regrow") else []


def top(name: str) -> str:
    """The package, or the module, that stands at the top of regrow."""
    return name.split(".")[1] if "." in name else name


def longest_function(source: Path) -> tuple[int, str]:
    """Lines of the longest function's code, without signature and docstring, and its name."""
    found = []
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                found.append((lines, f"{path.relative_to(source)}:{node.name}"))
    return max(found)


def measure(checkout: Path) -> dict[str, object]:
    """All figures of one checkout."""
    source = checkout / "src"
    graph = imports(source)
    rooms = networkx.DiGraph()
    rooms.add_nodes_from(top(name) for name in graph)
    rooms.add_edges_from((top(a), top(b)) for a, b in graph.edges if top(a) != top(b))
    importers = Counter(target for _, target in graph.edges)
    short = [
        name
        for name in graph
        if importers[name] == 1 and _lines(source, name) is not None and _lines(source, name) < SHORT
    ]
    files = [p for p in (source / "regrow").rglob("*") if p.suffix in (".py", ".cpp", ".h")]
    code = {path.relative_to(source / "regrow").as_posix(): code_of(path) for path in files}
    lines, name = longest_function(source)
    return {
        "packages and modules at the top": rooms.number_of_nodes(),
        "imports between them": rooms.number_of_edges(),
        "circles of files": sum(len(circle) > 1 for circle in networkx.strongly_connected_components(graph)),
        "circles at the top": sum(len(circle) > 1 for circle in networkx.strongly_connected_components(rooms)),
        "longest function, lines": lines,
        "longest function": name,
        f"files under {SHORT} lines with one importer": sorted(short),
        "files touched by": {
            what: sorted(file for file, text in code.items() if re.search(pattern, text) and not _left_out(what, file))
            for what, pattern in TOUCHES.items()
        },
    }


def _left_out(what: str, file: str) -> bool:
    return file.startswith(LEFT_OUT.get(what, ()))


def _lines(source: Path, name: str) -> int | None:
    path = source / Path(*name.split(".")).with_suffix(".py")
    return len(path.read_text().splitlines()) if path.exists() else None


def show(figures: dict[str, dict[str, object]]) -> None:
    """Prints a table, one column a checkout."""
    for key in next(iter(figures.values())):
        if key == "files touched by":
            for what in TOUCHES:
                print(f"files touched by {what}", *(len(tree[key][what]) for tree in figures.values()), sep=" | ")
        else:
            values = (tree[key] for tree in figures.values())
            print(key, *(len(value) if isinstance(value, list) else value for value in values), sep=" | ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="a checkout to compare with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    arguments = parser.parse_args()
    figures = {"before": measure(arguments.before)} if arguments.before else {}
    figures["now"] = measure(Path(__file__).resolve().parents[1])
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
