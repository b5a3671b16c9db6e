"""end_engine.py SOCKET: asks the engine that listens there to end, and waits until it has."""
import json
import socket
import sys
import time


def ask(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(json.dumps({"v": 1, "verb": "shutdown", "args": {}}).encode() + b"\n")
        while s.recv(65536):
            pass


try:
    ask(sys.argv[1])
    for _ in range(200):  # it saves and ends after its answer
        time.sleep(0.1)
        ask(sys.argv[1])
except OSError:
    pass  # nobody listens: it has ended
