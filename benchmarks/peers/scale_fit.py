"""One fit, or all-reduces alone, on several logical devices or in several processes; one core a replica.

The process that is asked starts those of the workers, each with its own core and TF_CONFIG, and prints what the first
one printed. With ``apart``, so many fits of one replica each run side by side instead.
"""

import json
import os
import socket
import subprocess
import sys
import time

FEATURES = 784
REDUCTIONS = 200


def workers(case):
    """Run all processes of a case; gives what the first one printed."""
    sockets = [socket.socket() for _ in range(case["replicas"])]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    for free in sockets:
        free.close()
    places = [(addresses, i) for i in range(len(addresses))]
    if case.pop("apart", False):
        case["replicas"], places = 1, [([address], 0) for address in addresses]
    cores = sorted(os.sched_getaffinity(0))
    running = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(case)],
            env={
                **os.environ,
                "TF_NUM_INTRAOP_THREADS": "1",
                "TF_CONFIG": json.dumps({"cluster": {"worker": them}, "task": {"type": "worker", "index": index}}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda core=core: os.sched_setaffinity(0, [core]),
        )
        for core, (them, index) in zip(cores, places, strict=False)
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit("a worker failed")
    return printed[0].splitlines()[-1]


def strategy_of(case):
    """The strategy of this process."""
    import tensorflow as tf

    if case["kind"] == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if case["kind"] == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * case["replicas"])
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(case["replicas"])])
    return tf.distribute.get_strategy()


def reductions(strategy, size):
    """Median seconds of one all-reduce of ``size`` float32 and the bias of one more, as the optimizer asks for them."""
    import numpy as np
    import tensorflow as tf

    def one(i):
        values = [tf.fill([length], tf.cast(i, tf.float32)) for length in (size, 10)]
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)[0][0]

    def again(i, total):
        return i + 1, total + strategy.experimental_local_results(strategy.run(one, (i,)))[0]

    @tf.function
    def many(count):
        return tf.while_loop(
            lambda i, total: i < count, again, [tf.constant(0), tf.constant(0.0)], parallel_iterations=1
        )[1]

    count = REDUCTIONS if size < 100_000 else REDUCTIONS // 10
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        many(tf.constant(count))
        seconds.append((time.perf_counter() - begin) / count)
    return float(np.median(seconds[1:]))


def timed_reductions(strategy):
    """From now on all-reduces are timed, the wait for the slower replica included; gives a variable: their seconds."""
    import tensorflow as tf

    spent = tf.Variable(0.0, dtype=tf.float64)
    context, devices = tf.distribute.ReplicaContext, len(strategy.extended.worker_devices)
    all_reduce = context.all_reduce

    def timed(self, op, values, options=None):
        with tf.control_dependencies(values):
            begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            reduced = all_reduce(self, op, [tf.identity(value) for value in values], options)
        with tf.control_dependencies(reduced):
            spent.assign_add((tf.timestamp() - begin) / devices)
        return reduced

    context.all_reduce = timed
    return spent


def epochs(strategy, case):
    """Median seconds of an epoch on made rows, or with ``timed`` of the all-reduces in it."""
    import keras
    import numpy as np

    import tfsoftmax

    spent = timed_reductions(strategy) if case.get("timed") else None

    def now():
        return time.perf_counter() if spent is None else float(spent.numpy())

    class Seconds(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begin = now()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(now() - self.begin)

    rng, seconds = np.random.default_rng(0), []
    x = rng.integers(0, 256, (case["rows"], FEATURES), np.uint8)
    y = rng.integers(0, case["classes"], case["rows"]).astype(np.int32)
    spec = tfsoftmax.ModelSpec(
        "made", (FEATURES,), "uint8", tuple(map(str, range(case["classes"]))), "unit", 0, 1 / 255
    )
    train = tfsoftmax.Rows(x, y, spec, case["batch_size"], seed=0).dataset()
    with strategy.scope():
        model = tfsoftmax.SoftmaxRegression(case["classes"], lr=0.01)
    model.fit(train, epochs=2 + case["epochs"], callbacks=[Seconds()], verbose=0)
    return float(np.median(seconds[2:]))


def main(case):
    """Print the seconds, of an epoch or by the size of the reduction."""
    if "TF_CONFIG" not in os.environ and (case["kind"] == "multiworker" or "apart" in case):
        print(workers(case))
        return
    strategy = strategy_of(case)
    if "sizes" in case:
        print(json.dumps({"seconds": [reductions(strategy, size) for size in case["sizes"]]}))
    else:
        print(json.dumps({"seconds": epochs(strategy, case)}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
