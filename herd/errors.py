"""The one error that Herd shows to people."""


class HerdError(Exception):
    """A mistake or a condition that the user can act on.

    `str(error)` is one line: what is wrong, and what to do about it. The command line prints it without a
    traceback and exits with `exit_code`; the server turns it into the dialect's error body with `status`, and says
    after how many seconds, `retry_after`, the same may go well.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_request",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after
