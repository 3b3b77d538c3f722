"""What goes wrong on the way to a pod, in one line. frozen_jax has its own such error, but importing it imports JAX."""


class LaunchError(Exception):
    """A mistake, or a job that failed: what was wrong, where, what would be right. The scripts exit with status 2."""


class CommandError(LaunchError):
    """A program of others that failed.

    Attributes:
        text: what it wrote to stderr; empty where that went to the terminal.
    """

    def __init__(self, program: str, status: int, text: str = "") -> None:
        last = text.strip().splitlines()[-1:]
        super().__init__(": ".join([f"{program} failed with exit status {status}", *last]))
        self.text = text
