"""Which features of a network go together, and which are constant: found by running its traced graph once.

A feature is a channel of an activation (N, C, ...), or a column of one (N, C). A layer's outputs are new features;
batch norms, activations and pools pass features on; a sum ties its terms feature by feature, as in the dependency graph
of Fang et al. 2023 (DepGraph, arXiv:2301.12900, section 3); concatenation and flattening line features up. Whatever an
operation that is not known here takes and gives is pinned: it stays as it is, and so does all that goes with it.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ._features import Call, Features, averaged, normalised

__all__ = ["LAYERS", "NORMS", "Coupling"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_PASS = (nn.Identity, nn.modules.dropout._DropoutNd)
_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
"""These give a constant feature as it is."""

_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ELEMENTWISE = {
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardtanh, F.hardswish, F.dropout),
    *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.add, torch.sub, torch.mul),
    *(operator.add, operator.iadd, operator.sub, operator.mul, operator.neg),
    *("relu", "relu_", "sigmoid", "tanh", "add", "add_", "sub", "mul", "clamp"),
}
_POOL_CALLS = {
    *(F.max_pool1d, F.max_pool2d, F.max_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
_FLATTEN = {torch.flatten, "flatten", "view", "reshape"}


class Coupling(fx.Interpreter):
    """Runs a traced network on an example, in evaluation and float64, and learns how its features hang together.

    Attributes:
        calls: layers and batch norms that can be made smaller, in the order of the graph.
    """

    def __init__(self, graph_module: fx.GraphModule):
        super().__init__(graph_module, garbage_collect_values=False)
        self.calls: list[Call] = []
        self._parents: list[int] = []
        self._pinned: set[int] = set()
        self._features: dict[fx.Node, Features] = {}
        self._used_once = _used_once(graph_module)

    def groups(self, features: Features) -> Tensor:
        """(C,) the number by which the group of each feature is known."""
        return torch.tensor([self._root(group) for group in features.groups.tolist()], dtype=torch.int64)

    @property
    def free(self) -> Tensor:
        """(groups,) bool, which may be removed as far as the operations between layers go."""
        flags = torch.ones(len(self._parents), dtype=torch.bool)
        flags[[self._root(group) for group in self._pinned]] = False
        return flags

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        features = self._known(n, result) if isinstance(result, Tensor) and result.dim() >= 2 else None
        if features is not None:
            self._features[n] = features
        elif not _asks_another_size(n):
            self._pin(n, result)
        return result

    # -- groups of features

    def _root(self, group: int) -> int:
        while self._parents[group] != group:
            self._parents[group] = group = self._parents[self._parents[group]]
        return group

    def _tie(self, one: Features, other: Features) -> None:
        for a, b in zip(one.groups.tolist(), other.groups.tolist(), strict=True):
            self._parents[self._root(b)] = self._root(a)

    def _new(self, number: int) -> Features:
        first = len(self._parents)
        self._parents += range(first, first + number)
        return Features(torch.arange(first, first + number), torch.full((number,), torch.nan, dtype=torch.float64))

    def _pin(self, node: fx.Node, result: Any) -> None:
        """Keeps all that an operation takes and gives as it is."""
        known = [self._features[source] for source in node.all_input_nodes if source in self._features]
        if isinstance(result, Tensor) and result.dim() >= 2:
            self._features[node] = self._new(result.size(1))
            known.append(self._features[node])
        for features in known:
            self._pinned.update(features.groups.tolist())
            features.constant.fill_(torch.nan)

    # -- operations

    def _known(self, node: fx.Node, result: Tensor) -> Features | None:
        """The features of an operation's result; None where it is not known."""
        sources = [source for source in node.all_input_nodes if isinstance(self.env[source], Tensor)]
        if not sources or any(source not in self._features for source in sources):
            return None
        if len(sources[0].users) > 1 and _writes_its_input(node, self.module):
            return None  # what the others read is not what it was
        if node.op == "call_module":
            return self._module(node, sources[0], result)
        if node.target == "contiguous":
            return self._features[sources[0]]
        if node.target in _ELEMENTWISE:
            return self._elementwise(node, sources)
        if node.target in _POOL_CALLS or _is_mean_over_places(node):
            return self._features[sources[0]] if self._has_places(sources[0], result) else None
        if node.target in _FLATTEN and _flattens(node):
            return self._flattened(sources[0], result)
        if node.target is torch.cat and (*node.args[1:], *node.kwargs.values()) == (1,):
            parts = [self._features[source] for source in node.args[0]]  # type: ignore[union-attr, index]
            return Features(torch.cat([p.groups for p in parts]), torch.cat([p.constant for p in parts]))
        return None

    def _module(self, node: fx.Node, source: fx.Node, result: Tensor) -> Features | None:
        module: Any = self.fetch_attr(str(node.target))
        given = self._features[source]
        if isinstance(module, _PASS):
            return given
        if isinstance(module, _POOLS) and self._has_places(source, result):
            return given
        if type(module) in _AVERAGES and self._has_places(source, result):
            return Features(given.groups, averaged(given.constant, module))
        if type(module) in _ELEMENTWISE:
            return self._elementwise(node, [source])
        if type(module) is nn.Flatten:
            return self._flattened(source, result)
        if str(node.target) not in self._used_once:
            return None
        return self._call(str(node.target), module, given, self.env[source].dim())

    def _call(self, path: str, module: Any, given: Features, dimensions: int) -> Features | None:
        """The features that a layer or a batch norm gives; it is noted among the calls."""
        if type(module) in NORMS and module.running_mean is not None:
            made = Features(given.groups, normalised(given.constant, module))
        elif type(module) in LAYERS and dimensions == module.weight.dim() and getattr(module, "groups", 1) == 1:
            made = self._new(module.weight.size(0))
        else:
            return None
        call = Call(path, module, given, made)
        if type(module) in LAYERS:
            made.constant.copy_(call.layer_constant())
        self.calls.append(call)
        return made

    def _elementwise(self, node: fx.Node, sources: list[fx.Node]) -> Features | None:
        """Activations, and sums of activations with the same features; done to the constants as well."""
        terms = [self._features[source] for source in sources]
        if len({(self.env[source].dim(), self.env[source].size(1)) for source in sources}) > 1:
            return None
        if sources != node.all_input_nodes:
            return None
        for term in terms[1:]:
            self._tie(terms[0], term)
        constants = dict(zip(sources, (term.constant.clone() for term in terms), strict=True))
        arguments = fx.node.map_arg(node.args, constants.__getitem__)
        options = fx.node.map_arg(node.kwargs, constants.__getitem__)
        value = getattr(self, node.op)(node.target, arguments, options)
        unknown = torch.stack([term.constant.isnan() for term in terms]).any(0)
        return Features(terms[0].groups, value.masked_fill(unknown, torch.nan))

    def _has_places(self, source: fx.Node, result: Tensor) -> bool:
        """Returns whether a pool goes over places, not over the features of (N, C)."""
        return self.env[source].dim() > 2 and self.env[source].size(1) == result.size(1)

    def _flattened(self, source: fx.Node, result: Tensor) -> Features | None:
        """(N, C, ...) as (N, C * ...): each feature becomes as many as it has places."""
        given, shape = self._features[source], self.env[source].shape
        if result.shape != (shape[0], shape[1:].numel()):
            return None
        places = shape[2:].numel()
        return Features(given.groups.repeat_interleave(places), given.constant.repeat_interleave(places))


def _used_once(graph_module: fx.GraphModule) -> set[str]:
    """Paths of modules that run once, and whose parameters nobody else reads."""
    calls = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    times = Counter(id(graph_module.get_submodule(path)) for path in calls)
    owners = Counter(id(p) for module in set(graph_module.modules()) for p in module.parameters(recurse=False))
    read = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
    return {
        path
        for path in calls
        if path not in read
        and times[id(module := graph_module.get_submodule(path))] == 1
        and all(owners[id(p)] == 1 for p in module.parameters())
    }


def _writes_its_input(node: fx.Node, root: Any) -> bool:
    if node.op == "call_module":
        return getattr(root.get_submodule(str(node.target)), "inplace", False)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return (
        name.endswith("_")
        or node.target is operator.iadd
        or any(value is True for value in (*node.args, *node.kwargs.values()))
    )


def _flattens(node: fx.Node) -> bool:
    """Returns whether the size of the result is not written down as a number."""
    return node.target not in ("view", "reshape") or node.args[2:] == (-1,)


def _is_mean_over_places(node: fx.Node) -> bool:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return node.target in ("mean", torch.mean) and dims in ((2, 3), [2, 3], (-2, -1), [-2, -1], (-1, -2), [-1, -2])


def _asks_another_size(node: fx.Node) -> bool:
    """Returns whether it asks for the size of a batch or a plane, which stays."""
    if node.target == "size":
        return node.args[1:] not in ((), (1,), (-1,)) and not node.kwargs
    if node.target is getattr and node.args[1] == "shape":
        return all(user.target is operator.getitem and user.args[1] in (0, 2, 3) for user in node.users)
    return False
