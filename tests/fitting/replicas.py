"""Fits under strategies, in a process of its own: `python tests/fitting/replicas.py FOLDER STRATEGY…`.

STRATEGY is `one`, `mirrored` or `multiworker`. What came out of each is written to FOLDER/RESULT.npz; the state of a
fit to FOLDER/state-….
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfsoftmax

OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.05),
}


def made_data(files=None):
    """103 rows: 68 to train on in batches of 13, of which the last has 3 (no number is even); 35 to validate.

    In the folder ``files`` they stay, and come in windows of two batches."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 103)
    x = np.clip(rng.integers(0, 180, (103, 5, 4)) + 12 * y[:, None, None], 0, 255).astype(np.uint8)
    if files is not None:
        for part, array in {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9]}.items():
            np.save(files / f"{part}.npy", array)
        return tfsoftmax.load(f"npy:{files}", memory=2 * 30 * 20, batch_size=13, val=35, seed=3)
    source = tfsoftmax.Source("made", x, y.astype(np.int32), x[:9], y[:9].astype(np.int32), range(3))
    return tfsoftmax.Data(source, batch_size=13, val=35, seed=3)


def fits(strategy, folder, name):
    """Fits with each optimizer, with L2, validation, early stopping and a state; gives arrays by name."""
    found = {}
    for kind, optimizer in OPTIMIZERS.items():
        data = made_data(Path(tempfile.mkdtemp(dir=folder)) if kind == "adam" else None)
        assert data.train.rows.stored == (kind == "adam")
        with strategy.scope():
            model = tfsoftmax.SoftmaxRegression(3, optimizer=optimizer(), l2=0.01)
        stop = keras.callbacks.EarlyStopping("val_accuracy", patience=3, restore_best_weights=True)
        state = tfsoftmax.Resume(folder / f"state-{name}-{kind}")
        weight = {0: 0.5, 1: 1.0, 2: 1.5} if kind == "adam" else None
        history = model.fit(
            data.train, validation_data=data.val, epochs=8, callbacks=[stop, state], class_weight=weight, verbose=0
        ).history
        found |= {f"{kind}-{i}": array for i, array in enumerate(model.get_weights())}
        found |= {f"{kind}-{key}": np.array(values) for key, values in history.items()}
        found[f"{kind}-evaluated"] = np.array(model.evaluate(data.test, verbose=0))
        found[f"{kind}-state"] = np.array(state.path.exists())
    return found


def streamed(strategy):
    """Fits on streams that the strategy divides, or that each worker makes for itself; gives arrays by name."""
    found, rows = {}, made_data().train.rows
    x = (rows.x / 255).astype(np.float32)
    weights = np.linspace(0, 2, len(x), dtype=np.float32)
    whole = tf.data.Dataset.from_tensor_slices((x, rows.y, weights))
    # 68 rows by 12: replicas have 6 and 6, at the end 6 and 2
    parts = strategy.distribute_datasets_from_function(
        lambda context: whole.batch(6).shard(context.num_input_pipelines, context.input_pipeline_id)
    )
    one_device = strategy.num_replicas_in_sync == 1
    for name, stream in {
        "divided": whole.take(66).batch(13),  # at the end is one row, for one of the replicas
        "own": whole.batch(12) if one_device else parts,
        "unknown": whole.filter(lambda x, y, weight: weight > 0.1).batch(13),  # nobody knows how many batches
    }.items():
        with strategy.scope():
            model = tfsoftmax.SoftmaxRegression(3, 0.1, momentum=0.9)
        history = model.fit(stream, validation_data=made_data().test.map(lambda x, y: (x, y)), epochs=3, verbose=0)
        found |= {f"{name}-{i}": array for i, array in enumerate(model.get_weights())}
        found |= {f"{name}-{key}": np.array(values) for key, values in history.history.items()}
    return found


def strategy_of(name):
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.MultiWorkerMirroredStrategy() if name == "multiworker" else tf.distribute.get_strategy()


if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    if "mirrored" in names:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for name in names:
        strategy = strategy_of(name)
        result = fits(strategy, folder, name) | streamed(strategy)
        index = f"-{json.loads(os.environ['TF_CONFIG'])['task']['index']}" if name == "multiworker" else ""
        np.savez(folder / f"{name}{index}.npz", **result)
