"""Exercise 2: eight-bit codes, and the accuracy of the demo model with weights of 2 to 8 bits."""

import figures
import numpy as np

import tfsoftmax
from tfsoftmax import quantization

BITS = range(2, 9)


def main() -> None:
    """Train the demo model, quantize its weights in three ways, print the table and draw the figure."""
    options = figures.options()
    data = tfsoftmax.FashionMNIST(batch_size=256)
    model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
    model.fit(data.train, epochs=1 if options.small else 10, verbose=0)
    kernel, bias = model.get_weights()
    kernel = kernel * np.float32(data.spec.scale)  # pixels stay whole numbers from 0 to 255
    pixels, labels = data.val.rows.x.reshape(len(data.val.rows), -1), data.val.rows.y

    def accuracy(logits) -> float:
        return float((logits.argmax(axis=1) == labels).mean())

    def affine(bits: int, axis: int | None) -> float:
        code = quantization.affine(kernel, bits, symmetric=True, axis=axis)
        sums = quantization.integer_product(pixels, code.quantize(kernel), 0, np.ravel(code.zero_point))
        return accuracy(sums * np.ravel(code.scale) + bias)

    def logarithmic(bits: int) -> float:
        code = quantization.logarithmic(kernel, bits)
        return accuracy(pixels @ code.dequantize(code.quantize(kernel)) + bias)

    exact = accuracy(pixels.astype(np.float32) @ kernel + bias)
    ways = {
        "affine, one scale": [affine(bits, None) for bits in BITS],
        "affine, one scale per class": [affine(bits, 1) for bits in BITS],
        "logarithmic": [logarithmic(bits) for bits in BITS],
    }
    print(
        f"float32: {exact:.4f} of the {len(labels):,} validation rows\n{'bits':<30}" + "".join(f"{b:>8}" for b in BITS)
    )
    for name, values in ways.items():
        print(f"{name:<30}" + "".join(f"{value:>8.4f}" for value in values))
    log, linear = quantization.logarithmic(kernel), quantization.affine(kernel, symmetric=True)
    print(f"\ndynamic range: affine {linear.dynamic_range():.0f} to 1, logarithmic {log.dynamic_range():,.0f} to 1")

    figure, (left, right) = figures.panels(2)
    affine4, log4 = quantization.affine([-1.0, 1.0], 4, symmetric=True), quantization.logarithmic([1.0], 4)
    rows = {
        "affine": affine4.dequantize(np.arange(1, 16)),
        "logarithmic": log4.dequantize(np.arange(-7, 8)),
    }
    for i, (values, colour) in enumerate(zip(rows.values(), (figures.GREEN, figures.BLUE), strict=True)):
        left.plot(values, np.full(len(values), i), "|", color=colour, markersize=26, markeredgewidth=2)
    left.set_yticks(range(2), rows)
    left.set_ylim(-0.7, 1.7)
    left.set_xlabel("numbers that four bits stand for, the largest being 1")
    left.set_title("steps of one size, or of one ratio", loc="left", size=10)
    for (name, values), colour in zip(ways.items(), (figures.RED, figures.GREEN, figures.BLUE), strict=True):
        right.plot(BITS, values, "o-", color=colour, label=name)
    right.axhline(exact, color="black", linestyle=":", label="float32")
    right.set_xlabel("bits of a weight")
    right.set_ylabel("validation accuracy")
    right.set_title("the demo model, pixels in eight bits", loc="left", size=10)
    right.legend(fontsize=8)
    figures.save(figure, options.out)


main()
