"""The Hub's error responses."""


class HubError(Exception):
    """A refusal in the Hub's own words: HTTP status, `X-Error-Code` ("" for none), message and further JSON."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers, self.body = headers or {}, body
