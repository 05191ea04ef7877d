"""The exceptions that users of tfsoftmax meet: one small tree, each with the exit status of the command line."""

from __future__ import annotations


class TfsoftmaxError(Exception):
    """Something failed and nothing was left half-done. The command line prints it in one line."""

    exit_status = 1


class InputError(TfsoftmaxError, ValueError):
    """A value, a file or a folder that was given cannot be used; the text names it and says what to do."""

    exit_status = 2


class TrainingError(TfsoftmaxError):
    """Training could not go on, for example because the loss is no longer a number."""


class WorkerLost(TrainingError):
    """Another worker of a distributed run is gone; the state of the last whole epoch is on disk.

    Attributes:
        begun: whether all workers had met, and the run folder was claimed, by then.
    """

    begun = False

    @classmethod
    def of(cls, error: Exception, begun: bool) -> WorkerLost:
        """From what TensorFlow raised, of whose long text the reason is taken."""
        _, _, reason = str(error).partition("aborted by: ")
        lines = (reason or str(error)).replace("Graph execution error:", "").strip().splitlines()
        lost = cls(f"another worker is gone: {lines[0] if lines else type(error).__name__}")
        lost.begun = begun
        return lost


class ExportError(TfsoftmaxError):
    """An exported file does not answer as the model does, or is not what was exported; the text names it."""
