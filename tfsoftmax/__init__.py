"""tfsoftmax: softmax regression on TensorFlow, from a labelled data set to a model that answers requests."""

import importlib
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors see; the table below is what runs
    from tfsoftmax.classifier import Classifier as Classifier
    from tfsoftmax.data import Data as Data
    from tfsoftmax.data import FashionMNIST as FashionMNIST
    from tfsoftmax.data import load as load
    from tfsoftmax.errors import ExportError as ExportError
    from tfsoftmax.errors import InputError as InputError
    from tfsoftmax.errors import TfsoftmaxError as TfsoftmaxError
    from tfsoftmax.errors import TrainingError as TrainingError
    from tfsoftmax.export import export as export
    from tfsoftmax.exporting.verify import verify as verify
    from tfsoftmax.fitting.epochs import accelerate as accelerate
    from tfsoftmax.fitting.resume import Resume as Resume
    from tfsoftmax.fitting.solver import solve as solve
    from tfsoftmax.model import SoftmaxRegression as SoftmaxRegression
    from tfsoftmax.predict import Predictor as Predictor
    from tfsoftmax.rows import Rows as Rows
    from tfsoftmax.runs.run import Run as Run
    from tfsoftmax.runs.training import train as train
    from tfsoftmax.sources import Source as Source
    from tfsoftmax.spec import ModelSpec as ModelSpec
    from tfsoftmax.spec import RunConfig as RunConfig

__version__ = "0.1.0"

# public name -> the module that owns it; resolved on first use (PEP 562), so that `import tfsoftmax` stays light
_PUBLIC = {
    "Data": "data",
    "FashionMNIST": "data",
    "Rows": "rows",
    "load": "data",
    "Source": "sources",
    "ModelSpec": "spec",
    "RunConfig": "spec",
    "SoftmaxRegression": "model",
    "accelerate": "fitting.epochs",
    "Resume": "fitting.resume",
    "solve": "fitting.solver",
    "Run": "runs.run",
    "train": "runs.training",
    "export": "export",
    "verify": "exporting.verify",
    "Predictor": "predict",
    "Classifier": "classifier",  # needs an extra
    "TfsoftmaxError": "errors",
    "InputError": "errors",
    "TrainingError": "errors",
    "ExportError": "errors",
}

__all__ = sorted(_PUBLIC.keys() - {"Classifier"})  # a star import must not ask for an extra


if not TYPE_CHECKING:  # it would make any name an object

    def __getattr__(name: str) -> object:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'tfsoftmax' has no attribute {name!r}; it has {', '.join(__all__)}")
        value = getattr(importlib.import_module(f"tfsoftmax.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(types.ModuleType):
    """Keeps ``export`` a function: importing the module of this name would bind it over the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, types.ModuleType) and name in _PUBLIC:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
