"""The reference: an ASGI program that does nothing, on the same server. `python -m tests.bench.bare PORT`."""

import sys

import uvicorn
from starlette.types import Receive, Scope, Send

BODY = b'{"status":"ok"}'


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an ASGI program can do."""
    del receive
    assert scope["type"] == "http"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"15")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(hello, port=int(sys.argv[1]), access_log=False, log_config=None, lifespan="off")
