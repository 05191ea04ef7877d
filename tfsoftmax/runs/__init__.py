"""The run folder: training, its log, evaluation."""
