"""Sends a numbered record every 10 ms and knocks at the socket as often, until the file STOP is there.

    sender.py SOURCE STOP

It speaks docs/protocol.md with receipts, and sends again what has none. At the end it prints one JSON object.
"""

import collections
import json
import os
import socket
import sys
import threading
import time
import uuid

PLACE = "/run/bitacora/log.sock"
EVERY = 0.01
PATIENCE = 60
source, stop = sys.argv[1:]
said = {"sent": 0, "acked": 0, "connects": 0, "refused": 0, "knocks": 0, "slowest_ms": 0, "errors": []}


def refused(error):
    said["refused"] += 1
    if len(said["errors"]) < 5:
        said["errors"].append(str(error))


def knock():
    """What a client sees that comes at this very moment."""
    while not os.path.exists(stop):
        with socket.socket(socket.AF_UNIX) as door:
            try:
                door.connect(PLACE)
                said["knocks"] += 1
            except OSError as error:
                refused(error)
        time.sleep(EVERY)


class Client:
    def __init__(self):
        self.id = str(uuid.uuid4())
        self.waiting = collections.deque()  # (number, line, when)
        self.sock = None
        self.rest = b""

    def connect(self):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        try:
            sock.connect(PLACE)
        except OSError as error:
            refused(error)
            return
        said["connects"] += 1
        first = self.waiting[0][0] if self.waiting else said["sent"] + 1
        hello = {"bitacora": 1, "ack": True, "client": self.id, "next": first}
        # all from `first` on, as the daemon counts from there, and without waiting for its answer
        lines = [json.dumps(hello).encode() + b"\n", *(line for _, line, _ in self.waiting)]
        self.sock, self.rest = sock, b""
        try:
            sock.sendall(b"".join(lines))
        except OSError:
            self.close()

    def close(self):
        if self.sock:
            self.sock.close()
        self.sock = None

    def read(self):
        """Takes what has come."""
        data = self.sock.recv(65536)
        if not data:
            self.close()
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "error" in answer:
                said["errors"].append(answer["error"])
                if "acked" not in answer and "record" not in answer:
                    # the daemon still holds this client's last connection
                    time.sleep(0.05)
                    self.close()
                    return
            acked = answer.get("acked", 0)
            said["acked"] = max(said["acked"], acked)
            while self.waiting and self.waiting[0][0] <= acked:
                took = time.monotonic() - self.waiting.popleft()[2]
                said["slowest_ms"] = max(said["slowest_ms"], round(took * 1000))

    def send(self):
        said["sent"] += 1
        line = json.dumps({"source": source, "message": "no %d" % said["sent"]}).encode() + b"\n"
        self.waiting.append((said["sent"], line, time.monotonic()))
        if not self.sock:
            self.connect()  # sends all that wait
            return
        try:
            self.sock.sendall(line)
        except OSError:
            self.close()

    def listen(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self.sock:
                time.sleep(left)
                return
            self.sock.settimeout(left)
            try:
                self.read()
            except TimeoutError:
                return
            except OSError:
                self.close()
            finally:
                if self.sock:
                    self.sock.settimeout(PATIENCE)


knocking = threading.Thread(target=knock)
knocking.start()
client = Client()
while not os.path.exists(stop):
    client.send()
    client.listen(EVERY)
knocking.join()
end = time.monotonic() + PATIENCE
while client.waiting and time.monotonic() < end:
    if not client.sock:
        client.connect()
    client.listen(0.1)
print(json.dumps(said))
