"""A gateway for a measurement: a process of its own on a free port, with settings of its own and none
of this shell's, that ends with its `with`."""

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEIR, LOADGEN = (os.path.join(ROOT, "target/release", name) for name in ("weir", "weir-loadgen"))
# Until it is ready, and until it has stopped, in seconds.
PATIENCE = 15


class CannotStart(Exception):
    """A gateway that does not get ready; the text has what it said last."""


class Gateway:
    """With `config`, the text of a configuration file, beyond its defaults, and so many shards, or as
    many as there are cores. `under` is a command that starts it."""

    def __init__(self, program=WEIR, config="", shards=1, under=()):
        self.folder = tempfile.mkdtemp(prefix="weir-bench-")
        self.path = os.path.join(self.folder, "weir.toml")
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(config)
        self.scheme = "https" if "[tls]" in config else "http"
        command = [*under, program, "serve", "--listen", "127.0.0.1:0"]
        command += [] if shards is None else ["--shards", str(shards)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WEIR_")}
        begun = time.monotonic()
        self.log = open(os.path.join(self.folder, "log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen([*command, "--config", self.path], env=clean,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        try:
            self.address = self.wait_until_ready(begun + PATIENCE)
        except BaseException:
            self.stop()
            raise
        # Seconds from its start on.
        self.ready = time.monotonic() - begun

    def wait_until_ready(self, end):
        while time.monotonic() < end and self.process.poll() is None:
            listens = re.search(r"listening on \w+://([\w.:]+)[/\s]", self.said())
            if listens:
                self.address = listens[1]
                try:
                    self.get("/readyz", timeout=1)
                    return self.address
                except OSError:
                    pass
            time.sleep(0.005)
        raise CannotStart(f"`{shlex.join(self.process.args)}` does not get ready: {self.said()[-2000:]}")

    def said(self):
        with open(self.log.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def url(self):
        """Where its WebSockets are."""
        return f"{'wss' if self.scheme == 'https' else 'ws'}://{self.address}/ws"

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self):
        return self.process.pid

    def get(self, path, timeout=60):
        """What it answers over HTTP."""
        # Whoever measures has made the certificate.
        context = ssl._create_unverified_context() if self.scheme == "https" else None
        where = f"{self.scheme}://{self.address}{path}"
        with urllib.request.urlopen(where, timeout=timeout, context=context) as answer:
            return answer.read()

    def stop(self):
        """Tells it to end, and makes it end where that does not help."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


# Why a run of the load generator may be invalid without saying anything about the gateway.
BUSY = {"acts_missed", "generator_late", "generator_saturated", "rate_not_reached"}


def checked(path, command, code):
    """The report of a run of the load generator that ended with `code`. One that is invalid for more
    than a busy machine is no figure; what the machine was too busy for is told."""
    if code not in (0, 2):
        fail(f"`{shlex.join(command)}` ended with {code}")
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    for reason in report["invalid"]:
        if reason["code"] not in BUSY:
            fail(f"`{shlex.join(command)}`: {reason['text']}")
        print(f"  note: {report['scenario']}: {reason['text']}", file=sys.stderr)
    return report


def fail(text):
    """Ends the program with a sentence."""
    sys.exit(f"{os.path.relpath(sys.argv[0], ROOT)}: {text}")
