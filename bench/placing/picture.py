"""The picture of the placement, for docs/guides/scaling.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt

from bench.report import Summary

from .churn import LAGS_S
from .figure import REPLICAS
from .schemes import SCHEMES

_COLORS = dict(zip(SCHEMES, ("#1f6f8b", "#7fb069", "#c0694e"), strict=True))
_SHADES = dict(zip((0, *LAGS_S), ("#b8b8b8", "#63b3cf", "#1f6f8b", "#123f50"), strict=True))


def draw(figures: Summary) -> None:
    """Balance, moves, redirects and the two rules of the rate, each by the number of replicas."""
    _, ((balance, moves), (redirects, joins)) = plt.subplots(2, 2, figsize=(11, 8))
    plt.subplots_adjust(hspace=0.42, wspace=0.22)
    for scheme, color in _COLORS.items():
        names = [f"{scheme}: {n} replicas" for n in REPLICAS]
        _line(balance, figures, names, "max_over_mean", color, scheme)
        _line(moves, figures, names, "moved_share", color, scheme)
    moves.plot(REPLICAS, [1 / (n + 1) for n in REPLICAS], ":", color="black", label="ideal")
    for lag_s, color in _SHADES.items():
        names = [f"rolling restart: {n} replicas" for n in REPLICAS]
        label = "list of now" if lag_s == 0 else f"list {lag_s} s old"
        _line(redirects, figures, names, f"redirected_share_{lag_s}_s", color, label)
    for name, label, color in (
        ("one comes", "the rate bounds giving and getting", "#1f6f8b"),
        ("one comes, givers bounded only", "the rate bounds giving only", "#c0694e"),
    ):
        names = [f"{name}: {n} replicas" for n in REPLICAS]
        _line(joins, figures, names, "queue_p99_ms", color, label)
    balance.set_title("fullest replica over the mean, of all sessions", fontsize=10)
    moves.set_title("share of all sessions that move when one replica comes", fontsize=10)
    redirects.set_title("share of binds that are redirected in a rolling restart", fontsize=10)
    joins.set_title("a replica comes: wait for a place at it, 99th percentile, ms", fontsize=10)
    for axes in (balance, moves, redirects, joins):
        _finish(axes)
    balance.set_yscale("linear")
    plt.suptitle("the same number of sessions on each replica", y=0.94)


def _line(
    axes: Any,
    figures: Mapping[str, Any],
    names: list[str],
    quantity: str,
    color: str,
    label: str,
) -> None:
    values = [figures[name][quantity]["median"] for name in names]
    axes.plot(REPLICAS, values, marker="o", markersize=4, color=color, label=label)


def _finish(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(REPLICAS, [f"{n:,}" for n in REPLICAS])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("replicas")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
