"""Modules whose code reads the weight of another module, where they might have called that module.

`functional.linear(x, self.out.weight)` needs the dense weight. Such places are found in the source of the modules'
classes: every `.weight` of what is reached from `self` by attributes, subscripts, loops and local names. Methods that
run before training (`__init__`, `init_weights`, `reset_parameters`, `tie_weights`) do not count, and neither does what
dense and compressed weights have alike, such as `self.out.weight.dtype`. A class without source reads nothing.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from types import CodeType, FunctionType
from typing import Any

from torch import nn

__all__ = ["Path", "readers", "reads", "used_elsewhere"]

_MEMBERS = frozenset(vars(nn.Module()))
"""Members that torch keeps in every module; members are looked up where they are."""

Path = tuple[str, ...]
"""From a module to another: names of attributes, and "*" for any child."""

_ANY = "*"
_BEFORE_TRAINING = re.compile(r"(.*_)?init(iali[sz]e|_|$)|_?reset|_?tie")
_ALIKE = frozenset(("dtype", "device", "requires_grad", "requires_grad_", "layout", "is_cuda", "is_meta"))
_OF_CONTAINERS = frozenset(("values", "items", "children", "named_children", "get"))
_BY_TORCH = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention)


def readers(model: nn.Module) -> dict[int, str]:
    """The class that reads a module's weight, by the id of that module.

    Example:
        >>> attention = torch.nn.MultiheadAttention(4, 2)
        >>> readers(attention)[id(attention.out_proj)]
        'MultiheadAttention'
    """
    found: dict[int, str] = {}
    for module in model.modules():
        read = list(module.children()) if isinstance(module, _BY_TORCH) else []
        read += [other for path in _reads_of(module) for other in _reached(module, path) if other is not module]
        for other in read:
            found.setdefault(id(other), type(module).__name__)
    return found


def _reads_of(module: nn.Module) -> frozenset[Path]:
    """Returns the code of the class's forward, and of one that has been put onto this module alone."""
    kind: Any = type(module)
    own = getattr(vars(module).get("forward"), "__func__", None)
    return reads(kind) | (_read_by(own) if isinstance(own, FunctionType) else frozenset())


def _reached(module: nn.Module, path: Path) -> list[nn.Module]:
    found = [module]
    for part in path:
        found = [child for one in found for child in _children(one, part)]
    return found


def _children(module: nn.Module, part: str) -> Iterable[nn.Module]:
    if part == _ANY:
        return [module, *module.children()]  # itself: a slice of a ModuleList, or one that was looped over
    child = module._modules.get(part) or vars(module).get(part)
    return [child] if isinstance(child, nn.Module) else []


@cache
def reads(kind: Any) -> frozenset[Path]:
    """The paths to the modules whose `.weight` the methods of a class of modules read.

    Example:
        >>> reads(torch.nn.Linear)
        frozenset()
    """
    ours = (cls for cls in kind.__mro__ if not cls.__module__.startswith("torch.") and issubclass(cls, nn.Module))
    return frozenset(path for cls in ours for method in _methods(cls) for path in _read_by(method))


def _methods(cls: type) -> Iterator[FunctionType]:
    for name, value in vars(cls).items():
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, cached_property):
            value = value.func
        method = inspect.unwrap(value) if callable(value) else None
        if isinstance(method, FunctionType) and not _BEFORE_TRAINING.match(name):
            yield method


@cache
def _read_by(method: Callable[..., Any]) -> frozenset[Path]:
    """The paths from the method's first argument whose `.weight` it reads."""
    code: CodeType = method.__code__
    if not code.co_argcount or not _mentions_weight(code):  # the source is slow to find
        return frozenset()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, SyntaxError, TypeError):  # TypeError: a class without a file
        return frozenset()
    names: dict[str, list[Path]] = {code.co_varnames[0]: [()]}
    for _ in range(2):  # a name that stands for another one may be found before that
        for bound, paths in _bindings(tree, names):
            names[bound] = list(dict.fromkeys([*names.get(bound, []), *paths]))
    alike = {id(part) for node in ast.walk(tree) for part in _read_alike(node)}
    nodes = (node for node in ast.walk(tree) if id(node) not in alike and not _is_assigned_to(node))
    read = (path for node in nodes for path in _paths(node, names))
    return frozenset(path[:-1] for path in read if path[-1:] == ("weight",) and len(path) > 1)


def _mentions_weight(code: CodeType) -> bool:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return "weight" in (*code.co_names, *code.co_consts) or any(map(_mentions_weight, inner))


def _read_alike(node: ast.AST) -> list[ast.AST]:
    """The parts of an expression of which only what all storages have alike is read."""
    if isinstance(node, ast.Attribute) and node.attr in _ALIKE:
        return [node.value]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return list(node.args[:1])
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
        return [node.left]
    return []


def _is_assigned_to(node: ast.AST) -> bool:
    return not isinstance(getattr(node, "ctx", ast.Load()), ast.Load)


def _paths(node: ast.AST | None, names: dict[str, list[Path]]) -> list[Path]:
    """The modules that an expression may be, as far as it is reached from the names that are known."""
    if isinstance(node, ast.Name):
        return names.get(node.id, [])
    if isinstance(node, ast.Attribute):
        return [(*path, node.attr) for path in _paths(node.value, names)]
    if isinstance(node, ast.Subscript):
        return [(*path, _ANY) for path in _paths(node.value, names)]
    if isinstance(node, ast.Call):
        return _called(node, names)
    return []


def _called(node: ast.Call, names: dict[str, list[Path]]) -> list[Path]:
    """Returns the names that `getattr(module, name)` and `layers.values()` and its like read."""
    function = node.func
    if isinstance(function, ast.Name) and function.id == "getattr" and len(node.args) > 1:
        name = node.args[1]
        part = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else _ANY
        return [(*path, part) for path in _paths(node.args[0], names)]
    if isinstance(function, ast.Attribute) and function.attr in _OF_CONTAINERS:
        return [(*path, _ANY) for path in _paths(function.value, names) if path]
    return []


def _bindings(tree: ast.AST, names: dict[str, list[Path]]) -> Iterator[tuple[str, list[Path]]]:
    """Local names, and the modules that assignments and loops bind them to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets, paths = node.targets, _within(node.value, names)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets, paths = [node.target], _within(node.value, names)
        elif isinstance(node, ast.For | ast.comprehension):
            targets, paths = [node.target], [(*path, _ANY) for path in _within(node.iter, names) if path]
        else:
            continue
        bound = [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        yield from ((name, paths) for name in bound if name not in names or names[name] != [()])


def _within(node: ast.AST | None, names: dict[str, list[Path]]) -> list[Path]:
    """The paths of the largest parts of an expression that have any."""
    if node is None:
        return []
    if paths := _paths(node, names):
        return paths
    return [path for child in ast.iter_child_nodes(node) for path in _within(child, names)]


def used_elsewhere(model: nn.Module) -> dict[int, str]:
    """Who else has a parameter or a module, by its id: modules that share it, read its weight, or keep it in a list."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = {key: "tied" for key, times in holders.items() if times > 1}
    found |= {key: f"{reader} reads its weight" for key, reader in readers(model).items()}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in _MEMBERS:
                found |= {key: f"{type(module).__name__} keeps it in {name}, too" for key in _ids(value)}
    return found


def _ids(value: Any, depth: int = 3) -> Iterator[int]:
    """The ids of parameters and modules in an attribute, which may be a list, dict, … of them."""
    if isinstance(value, nn.Parameter | nn.Module):
        yield id(value)
    elif depth and isinstance(value, list | tuple | set | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _ids(one, depth - 1)
