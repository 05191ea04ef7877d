"""Exercise 1: where exp ends in each number format, what the losses give there, and how many classes a sum can hold."""

import figures
import numpy as np

from tfsoftmax import numerics


def main() -> None:
    """Print the table and draw the figure."""
    options = figures.options()
    found = numerics.report()
    print(numerics.table(found))
    figure, (left, middle, right) = figures.panels(3, 4.2)
    _arguments(left, found)
    _losses(middle, 400 if options.small else 4000)
    _sums(right, 300 if options.small else 20_000)
    figures.save(figure, options.out)


def _arguments(axes, found) -> None:
    for i, entry in enumerate(reversed(found.values())):
        low, normal, high = entry["exp"].values()
        axes.plot([low, high], [i, i], color=figures.GREY, linewidth=7, solid_capstyle="butt")
        axes.plot([normal, high], [i, i], color=figures.GREEN, linewidth=7, solid_capstyle="butt")
        axes.annotate(f"{low:.4g} … {high:.4g}", (0, i), xytext=(0, 6), textcoords="offset points", ha="center", size=8)
    axes.set_xscale("symlog", linthresh=2, linscale=0.4)
    axes.set_xticks([-100, -10, 0, 10, 100], ["-100", "-10", "0", "10", "100"])
    axes.set_yticks(range(len(found)), list(found)[::-1])
    axes.set_ylim(-0.6, len(found) - 0.2)
    axes.set_xlabel("argument of exp")
    axes.set_title("exp neither 0 nor infinite\n(grey: subnormal)", loc="left", size=10)


def _losses(axes, points: int) -> None:
    form, limits = numerics.FORMATS["float16"], numerics.closed_form("float16")
    z = np.unique(form.rounded(np.linspace(-30, 30, points)))
    logits, labels = np.stack([z, np.zeros_like(z)], axis=1), np.ones(len(z), int)
    styles = zip(numerics.LOSSES, ((figures.RED, 5), (figures.BLUE, 3), (figures.GREEN, 1.2)), strict=True)
    for name, (colour, width) in styles:
        loss = numerics.LOSSES[name](logits, labels, "float16").astype(float)
        kept = np.isfinite(loss)
        axes.plot(z[kept].astype(float), loss[kept], color=colour, linewidth=width, label=name)
    axes.axvline(limits.largest, color="black", linestyle=":", label=f"exp's limit, {limits.largest:.4g}")
    axes.axvline(-limits.nonzero, color="black", linestyle="--", label=f"-(smallest argument), {-limits.nonzero:.4g}")
    axes.set_xlabel("z of logits (z, 0), label: the second")
    axes.set_ylabel("cross-entropy, drawn where it is finite")
    axes.set_title("float16: where each loss ends", loc="left", size=10)
    axes.legend(fontsize=8)


def _sums(axes, most: int) -> None:
    rng = np.random.default_rng(0)
    exps = np.exp(-np.abs(rng.normal(0, 1, most)))
    exact = np.cumsum(exps)
    classes = np.unique(np.geomspace(1, most, 60).astype(int))
    for name, colour in (
        ("float8_e4m3fn", figures.RED),
        ("bfloat16", figures.BLUE),
        ("float16", figures.GREEN),
        ("float32", "black"),
    ):
        dtype = numerics.FORMATS[name].dtype
        sums = np.add.accumulate(exps.astype(dtype)).astype(float)
        error = np.abs(sums - exact) / exact
        axes.loglog(classes, np.maximum(error[classes - 1], 1e-9), color=colour, label=name)
        axes.axvline(numerics.counts_to(name), color=colour, linestyle=":")
    axes.set_xlim(1, most)
    axes.set_xlabel("classes (dotted: 2 / epsilon)")
    axes.set_ylabel("relative error of the sum of exps")
    axes.set_title("sums, one class after the other", loc="left", size=10)
    axes.legend(fontsize=8)


main()
