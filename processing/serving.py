"""Error handling for `transformers serve`: a request that cannot be answered is a 400 with its reason, not a bare 500.

    python -m processing.serving FOLDER --trust-remote-code

takes the arguments of `transformers serve`. Here, too, a client's `url` is a picture's bytes and no path of the
server's.
"""

import sys
from typing import Any


def serve_strangers(app: Any) -> Any:
    """Make a FastAPI or Starlette application answer refused requests with 400, and open no path or URL of a client.

    The processor and the model raise errors that carry a `status_code`; whoever serves decides what becomes of them.
    """
    from starlette.responses import JSONResponse

    from processing import LlavaMistralProcessor

    LlavaMistralProcessor.serves_strangers = True

    async def answer(_request: Any, error: ValueError) -> JSONResponse:
        if not hasattr(error, "status_code"):
            raise error
        return JSONResponse({"detail": str(error)}, status_code=error.status_code)

    app.add_exception_handler(ValueError, answer)
    return app


def main() -> None:
    from transformers.cli import serve, transformers
    from transformers.cli.serving import server

    build = server.build_server
    server.build_server = lambda *args, **kwargs: serve_strangers(build(*args, **kwargs))
    if hasattr(serve, "build_server"):
        serve.build_server = server.build_server
    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    transformers.main()


if __name__ == "__main__":
    main()
