"""How a request is refused on the wire: HTTP 200 and one of three shapes (contract 1.3)."""


class Refused(Exception):
    """A request that is answered with an error. The text is what the client shows its user."""

    def __init__(self, text: str, *, success: bool | None = None, no_retry: bool = False) -> None:
        """`success=False` for cancel, remove and restart; `no_retry` for an upload that can never succeed."""
        super().__init__(text)
        self.success = success
        self.no_retry = no_retry

    def body(self) -> dict[str, object]:
        """The JSON of the answer."""
        body: dict[str, object] = {"error": str(self)}
        if self.success is not None:
            body["success"] = self.success
        if self.no_retry:
            body["noRetry"] = True
        return body
