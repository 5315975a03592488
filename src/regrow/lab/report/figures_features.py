"""Figures of class specialisation, from what `regrow features` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy

from .charts import BASE, Chart, Figure, Picture, by_label, finish
from .pictures import heat_picture

__all__ = ["feature_figures"]

BINS = 20
Network = Mapping[str, Any]


def feature_figures(features: Mapping[str, Any]) -> list[Figure]:
    """Specialisation of the channels of each layer, and the share of each class in each channel."""
    networks = features["networks"]
    commands = [features["command"]]
    examples = f"{networks[0]['examples']} images of the {networks[0]['split']} set"
    layers = [layer["name"] for layer in networks[0]["layers"]]
    means = [
        {"label": network["label"], "layer": layer["name"], "mean": float(numpy.mean(layer["specialisation"]))}
        for network in networks
        for layer in network["layers"]
        if layer["specialisation"]
    ]
    mean = BASE.mark_line(point=True).encode(
        alt.X("layer:N", sort=layers, title="layer, from input to output", axis=alt.Axis(labelAngle=-40)),
        alt.Y("mean:Q", title="mean class specialisation", scale=alt.Scale(zero=False)),
        tooltip=["label:N", "layer:N", "mean:Q"],
        **by_label([network["label"] for network in networks]),
    )
    silent = "; ".join(
        f"{network['label']}: {sum(layer['silent'] for layer in network['layers'])}" for network in networks
    )
    return [
        Figure(
            "Class specialisation by layer",
            "A channel's activation is shared out among the classes; the largest share is its specialisation, from "
            f"{1 / networks[0]['classes']:.3g} (all classes alike) to 1 (one class alone). Mean over channels, "
            f"{examples}. Channels that are never active: {silent}.",
            commands,
            [finish(mean, means, 220)],
        ),
        Figure(
            "Class specialisation of channels",
            f"Channels of a layer (upwards) in each of {BINS} ranges of specialisation, from 0 to 1.",
            commands,
            [_histogram(networks, name) for name in layers],
            small=True,
        ),
        Figure(
            "Share of each class in each channel",
            "A row is a class, a column a channel, ordered by the class with the largest share; dark is the largest "
            "share of the picture.",
            commands,
            pictures=[_shares(network, name) for name in layers for network in networks],
        ),
    ]


def _layer(network: Network, name: str) -> Mapping[str, Any]:
    return next(layer for layer in network["layers"] if layer["name"] == name)


def _histogram(networks: list[Network], name: str) -> Chart:
    rows = []
    for network in networks:
        counts, edges = numpy.histogram(_layer(network, name)["specialisation"], BINS, (0, 1))
        middles = (edges[1:] + edges[:-1]) / 2
        rows += [
            {"label": network["label"], "value": float(value), "channels": int(count)}
            for value, count in zip(middles, counts, strict=True)
        ]
    chart = BASE.mark_line(interpolate="step").encode(
        alt.X("value:Q", title=None, scale=alt.Scale(domain=[0, 1])),
        alt.Y("channels:Q", title=None, axis=alt.Axis(tickCount=3)),
        tooltip=["label:N", "value:Q", "channels:Q"],
        **by_label([network["label"] for network in networks]),
    )
    return finish(chart, rows, 90, name)


def _shares(network: Network, name: str) -> Picture:
    """Classes by channels, channels ordered by their largest class; rows tall enough to be seen."""
    shares = numpy.array(_layer(network, name)["shares"])
    ordered = shares[numpy.lexsort((-shares.max(1), shares.argmax(1)))].T
    ordered = ordered.repeat(max(1, ordered.shape[1] // 4 // len(ordered)), axis=0)
    return heat_picture(ordered / max(ordered.max(), 1e-12), f"{name}, {network['label']}")
