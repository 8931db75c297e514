"""The one error that Herd shows to people."""


class HerdError(Exception):
    """A mistake or a condition that the user can act on.

    `str(error)` is one line: what is wrong, and what to do about it. The command line prints it without a
    traceback and exits with `exit_code`; the server turns it into the dialect's error body with `status`.
    """

    exit_code = 1

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
