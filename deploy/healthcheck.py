"""Exit code 0 when the API of this container answers on /healthz, over TLS where it speaks that. Needs no token."""

from __future__ import annotations

import http.client
import os
import ssl
import sys

SECONDS = 4


def answers(scheme: str, port: int) -> bool:
    """Whether the node says that it is well. Over loopback to itself there is nobody to mistake it for."""
    if scheme == "https":
        context = ssl._create_unverified_context()  # its certificate names another host
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    schemes = ("https", "http") if os.environ.get("CRAWLFLEET_TLS_CERTIFICATE") else ("http", "https")
    port = int(os.environ.get("CRAWLFLEET_PORT") or 8080)
    sys.exit(not any(answers(scheme, port) for scheme in schemes))
