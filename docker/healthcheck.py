"""The image's health check: is the event loop alive? Load never fails it; /ready is the question for traffic.

Follows TRITSERVE_PORT and TRITSERVE_TLS_CERTFILE. A server configured by flag or file on another port needs its own check.
"""

import http.client
import os
import ssl
import sys

given = os.environ.get("TRITSERVE_PORT", "")
port = int(given) if given.isdecimal() else 8000
connection: http.client.HTTPConnection
if os.environ.get("TRITSERVE_TLS_CERTFILE"):
    # It asks the process beside it, over loopback, under a name the certificate does not carry.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
try:
    connection.request("GET", "/health")
    sys.exit(0 if connection.getresponse().status == 200 else 1)
except (OSError, http.client.HTTPException):
    sys.exit(1)
