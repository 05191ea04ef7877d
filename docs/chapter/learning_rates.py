"""Exercise 4: loss curves of many learning rates, trained as lanes of one model, with the curvature beside them."""

import tempfile

import figures
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.pyplot import cm

import tfsoftmax
import tuning


def main() -> None:
    """Search, measure the curvature along a fit, print the tables and draw the figure."""
    options = figures.options()
    epochs, count = (2, 4) if options.small else (10, 16)
    data = tfsoftmax.FashionMNIST(batch_size=256)
    config = tfsoftmax.RunConfig(epochs=epochs, schedule="constant")
    rates = tuple(float(f"{rate:.3g}") for rate in np.geomspace(0.001, 30, count))
    with tempfile.TemporaryDirectory() as folder:
        found = tuning.search(data, folder, config=config, space={"lr": rates}, tuner="grid", trials=count)
    bound = found.curvature
    curves = {}
    for trial in found.tuner.oracle.trials.values():
        curves[trial.hyperparameters.values["lr"]] = found.tuner.history_of(trial.trial_id)
    print(f"bound 1/L for all weights {bound.bound:.4f}; 1/L at zero weights {bound.start:.4f}\n")
    print(f"{'lr':>8}{'loss, epoch 1':>15}{'last':>10}{'val_loss':>10}{'val_accuracy':>14}")
    for rate, history in sorted(curves.items()):
        loss = history["loss"]
        print(f"{rate:>8.3g}{loss[0]:>15.4f}{loss[-1]:>10.4f}", end="")
        print(f"{history['val_loss'][-1]:>10.4f}{history['val_accuracy'][-1]:>14.4f}")
    sharp = sharpness(data, 2 if options.small else 5)
    print(f"\nlearning rate 0.1, largest curvature lambda on 2,000 rows\n{'epoch':>5}{'2/lambda':>10}")
    for epoch, value in enumerate(sharp):
        print(f"{epoch:>5}{2 / value:>10.4f}")

    figure, (left, right) = figures.panels(2)
    norm = LogNorm(min(curves), max(curves))
    for rate, history in sorted(curves.items()):
        left.plot(range(1, epochs + 1), history["loss"], color=cm.viridis(norm(rate)))
    left.axhline(np.log(10), color="black", linestyle=":", label="log 10: zero weights")
    left.set_yscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.legend(fontsize=8)
    figure.colorbar(cm.ScalarMappable(norm, "viridis"), ax=left, label="learning rate")
    ordered = sorted(curves)
    right.loglog(ordered, [curves[rate]["val_loss"][-1] for rate in ordered], "o-", color=figures.GREEN)
    right.axvline(bound.bound, color=figures.GREY, linestyle="--", label=f"1/L = {bound.bound:.3g}")
    right.axvline(bound.start, color=figures.GREY, linestyle=":", label=f"1/L at zero weights = {bound.start:.3g}")
    right.axvline(2 / sharp[-1], color=figures.BLUE, label=f"2/curvature, trained = {2 / sharp[-1]:.2g}")
    right.axvline(0.1, color=figures.RED, label="the chapter's 0.1")
    right.axhline(np.log(10), color="black", linestyle=":")
    right.set_xlabel("learning rate")
    right.set_ylabel(f"validation loss after {epochs} epochs")
    right.legend(fontsize=8, loc="upper left")
    figures.save(figure, options.out)


def sharpness(data, epochs: int) -> list[float]:
    """Largest eigenvalue of the loss's second derivative, before and after each epoch at learning rate 0.1."""
    model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
    rows = data.train.rows
    x = rows.x[:2000].reshape(2000, -1).astype(np.float32) * np.float32(data.spec.scale)
    x = np.concatenate([x, np.ones((2000, 1), np.float32)], axis=1)  # a column for the bias
    found = []
    for epoch in range(epochs + 1):
        if epoch:
            model.fit(data.train, epochs=1, verbose=0)
        kernel, bias = model.get_weights() if epoch else (np.zeros((784, 10)), np.zeros(10))
        logits = x @ np.concatenate([kernel, bias[None]])
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        vector = np.random.default_rng(0).normal(size=(785, 10))
        for _ in range(40):  # power iteration: H v = X' (diag(p) - p p') X v / n
            vector /= np.linalg.norm(vector)
            along = x @ vector
            vector = x.T @ (p * (along - (p * along).sum(axis=1, keepdims=True))) / len(x)
        found.append(float(np.linalg.norm(vector)))
    return found


main()
