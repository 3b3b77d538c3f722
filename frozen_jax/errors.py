"""The one exception for a user's mistake."""


class UserError(Exception):
    """A mistake that its message, one line, lets the user mend: what was wrong, where, what would be right.

    `run.py` prints the message without a traceback and exits with status 2. Every other exception is a defect of ours.
    """
