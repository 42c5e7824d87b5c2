"""What the figures of all experiments share: palette, panels, runs as dots and lines, digits, captions.

Each experiment's own figures stand in its module. A function that returns one is marked `@figure`: it draws under
matplotlib's own settings, whatever a user's matplotlibrc says. No figure computes a result beyond means and intervals.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from infovae.claims.intervals import SEEDS_FOR_INTERVAL, half_width
from infovae.config import RunConfig
from infovae.labels import OBJECTIVE_WORDS, as_markdown, count, format_number, join, label, objective_name

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.axes import Axes

# Okabe and Ito's palette, safe for colour-blind readers, with purple and brown for its yellow: too pale for lines
_LOOKS = {
    "elbo": ("#000000", "o"), "averaged_elbo": ("#E69F00", "s"), "unregularized": ("#56B4E9", "^"),
    "mmd": ("#009E73", "D"), "stein": ("#D55E00", "v"), "wasserstein": ("#7F3C8D", "P"), "jensen": ("#0072B2", "X"),
    "aae": ("#CC79A7", "*"), "unconditional": ("#8A8A8A", "h"), "pixels": ("#8C6D31", "p"),
}  # fmt: skip
_REST = [name for name in OBJECTIVE_WORDS if name not in _LOOKS]
_MORE = [(color, marker) for marker in "<>phd" for color, _ in _LOOKS.values()]
_AGAIN = dict(zip(_REST, cycle(_MORE), strict=False))
PALETTE = {name: (_LOOKS | _AGAIN)[name][0] for name in OBJECTIVE_WORDS}
MARKERS = {name: (_LOOKS | _AGAIN)[name][1] for name in OBJECTIVE_WORDS}

DPI = 200
NOTE: dict[str, Any] = {"fontsize": 7, "color": "0.35"}


class Captioned(Figure):
    """A figure that says what it shows, for those who cannot see it, and how to read it."""

    caption = ""
    png = b""

    def captioned(self, shown: Any, caption: str) -> Captioned:
        """Set how to read the figure, and return it; say so across it where there is nothing `shown`."""
        uneven = any("symlog" in (ax.get_xscale(), ax.get_yscale()) for ax in self.axes)
        self.caption = caption + " Uneven axes are linear around 0 and logarithmic beyond." * uneven
        if not len(shown):
            self.text(0.5, 0.5, "no run has a result", ha="center", va="center", fontsize=11, color="0.3")
        return self

    @property
    def alt(self) -> str:
        """What the figure shows: its panels and axes, the entries of its legend; of pictures, how to read them."""
        shown, axes = [], [ax for ax in self.axes if ax.get_label() != "<colorbar>"]
        for ax in axes:
            words = " ".join(text for text in (ax.get_title(), ax.get_ylabel()) if text).replace("\n", " ")
            against = f"against {ax.get_xlabel()}" if ax.get_xlabel() else ""
            shown += [text] if (text := f"{words} {against}".strip()) else []
        entries = [text.get_text() for box in self.legends for text in box.get_texts()]
        named = "; ".join(dict.fromkeys(shown))
        text = f"{count(axes, 'panel')}: {named}." + (f" Shown: {join(entries)}." if entries else "")
        labelled = any(ax.get_xlabel() or ax.get_ylabel() for ax in self.axes)
        return text if labelled else f"{text} {self.caption}".strip()

    def to_png(self) -> bytes:
        """Return the figure, as it is when first asked, as a PNG of few colours: a quarter of the size of all."""
        if self.png:
            return self.png
        buffer, small = io.BytesIO(), io.BytesIO()
        with matplotlib.style.context("default"):
            self.savefig(buffer, dpi=DPI, bbox_inches="tight", facecolor="white")
        reduce_colors(buffer).save(small, "PNG", optimize=True)
        self.png = small.getvalue()
        return self.png

    def _ipython_display_(self) -> None:
        """Show the figure in a notebook as it is published, with its alternative text, its caption below."""
        from IPython.display import Image, Markdown, display

        png = self.to_png()
        display(Image(data=png, alt=self.alt, width=display_width(png)), Markdown(as_markdown(self.caption)))


def reduce_colors(png: io.BytesIO) -> PIL.Image.Image:
    """Return an image in the 64 colours that it has most of, exactly, and 64 that cover the rest."""
    from PIL import Image

    image = Image.open(png).convert("RGB")
    packed = np.ravel_multi_index(np.moveaxis(np.asarray(image), 2, 0), (256, 256, 256))
    values, place, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colors = np.stack(np.unravel_index(values, (256, 256, 256)), axis=1)
    rest = np.reshape(image.quantize(64, Image.Quantize.MAXCOVERAGE).getpalette() or [], (-1, 3))
    kept = np.concatenate([colors[np.argsort(-counts, kind="stable")[:64]], rest[:64]])
    nearest = ((colors[:, None] - kept) ** 2).sum(axis=2).argmin(axis=1).astype(np.uint8)
    reduced = Image.fromarray(nearest[place].reshape(packed.shape))
    reduced.putpalette(kept.astype(np.uint8).tobytes())
    return reduced


def display_width(png: bytes) -> int:
    """Return the width in pixels at which a PNG of `DPI` is to be shown, its text at the size of the page's."""
    return int.from_bytes(png[16:20], "big") * 100 // DPI  # of the IHDR chunk, which comes first


figure = matplotlib.style.context("default")
"""Mark a function that returns a figure: it draws under matplotlib's default settings."""


def panels(n: int, width: float, height: float, n_columns: int = 0, **share: Any) -> tuple[Captioned, list[Axes]]:
    """Return a figure with n panels, at least one, in rows of `n_columns`; sizes are of a panel, in inches.

    By default rows of three, but none that is left with a single panel.
    """
    n = max(1, n)
    n_columns = min(n, n_columns or {4: 2, 7: 4}.get(n, 3))
    n_rows = -(-n // n_columns)
    drawn = Captioned(figsize=(width * n_columns, height * n_rows + 0.4), layout="constrained")
    axes = drawn.subplots(n_rows, n_columns, squeeze=False, **share).ravel().tolist()
    for ax in axes[n:]:
        ax.remove()
    return drawn, axes[:n]


def finished(runs: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """Return the runs that have a result, with a column for each of the metrics: NaN where none was measured."""
    done = runs[runs["status"] == "done"]
    return done.assign(**{metric: np.nan for metric in metrics if metric not in done})


def by_objective(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (objective, its rows) in the order of the palette."""
    present = set(runs["objective"])
    return [(name, runs[runs["objective"] == name]) for name in PALETTE if name in present]


def look(objective: str) -> dict[str, Any]:
    """Return the colour and the marker of an objective, as arguments for matplotlib."""
    return {"color": PALETTE[objective], "marker": MARKERS[objective]}


OURS_AND_THEIRS: dict[str, dict[str, Any]] = {
    "ours": {"marker": "o"}, "authors’ code": {"marker": "o", "mfc": "white", "ls": "--"}
}  # fmt: skip
"""What the legend says of numbers that stand beside the authors'."""


def draw_theirs(ax: Axes, numbers: pd.DataFrame, x: str, y: str, divide_by: float = 1.0) -> None:
    """Draw the authors' numbers, a dashed line with open markers per objective."""
    for objective, group in by_objective(numbers):
        style = {**look(objective), "ls": "--", "lw": 1, "ms": 4, "mfc": "white", "label": objective_name(objective)}
        ax.plot(group[x], group[y] / divide_by, **style)


def draw_runs(
    ax: Axes, runs: pd.DataFrame, x: str, metric: str, name: str, color: str, marker: str = "o", factor: float = 1.0,
    bars: bool = True,
) -> None:  # fmt: skip
    """Draw a metric against a column: each run a dot, the means a line, with thin intervals where seeds carry them.

    Parameters
    ----------
    factor : moves the dots along a logarithmic axis, so that objectives stand side by side.
    bars : whether there are intervals.
    """
    groups = runs.groupby(x)[metric]
    means = groups.mean(skipna=False) if len(runs) else pd.Series(dtype=float)
    widths = [half_width(group) if bars and len(group) >= SEEDS_FOR_INTERVAL else np.nan for _, group in groups]
    at = means.index.to_numpy(float) * factor
    ax.plot(at, means, color=color, marker=marker, ms=4.5, lw=1.4, label=name)
    ax.errorbar(at, means, widths, fmt="none", ecolor=color, elinewidth=0.7, alpha=0.6)
    ax.scatter(runs[x] * factor, runs[metric], s=9, color=color, marker=marker, alpha=0.5, linewidths=0)


def draw_objectives(ax: Axes, runs: pd.DataFrame, x: str, metric: str) -> None:
    """Draw each objective's runs by `draw_runs`, side by side on a logarithmic axis."""
    groups = by_objective(runs)
    for number, (objective, group) in enumerate(groups):
        factor = 1.03 ** (number - (len(groups) - 1) / 2)
        draw_runs(ax, group, x, metric, objective_name(objective), **look(objective), factor=factor)
    ticks = sorted(runs[x].unique())
    ax.set_xscale("log")
    if len(ticks) == 1:  # else the objectives, side by side, would fill the axis
        ax.set_xlim(ticks[0] / 2, ticks[0] * 2)
    ax.set_xticks(ticks, thousands(ticks), minor=False)
    ax.minorticks_off()


def thousands(ticks: Iterable[float]) -> list[str]:
    """Return the labels of ticks, from 1,000 on as "1k", so that they stand apart on a logarithmic axis."""
    return [f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}" for tick in ticks]


def style_rows(axes: Sequence[Axes], names: Sequence[str], scales: Sequence[float | None]) -> None:
    """Style panels that share a row per name: metrics along the axis, around 0 linear within the scale, if any."""
    for ax, linear_below in zip(axes, scales, strict=True):
        logarithmic(ax, linear_below, "x")
        if linear_below:
            ax.axvline(0, color="0.5", lw=0.6)
        ax.title.set_fontsize(7.5)
        ax.tick_params(labelsize=7)
        if ax.get_xscale() == "linear":
            ax.locator_params(axis="x", nbins=4)
        ax.grid(axis="y", lw=0.3, color="0.9")
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_ylim(len(names) - 0.5, -0.5)


class Panel(NamedTuple):
    """How a metric is drawn: where a logarithmic axis becomes linear, its limits, and what it leaves room for.

    `limits` are words -> value or column. An objective that is named as `far` may lie outside the frame.
    """

    linear_below: float | None = None
    limits: Mapping[str, float | str] = MappingProxyType({})
    far: str = ""


@figure
def plot_metrics(runs: pd.DataFrame, x: str, metrics: Mapping[str, Panel], caption: str) -> Captioned:
    """Return a panel per metric against a column, a line per objective, each run a dot, the limits as thin lines.

    A metric that no run has gets no panel.
    """
    done = finished(runs, *metrics)
    shown = {metric: panel for metric, panel in metrics.items() if done[metric].notna().any() or not len(done)}
    drawn, axes = panels(len(shown), 3.5, 2.7)
    for ax, (metric, panel) in zip(axes, shown.items(), strict=True):
        draw_objectives(ax, done, x, metric)
        logarithmic(ax, panel.linear_below)
        given = {
            words: done.get(level, pd.Series()).mean() if isinstance(level, str) else level
            for words, level in panel.limits.items()
        }
        for words, level in given.items():
            if level == level:
                ideal(ax, level, words)
        span_near(ax, done, metric, panel.far, given.values())
        ax.set(xlabel=label(x))
        ax.set_title(label(metric), fontsize=11)
    legend(drawn)
    return drawn.captioned(done, f"{spread(runs)} {caption}")


def draw_history(ax: Axes, history: pd.DataFrame, metric: str, **style: Any) -> None:
    """Draw a logged metric against the training step: a line per run, thin where there are several, their mean bold.

    `history` has the column `objective`.
    """
    for objective, group in by_objective(history.dropna(subset=[metric])):
        runs = [run for _, run in group.groupby("run_id")]
        several = len(runs) > 1
        if several:
            runs.append(group.groupby("step", as_index=False)[[metric]].mean())
        for place, run in enumerate(runs):
            thin = several and place < len(runs) - 1
            look = {"lw": 0.5, "alpha": 0.45} if thin else {"lw": 1.6 if several else 1.0, "alpha": 0.9}
            name = None if thin else objective_name(objective)
            ax.plot(run["step"], run[metric], **{"color": PALETTE[objective], "label": name, **look, **style})


def draw_digits(ax: Axes, images: np.ndarray, title: str, n_columns: int = 10) -> None:
    """Draw images (n, 1, H, W) in [0, 1], dark on white, in at most `n_columns` rows of `n_columns`."""
    n = min(len(images), n_columns**2) // n_columns * n_columns or len(images)
    tiles = np.pad(images[:n, 0], ((0, 0), (1, 1), (1, 1)))  # a frame keeps neighbours apart
    rows = [np.concatenate(list(tiles[i : i + n_columns]), axis=1) for i in range(0, n, n_columns)]
    ax.imshow(np.concatenate(rows), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", origin="upper")
    ax.set(xticks=[], yticks=[], title=title)


@figure
def plot_digits(groups: Mapping[str, np.ndarray], caption: str, n_columns: int = 0) -> Captioned:
    """Return a panel of up to 10 x 10 images for each group, title -> images (n, 1, H, W)."""
    rows = max((min(10, len(images) // 10) for images in groups.values()), default=5) or 1
    drawn, axes = panels(len(groups), 2.9, 0.29 * rows, n_columns)
    for ax, (title, images) in zip(axes, groups.items(), strict=False):
        draw_digits(ax, images, title)
    return drawn.captioned(groups, caption)


def select_arrays(
    runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], key: str, **conditions: Any
) -> dict[str, np.ndarray]:
    """Return objective -> array `key` of its first run that meets the conditions, in the order of the palette."""
    found: dict[str, np.ndarray] = {}
    for (_, run), kept in zip(runs.iterrows(), arrays, strict=True):
        if key in kept and all(run[name] == value for name, value in conditions.items()):
            found.setdefault(str(run["objective"]), kept[key])
    return {name: found[name] for name in PALETTE if name in found}


def ideal(ax: Axes, value: float, name: str) -> None:
    """Draw the value that would be ideal, or a limit, as a thin line with its name at its left end."""
    ax.axhline(value, color="0.5", lw=0.6, zorder=0.5)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "zorder": 0.6}
    box = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6}
    ax.annotate(name, (0, value), (3, 1), va="bottom", bbox=box, **place, **NOTE)


def logarithmic(ax: Axes, linear_below: float | None, which: Literal["x", "y"] = "y") -> None:
    """Make an axis logarithmic on both sides of 0, linear within `linear_below` of it; None: leave it.

    Called once the data are drawn: what reaches less than 3 `linear_below` stays linear, and a range of less than some
    decades gets ticks at 1, 2 and 5.
    """
    axis, set_scale = (ax.xaxis, ax.set_xscale) if which == "x" else (ax.yaxis, ax.set_yscale)
    if linear_below is None or np.abs(axis.get_data_interval()).max() <= 3 * linear_below:
        return
    set_scale("symlog", linthresh=linear_below)
    ends = [*axis.get_data_interval(), linear_below, 10 * linear_below]
    low, high, *decade = axis.get_transform().transform(np.array(ends))
    subs = (1, 2, 5) if high - low < 1.5 * (decade[1] - decade[0]) else (1,)
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear_below, subs=subs))
    axis.set_major_formatter("{x:g}")


def span(ax: Axes, values: Iterable[float]) -> None:
    """Limit the vertical axis to the values, with a margin: intervals may reach beyond the frame."""
    numbers = np.array([value for value in values if np.isfinite(value)])
    transform = ax.yaxis.get_transform()
    ends = transform.transform(np.array([numbers.min(), numbers.max()])) if len(numbers) else np.array([])
    if len(ends) and np.isfinite(ends).all():
        margin = 0.08 * (ends[1] - ends[0] or abs(ends[0])) or 0.1
        ax.set_ylim(*transform.inverted().transform(ends + np.array([-margin, margin])))


def span_near(ax: Axes, runs: pd.DataFrame, metric: str, far: str, others: Iterable[float] = ()) -> None:
    """Limit the vertical axis to other values and those of runs, but for an objective that would press them together.

    Where the objective `far` lies above the frame, the mean of all its runs stands there in words.
    """
    is_far = runs["objective"] == far
    span(ax, [*others, *(runs if is_far.all() else runs[~is_far])[metric]])
    mean = runs.loc[is_far, metric].mean()
    if mean > ax.get_ylim()[1]:
        words = f"{objective_name(far)}: {format_number(mean)} on average ↑"
        ax.text(0.98, 0.98, words, transform=ax.transAxes, ha="right", va="top", **NOTE)


def legend(drawn: Figure, styles: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Put one legend below all panels: the names of their lines, each once, then `styles`, name -> line style."""
    found: dict[str, Any] = {}
    for ax in drawn.axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    found |= {name: Line2D([], [], **{"color": "0.4", **style}) for name, style in (styles or {}).items()}
    if found:
        n_rows = math.ceil(len(found) / max(1, int(drawn.get_figwidth() / 1.3)))
        n_columns = math.ceil(len(found) / n_rows)
        labels, handles = list(found), list(found.values())
        drawn.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)


def shades(color: str, n: int) -> list[str]:
    """Return n shades of a colour, from pale to full."""
    strength = np.linspace(0.45, 1, n) if n > 1 else [1.0] * n
    red, green, blue = to_rgb(color)
    return [to_hex((1 - s * (1 - red), 1 - s * (1 - green), 1 - s * (1 - blue))) for s in strength]


def bold(runs: pd.DataFrame) -> str:
    """Say in a caption's words what thin and bold lines of `draw_history` are; nothing where there is one seed."""
    return " Thin lines are runs, bold ones their means." if finished(runs)["seed"].nunique() > 1 else ""


def spread(runs: pd.DataFrame) -> str:
    """Say in a caption's words how the seeds are drawn."""
    many = finished(runs)["seed"].nunique() >= SEEDS_FOR_INTERVAL
    bars = "; thin bars are 95 % intervals over seeds and may leave the frame" if many else ""
    return (
        f"Small symbols are single runs ({count_seeds(runs)}), large ones their means, joined by lines, moved "
        f"sideways where they would hide one another{bars}."
    )


def count_seeds(runs: pd.DataFrame) -> str:
    """Return "1 seed", "3 seeds", or "1 to 3 seeds" where finished runs of other settings differ in their number."""
    done = finished(runs)
    settings = [name for name in RunConfig.model_fields if name in done and name != "seed"]
    numbers = done.groupby(settings, dropna=False)["seed"].nunique() if len(done) else [0]
    low, high = min(numbers), max(numbers)
    return f"{'' if low == high else f'{low} to '}{high} seed{'' if high == 1 else 's'}"
