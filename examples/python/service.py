"""A service that handles records which starferry sidecar hands it over HTTP.

    python3 service.py --port 8080 --out handled.txt

It writes a line "nanos topic partition offset key value cluster" for each. One
whose value is "poison" it cannot handle: the record comes again, and those behind
it wait, until an operator skips it. Only Python itself is needed.
"""

import argparse
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def handle(record, out):
    """The work. It raises what keeps it from handling the record."""
    if record.get("value") == "poison":
        raise ValueError("this cannot be handled")
    line = "{} {topic} {partition} {offset} {} {} {cluster}\n".format(
        time.time_ns(), record.get("key", "-"), record.get("value", "-"), **record)
    os.write(out, line.encode())  # one write a line: threads do not mix theirs


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection serves many requests
    disable_nagle_algorithm = True

    def do_POST(self):
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["records"]
        results = []
        for i, record in enumerate(records):
            try:
                handle(record, self.server.out)
            except ValueError as why:
                # All before it is handled; it and what is behind it come again.
                results = [{"index": i, "outcome": "retry", "after_ms": 200, "reason": str(why)}]
                break
        body = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass  # a line for each request would be many


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("--port", type=int, default=8080)
    args.add_argument("--out", default="/dev/stdout")
    args = args.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Service)
    server.out = os.open(args.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    # Stop the sidecar first: it waits for what is in hand here.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
