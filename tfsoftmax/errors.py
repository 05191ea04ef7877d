"""The exceptions that users of tfsoftmax meet: one small tree, each with the exit status of the command line."""


class TfsoftmaxError(Exception):
    """Something failed and nothing was left half-done. The command line prints it in one line."""

    exit_status = 1


class InputError(TfsoftmaxError, ValueError):
    """A value, a file or a folder that was given cannot be used; the text names it and says what to do."""

    exit_status = 2


class TrainingError(TfsoftmaxError):
    """Training could not go on, for example because the loss is no longer a number."""


class ExportError(TfsoftmaxError):
    """An exported file does not answer as the model does, or is not what was exported; the text names it."""
