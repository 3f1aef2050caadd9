"""Python's logging through a library of the hosted service: python.py LIBRARY [tls]"""

import json
import logging
import os
import sys

library, tls = sys.argv[1], "tls" in sys.argv[2:]
token = os.environ["TOKEN"]

if tls:
    # The libraries trust certifi's authorities only.
    import certifi

    certifi.where = lambda: os.environ["SSL_CERT_FILE"]

if library == "r7insight":
    from r7insight import R7InsightHandler

    handler = R7InsightHandler(token, "eu", use_tls=tls)
elif library == "logentries":
    from logentries import LogentriesHandler

    handler = LogentriesHandler(token, use_tls=tls)
else:
    from logentries import LogentriesHandler

    handler = LogentriesHandler(token)

log = logging.getLogger("shop")
log.setLevel(logging.INFO)
log.addHandler(handler)
for message in json.loads(os.environ["MESSAGES"]):
    log.info(message)

# Until all is stored: what a library's thread has not sent when the program ends is lost.
sys.stdin.read()
