"""Exercise 3: the validation loss turns up when few rows are seen often; early stopping, L2 and more rows."""

import figures
import keras
import numpy as np

import tfsoftmax

FEW = 500


def main() -> None:
    """Train on few rows in four ways, print the table and draw the figure."""
    options = figures.options()
    epochs, many = (4, 1000) if options.small else (400, 4000)
    source = tfsoftmax.FashionMNIST().source
    held_out = source.x_train[-10_000:], source.y_train[-10_000:]  # 10,000 rows that no fit here trains on

    def fit(rows: int, epochs: int = epochs, l2: float = 0.0, callbacks: tuple = ()) -> tuple[dict, float, float]:
        """History, and loss and accuracy of the weights kept. Keras adds the penalty to the loss; here it is not."""
        part = tfsoftmax.Source("part", source.x_train[:rows], source.y_train[:rows], *held_out, source.classes)
        data = tfsoftmax.Data(part, batch_size=50, val="test")
        model, penalties = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1, l2=l2), []

        def note(epoch: int, logs: dict) -> None:
            penalties.append(l2 * float(np.square(model.get_weights()[0]).sum()))

        noted = keras.callbacks.LambdaCallback(on_epoch_end=note)
        model.fit(data.train, validation_data=data.val, epochs=epochs, callbacks=[noted, *callbacks], verbose=0)
        history = model.history.history
        history["val_loss"] = list(np.subtract(history["val_loss"], penalties))
        kept = model.evaluate(data.val, verbose=0, return_dict=True)
        return history, kept["loss"] - l2 * float(np.square(model.get_weights()[0]).sum()), kept["accuracy"]

    stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    ways = {
        f"{FEW} rows": fit(FEW),
        f"{FEW} rows, early stopping": fit(FEW, callbacks=(stop,)),
        f"{FEW} rows, L2 0.003": fit(FEW, l2=0.003),
        # as many steps in all
        f"{many:,} rows": fit(many, max(2, epochs * FEW // many)),
    }
    print(
        f"{'':<28}{'epochs':>7}{'loss kept':>11}{'accuracy':>10}{'best loss':>11}{'at epoch':>9}{'best accuracy':>15}"
    )
    for name, (history, loss, accuracy) in ways.items():
        best = int(np.argmin(history["val_loss"]))
        print(
            f"{name:<28}{len(history['loss']):>7}{loss:>11.4f}{accuracy:>10.4f}"
            f"{history['val_loss'][best]:>11.4f}{best + 1:>9}{max(history['val_accuracy']):>15.4f}"
        )

    figure, (left, right) = figures.panels(2)
    colours = (figures.RED, "black", figures.GREEN, figures.BLUE)
    for (name, (history, *_)), colour in zip(ways.items(), colours, strict=True):
        steps = np.arange(1, len(history["loss"]) + 1) * (10 if name.startswith(str(FEW)) else many // 50)
        width = 4 if "early" in name else 1.5
        left.semilogx(steps, history["val_loss"], color=colour, linewidth=width, label=f"{name}")
        right.semilogx(steps, history["val_accuracy"], color=colour, linewidth=width)
        if name == f"{FEW} rows":
            left.semilogx(steps, history["loss"], color=colour, linestyle=":", label="… training loss")
    left.set_ylim(0, 1.6)
    left.set_ylabel("validation loss")
    right.set_ylabel("validation accuracy")
    for axes in (left, right):
        axes.set_xlabel("steps of 50 rows")
    left.legend(fontsize=8)
    left.set_title("few rows, many epochs", loc="left", size=10)
    figures.save(figure, options.out)


main()
