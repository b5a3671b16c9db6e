"""What VS Code's notebook client does with a kernel, as its source says (microsoft/vscode-jupyter, src/kernels/raw, and
@jupyterlab/services below it): no Jupyter server, the kernel's own sockets, and habits that other clients don't have."""
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

import psutil
import zmq
from jupyter_client.session import Session

CHANNELS = ("hb", "control", "shell", "stdin", "iopub")
# What @jupyterlab/services asks of a message before it looks at it; one that fails is dropped, and its output with it.
HEADER = ("username", "version", "session", "msg_id", "msg_type")
CONTENT = {
    "stream": {"name": str, "text": str},
    "display_data": {"data": dict, "metadata": dict},
    "update_display_data": {"data": dict, "metadata": dict, "transient": dict},
    "execute_input": {"code": str, "execution_count": int},
    "execute_result": {"execution_count": int, "data": dict, "metadata": dict},
    "error": {"ename": str, "evalue": str, "traceback": list},
    "status": {"execution_state": str},
    "clear_output": {"wait": bool},
    "comm_open": {"comm_id": str, "target_name": str, "data": dict},
    "comm_msg": {"comm_id": str, "data": dict},
    "comm_close": {"comm_id": str},
}


def malformed(msg):
    """Why the front end would drop the message, or ""."""
    for name in HEADER:
        if not isinstance(msg["header"].get(name), str):
            return f"{msg['msg_type']}: header {name} is {msg['header'].get(name)!r}"
    for name, kind in CONTENT.get(msg["msg_type"], {}).items():
        if not isinstance(msg["content"].get(name), kind):
            return f"{msg['msg_type']}: {name} is {msg['content'].get(name)!r}"
    return ""


def free_ports(n):
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def in_use(port):
    """Is somebody there? The client looks by a bare connection, closed at once: no ZeroMQ greeting comes."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Result:
    """All that came for one request."""

    def __init__(self, request):
        self.request, self.reply, self.messages, self.states, self.seconds = request, None, [], [], 0.0

    def of(self, kind):
        return [m["content"] for m in self.messages if m["msg_type"] == kind]

    @property
    def text(self):
        return "".join(c["text"] for c in self.of("stream"))

    @property
    def shown(self):
        """The text of streams and displays."""
        parts = [c["text"] if "text" in c else c["data"].get("text/plain", "") for c in
                 (m["content"] for m in self.messages if m["msg_type"] in ("stream", "display_data", "update_display_data"))]
        return "\n".join(parts)


class Client:
    """One kernel process and the connection to it."""

    def __init__(self, spec, folder, cwd):
        self.spec, self.folder, self.cwd = spec, Path(folder), str(cwd)
        self.context = zmq.Context()
        self.bad, self.strays = [], []

    def start(self, timeout=60):
        """Launches the kernel and waits as the client does; says how long that took."""
        began = time.monotonic()
        self.info = {f"{c}_port": p for c, p in zip(CHANNELS, free_ports(5))}
        self.info |= {"key": str(uuid.uuid4()), "signature_scheme": "hmac-sha256", "transport": "tcp", "ip": "127.0.0.1", "kernel_name": "gotune"}
        self.file = self.folder / f"kernel-v3{uuid.uuid4().hex}.json"
        self.file.write_text(json.dumps(self.info))
        argv = [a.replace("{connection_file}", str(self.file)) for a in self.spec["argv"]]
        self.process = subprocess.Popen(argv, cwd=self.cwd, env=os.environ | self.spec.get("env", {}), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while not all(in_use(self.info[f"{c}_port"]) for c in ("shell", "iopub")):
            if self.process.poll() is not None or time.monotonic() - began > timeout:
                raise RuntimeError(f"the kernel does not listen, exit status {self.process.poll()}")
            time.sleep(0.2)
        self.session = Session(key=self.info["key"].encode(), username="", session=str(uuid.uuid4()))
        self.sockets = {c: self.context.socket(zmq.SUB if c == "iopub" else zmq.DEALER) for c in CHANNELS if c != "hb"}
        identity = str(uuid.uuid4()).encode()  # one for the three
        for name, s in self.sockets.items():
            s.linger = 0
            s.subscribe(b"") if name == "iopub" else s.setsockopt(zmq.ROUTING_ID, identity)
            s.connect(f"tcp://127.0.0.1:{self.info[f'{name}_port']}")
        self.poller = zmq.Poller()
        for s in self.sockets.values():
            self.poller.register(s, zmq.POLLIN)
        return self.ready(began, timeout)

    def ready(self, began, timeout):
        """kernel_info on control and shell together, each half second, until a reply and something on iopub has come. What
        is still on its way then must not disturb the first cell."""
        asked, replies, heard = [], [], False
        while not (replies and heard):
            if time.monotonic() - began > timeout:
                raise RuntimeError(f"the kernel is not ready: {len(replies)} replies, iopub heard: {heard}")
            asked += [self.send("control", "kernel_info_request", {}), self.send("shell", "kernel_info_request", {})]
            until = time.monotonic() + 0.5
            while time.monotonic() < until and not (replies and heard):
                for channel, m in self.receive(until - time.monotonic()):
                    heard |= channel == "iopub"
                    if m["msg_type"] == "kernel_info_reply":
                        replies.append(m)
        self.language = replies[0]["content"]["language_info"]
        return time.monotonic() - began

    def send(self, channel, kind, content, parent=None, metadata=None):
        m = self.session.msg(kind, content, parent=parent, metadata=metadata)
        self.session.send(self.sockets[channel], m)
        return m["header"]["msg_id"]

    def receive(self, seconds):
        """What has come, after at most so many seconds."""
        got = []
        names = {s: n for n, s in self.sockets.items()}
        for s, _ in self.poller.poll(max(0, seconds) * 1000):
            _, m = self.session.recv(s, mode=zmq.NOBLOCK)
            if m is None:
                continue
            if why := malformed(m):
                self.bad.append(why)
            got.append((names[s], m))
        return got

    def follow(self, result, timeout, until=lambda r: False, answer=None):
        """Collects what comes for the request until its reply and its idle are there, or until says that it is enough."""
        began = time.monotonic()
        while not (result.reply and "idle" in result.states) and not until(result):
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{result.request}: reply {result.reply}, states {result.states}, shown {result.shown[-300:]!r}")
            for channel, m in self.receive(0.2):
                if m["parent_header"].get("msg_id") != result.request:
                    self.strays.append((channel, m))
                elif channel == "stdin":
                    result.messages.append(m)
                    self.send("stdin", "input_reply", {"status": "ok", "value": answer}, parent=m)
                elif channel != "iopub":
                    result.reply = m["content"]
                elif m["msg_type"] == "status":
                    result.states.append(m["content"]["execution_state"])
                else:
                    result.messages.append(m)
        result.seconds += time.monotonic() - began
        return result

    def begin(self, code, **changed):
        """Sends a cell as the client does: not silent, in the history, input allowed, nothing behind it stopped."""
        content = {"code": code, "silent": False, "store_history": True, "stop_on_error": False, "allow_stdin": True} | changed
        return Result(self.send("shell", "execute_request", content, metadata={"cellId": f"vscode-notebook-cell:/n.ipynb#{uuid.uuid4().hex[:8]}"}))

    def run(self, code, timeout=120, answer=None, **changed):
        return self.follow(self.begin(code, **changed), timeout, answer=answer)

    def ask(self, kind, content, channel="shell", timeout=30):
        return self.follow(Result(self.send(channel, kind, content)), timeout).reply

    def interrupt(self, result, timeout=60):
        """Interrupts as a spec with interrupt_mode "message" wants it, and follows the cell to its end; without that mode
        the client signals the kernel and all below it."""
        if self.spec.get("interrupt_mode") == "message":
            self.send("control", "interrupt_request", {})
        else:
            for p in self.below() + [psutil.Process(self.process.pid)]:
                p.send_signal(signal.SIGINT)
        return self.follow(result, timeout)

    def below(self):
        """The processes below the kernel by their parents."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def dispose(self):
        """Ends the kernel as a restart and a closed notebook do: no shutdown_request; SIGTERM for all below it, then for the
        kernel itself. Returns what was below it."""
        children = self.below()
        for p in children:
            try:
                p.terminate()
            except psutil.NoSuchProcess:
                pass
        self.process.terminate()
        for s in self.sockets.values():
            s.close()
        self.file.unlink(missing_ok=True)
        return children
