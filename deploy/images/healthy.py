"""Whether the program of this container answers: `healthy.py VARIABLE`, which names the port. Exit code 0 or 1."""

import os
import sys
from http.client import HTTPConnection, HTTPException

try:
    connection = HTTPConnection("127.0.0.1", int(os.environ[sys.argv[1]]), timeout=5)
    connection.request("GET", "/healthz")
    sys.exit(connection.getresponse().status != 200)
except (OSError, HTTPException) as trouble:
    sys.exit(f"no answer: {trouble}")
