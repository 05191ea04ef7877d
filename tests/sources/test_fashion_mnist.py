"""The main job on real data: the program of the README, its accuracy, and the files that it gives."""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from conftest import PROGRAM


def test_accuracy_at_the_books_settings(program):
    _, data, model = program
    assert model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"] >= 0.82


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_files_answer_as_the_model_does(program, batch):
    folder, data, model = program
    raw = data.test.rows.x
    logits = np.asarray(model(raw.astype(np.float32) / 255))
    top = folder / "export" / "fashion_mnist" / "1"
    serve = tf.saved_model.load(str(top)).signatures["serving_default"]
    session = onnxruntime.InferenceSession(top / "model.onnx")
    for begin in range(0, len(raw) if batch == 10_000 else 10 * batch, batch):
        part = slice(begin, begin + batch)
        answers = serve(image=tf.constant(raw[part]))
        onnx_logits, onnx_ids = session.run(["logits", "class_id"], {"image": raw[part]})
        for got, ids in [(answers["logits"], answers["class_id"]), (onnx_logits, onnx_ids)]:
            np.testing.assert_allclose(got, logits[part], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(ids, logits[part].argmax(axis=1))


@pytest.mark.slow
def test_program_line_by_line_in_a_notebook(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    cells = [nbformat.v4.new_code_cell(line) for line in PROGRAM.strip().splitlines() if line]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "export" / "fashion_mnist" / "1" / "model.onnx").is_file()
