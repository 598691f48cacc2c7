"""The drawings of a probe's page as inline SVG. Marks differ in shape and lines in dashes, so that grey is enough."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medssl.probe.findings import Findings, Question
from medssl.report.drawing import for_page
from medssl.report.page import tame

HUES = ("#4f79a8", "#c2703d", "#6b9a58", "#8a6bb0", "#b59a2e", "#5aa3a3")
"""Of about one lightness, seen on a light and on a dark page; never the only difference."""

MARKS, DASHES = "osD^vP", ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), (0, (9, 3)), (0, (3, 3)))

MOST_POINTS = 600
"""Volumes drawn in a map: more take room on the page and show no more."""

NAME_INCHES = 1.2


def bars(questions: Sequence[Question], held_out: str) -> str:
    """For each question a bar for the neighbours and one for the line, with chance, untrained and intervals."""
    ways = [("neighbours", HUES[0], ""), ("line", HUES[1], "//")] + ([("elsewhere", HUES[2], "..")] if held_out else [])
    step = 0.2 * len(ways) + 0.22
    figure, axes = _axes(6.8, step * len(questions) + 0.9, left=NAME_INCHES, top=0.32)
    told = []
    for number, one in enumerate(questions):
        place = number * (len(ways) + 1.0)
        for offset, (way, hue, hatch) in enumerate(ways):
            value, (low, high), raw = _answer(one, way)
            y = place + offset
            if value == value:
                axes.barh(y, value, 0.86, color=hue, alpha=0.75, hatch=hatch, edgecolor="white", lw=0.4)
                axes.plot([raw], [y], "o", mfc="#ffffff", mec="#000000", ms=4.5, zorder=3)
                told.append(f"{one.name} by {way} {value:.2f}, untrained {raw:.2f}")
            if low == low:
                axes.plot([low, high], [y, y], color="#000000", lw=1.2, zorder=2)
        middle = place + (len(ways) - 1) / 2
        axes.plot([one.chance] * 2, [place - 0.5, place + len(ways) - 0.5], color="#000000", lw=1.3, ls=(0, (2, 1.5)))
        axes.text(
            -0.02,
            middle,
            tame(one.name),
            ha="right",
            va="center",
            parse_math=False,
            transform=axes.get_yaxis_transform(),
        )
    shown = [_patch(hue, hatch, _way(way, held_out)) for way, hue, hatch in ways]
    shown += [
        _line("o", "untrained", mfc="#ffffff"),
        _line("", "chance", ls=(0, (2, 1.5))),
        _line("", "95 % interval", ls="-"),
    ]
    axes.legend(handles=shown, loc="lower left", bbox_to_anchor=(-0.21, 1.0), ncol=6, frameon=False, fontsize=7.2,
                handlelength=1.3, columnspacing=0.8, borderaxespad=0.1)  # fmt: skip
    axes.set_ylim(len(questions) * (len(ways) + 1.0) - 1.2, -0.8)
    axes.set_xlim(0, 1.02)
    axes.set_yticks([])
    axes.set_xlabel("balanced accuracy of held-out patients")
    axes.spines["left"].set_visible(False)
    return _svg(figure, "What can be read from the features, against chance and untrained", "; ".join(told), "bars")


def cloud(places: np.ndarray, words: np.ndarray, name: str, kind: str) -> str:
    """One small map of volumes (N, 2), marked by `words` (N,), of which the most frequent have marks of their own."""
    figure, axes = _axes(2.55, 2.5, left=0.08, bottom=0.5, top=0.06, right=0.08)
    known = [word for word in np.unique(words) if word]
    known = sorted(sorted(known, key=lambda word: -int((words == word).sum()))[: len(MARKS)])
    rest = ~np.isin(words, known)
    axes.plot(*places[rest].T, "x", color="#8a8f94", ms=3.5, label="other or unknown" if rest.any() else None)
    for word, mark, hue in zip(known, MARKS, HUES, strict=False):
        of = words == word
        axes.plot(*places[of].T, mark, color=hue, ms=4.6, alpha=0.85, mew=0, label=f"{tame(word)[:22]} ({of.sum()})")
    axes.set_xticks([])
    axes.set_yticks([])
    legend = axes.legend(loc="upper left", bbox_to_anchor=(-0.02, 0.0), ncol=2, frameon=False, fontsize=6.6,
                         handletextpad=0.1, columnspacing=0.6, labelspacing=0.25, borderaxespad=0.3)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    told = f"{len(words)} volumes as points, marked by {name}: " + ", ".join(f"{w} {(words == w).sum()}" for w in known)
    return _svg(figure, f"{kind} by {tame(name)}", told, f"{kind}-{''.join(c for c in name if c.isalnum())}".lower())


def curves(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, title: str, name: str) -> str:
    """Lines (steps, values) over the steps of a training; "… stuck" is dashed in the colour of the one that it is of."""
    figure, axes = _axes(3.5, 2.7, left=0.55, bottom=0.45, top=0.12, right=0.1)
    told, main = [], [key for key in lines if not key.endswith(" stuck")]
    for number, key in enumerate(main):
        hue = HUES[number % len(HUES)]
        dash = DASHES[number % len(DASHES)]
        axes.plot(*lines[key], color=hue, ls=dash, lw=1.5, label=key)
        told.append(f"{key} from {lines[key][1][0]:.3g} to {lines[key][1][-1]:.3g}")
        if floor := lines.get(f"{key} stuck"):
            axes.plot(*floor, color=hue, ls=(0, (1, 2)), lw=1.2, marker="_", ms=4, label=f"{key} if stuck")
            told.append(f"stuck at {floor[1][-1]:.3g}")
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    legend = axes.legend(frameon=False, fontsize=6.8, loc="best")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _svg(figure, title, "; ".join(told), name)


def spectra(trained: np.ndarray, untrained: np.ndarray) -> str:
    """Singular values by their number, as shares of the largest, of features and of untrained ones."""
    figure, axes = _axes(3.5, 2.7, left=0.55, bottom=0.45, top=0.12, right=0.1)
    for values, word, hue, dash in ((trained, "trained", HUES[0], "-"), (untrained, "untrained", HUES[1], DASHES[1])):
        share = values / max(float(values[0]), 1e-30)
        share = share[share > 1e-5]  # what is left beyond is rounding: the mean was taken off
        axes.semilogy(np.arange(1, len(share) + 1), share, color=hue, ls=dash, lw=1.5, label=word)
    axes.set_xlabel("direction")
    axes.set_ylabel("singular value / largest")
    axes.legend(frameon=False, fontsize=7)
    half = [int((values > 0.1 * values[0]).sum()) for values in (trained, untrained)]
    told = f"{half[0]} directions above a tenth of the largest; untrained {half[1]}"
    return _svg(figure, "Singular values of the features", told, "spectrum")


def label_curve(questions: Sequence[Question]) -> str:
    """The linear probe of each label against the number of labelled patients, with intervals."""
    figure, axes = _axes(4.4, 2.8, left=0.55, bottom=0.45, top=0.12, right=0.1)
    told = []
    for number, one in enumerate(questions):
        hue, few = HUES[number % len(HUES)], [lot.few for lot in one.curve]
        mark = MARKS[number % len(MARKS)]
        axes.plot(few, [lot.value for lot in one.curve], marker=mark, color=hue, ms=5, lw=1.5, label=tame(one.name))
        axes.plot(
            few,
            [lot.untrained for lot in one.curve],
            color=hue,
            ls=(0, (2, 2)),
            lw=1.1,
            label=f"{tame(one.name)}, untrained",
        )
        for lot in one.curve:
            axes.plot([lot.few] * 2, lot.interval, color=hue, lw=1)
            told.append(f"{one.name} with {lot.few} patients {lot.value:.2f}")
    axes.set_xscale("log")
    few = sorted({lot.few for one in questions for lot in one.curve})
    axes.set_xticks(few, [str(number) for number in few])
    axes.minorticks_off()
    axes.set_xlabel("labelled patients")
    axes.set_ylabel("balanced accuracy")
    legend = axes.legend(frameon=False, fontsize=7)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _svg(figure, "The linear probe with few labels", "; ".join(told), "few")


def health(found: Findings) -> str:
    """For each layer the variety of its kernels over that of random ones, and its share of dead filters."""
    figure, axes = _axes(6.8, 0.19 * len(found.layers) + 0.85, left=2.1, top=0.3, right=0.4)
    for place, layer in enumerate(found.layers):
        axes.plot([0, layer.variety], [place] * 2, color=HUES[0], lw=1)
        axes.plot(
            [layer.variety], [place], "s" if layer.degenerate else "o", color=HUES[0], ms=6 if layer.degenerate else 4
        )
        axes.plot([layer.dead], [place], "x", color=HUES[1], ms=5)
        text = f"{'▲ ' if layer.degenerate else ''}{tame(layer.name)} ({layer.filters})"
        axes.text(
            -0.01,
            place,
            text,
            ha="right",
            va="center",
            fontsize=7,
            parse_math=False,
            transform=axes.get_yaxis_transform(),
        )
    axes.plot([1, 1], [-0.5, len(found.layers) - 0.5], color="#000000", lw=0.9, ls=(0, (2, 1.5)))
    shown = [_line("o", "variety", mfc=HUES[0], mec=HUES[0]), _line("s", "degenerate", mfc=HUES[0], mec=HUES[0]),
             _line("x", "share dead", mec=HUES[1]), _line("", "random kernels", ls=(0, (2, 1.5)))]  # fmt: skip
    axes.legend(handles=shown, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncol=4, frameon=False, fontsize=7.5,
                handlelength=1.4, columnspacing=0.9, borderaxespad=0.1)  # fmt: skip
    axes.set_ylim(len(found.layers) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("variety of kernels / that of random ones")
    told = "; ".join(f"{one.name} variety {one.variety:.2f}, dead {one.dead:.0%}" for one in found.layers)
    return _svg(figure, "Health of the weights, layer by layer", told, "health")


def _answer(one: Question, way: str) -> tuple[float, tuple[float, float], float]:
    if way == "line":
        return one.linear, one.curve[-1].interval if one.curve else (np.nan, np.nan), one.linear_untrained
    if way == "elsewhere":
        return one.elsewhere, one.elsewhere_interval, one.elsewhere_untrained
    return one.neighbours, one.neighbours_interval, one.neighbours_untrained


def _way(way: str, held_out: str) -> str:
    return f"neighbours, other {held_out}" if way == "elsewhere" else way


def _axes(
    width: float, height: float, *, left: float, bottom: float = 0.5, top: float = 0.1, right: float = 0.1
) -> tuple[Any, Any]:
    """A figure and its axes, all in inches, the last four as margins."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 8.5, "axes.linewidth": 0.7, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(width, height))
        axes = figure.subplots()
    figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _patch(hue: str, hatch: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=hue, hatch=hatch, alpha=0.75, edgecolor="white", label=label)


def _line(mark: str, label: str, *, mfc: str = "none", mec: str = "#000000", ls: Any = "") -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=mark, mfc=mfc, mec=mec, ls=ls, color="#000000", ms=4.5, label=label)


def _svg(figure: Any, title: str, told: str, name: str) -> str:
    import matplotlib as mpl

    options = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 8.5}
    out = io.StringIO()
    with mpl.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's own font draws what the measuring one lacks
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return for_page(out.getvalue(), title, told, name)
