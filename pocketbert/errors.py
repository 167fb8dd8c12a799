"""The user's mistakes, told apart from ours."""


class UserError(ValueError):
    """What the user asked for cannot be done. The message is one line: what is wrong, its value, what to do next.

    `cli.run_script` prints it without a traceback. Every other ValueError is a programming error and keeps its
    traceback, because the reader changes this code.
    """


class BudgetMissed(UserError):
    """No model meets what was asked for; the script ends with exit code 3."""


class ProcessLost(UserError):
    """Another of the processes that train together has ended: each that is left says so at once."""


NOT_FINITE = ("the model's logits are NaN or infinite: training has diverged (lower --lr), or the weights are damaged")


class TrainingDiverged(UserError):
    """The loss or the logits are no longer finite."""
