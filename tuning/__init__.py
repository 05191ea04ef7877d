"""Tuning: many trials for the price of a few, with KerasTuner."""

import tfsoftmax._tensorflow  # noqa: F401 - before the modules here import TensorFlow
from tuning.oracles import TUNERS, GridOracle, SweepOracle
from tuning.penalties import GRIDS
from tuning.probe import Probe, probe
from tuning.search import Search, search
from tuning.space import HYPERPARAMETERS, Curvature, Range, SoftmaxHyperModel, curvature
from tuning.tuner import LaneTuner

__all__ = [
    "GRIDS",
    "HYPERPARAMETERS",
    "TUNERS",
    "Curvature",
    "GridOracle",
    "LaneTuner",
    "Probe",
    "Range",
    "Search",
    "SoftmaxHyperModel",
    "SweepOracle",
    "curvature",
    "probe",
    "search",
]
