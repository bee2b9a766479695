"""A daemon whose camera shows the example photographs, for tests of its page and its API."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MASKD = Path(os.environ.get("MASKD", ROOT / "target/release/maskd"))
PASSWORD = "correct horse battery staple"


class Door:
    """A daemon that runs for the duration of a `with` block."""

    def __init__(self, config="", password=True):
        self.folder = Path(tempfile.mkdtemp(prefix="maskd-web-"))
        self.state = self.folder / "state"
        self.config = self.folder / "maskd.toml"
        text = "[web]\nlisten = \"127.0.0.1:0\" # any port\n"
        if password:
            line = subprocess.run([MASKD, "passwd"], input=PASSWORD + "\n", check=True, capture_output=True, text=True)
            text += f"password-hash = '{line.stdout.strip()}'\n"
        words = subprocess.run([MASKD, "passwd", "--token"], check=True, capture_output=True, text=True).stdout.split()
        self.token = words[1]
        if password:
            text += f'token-hashes = ["{words[3]}"]\n'
        self.config.write_text(text + config)

    def maskd(self, *words):
        command = [MASKD, *words, "--config", self.config, "--state", self.state]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise AssertionError(f"{words}: {done.stderr}")
        return done.stdout

    def __enter__(self):
        command = [MASKD, "run", "--config", self.config, "--state", self.state]
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self.log)
        self.url = until("the page", self.find)
        return self

    def find(self):
        found = re.search(r"the page is at (\S+)", (self.folder / "log").read_text())
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        return found and found.group(1)

    def get(self, path, **more):
        headers = {"authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url}/api/v1{path}", headers=headers, **more)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=300)
        self.log.close()
        if os.environ.get("MASKD_KEEP") is None:
            subprocess.run(["rm", "-rf", self.folder], check=True)
        assert code == 0, f"the daemon ended with {code}"


def until(what, found, seconds=90):
    """Waits until `found` returns a true value, and returns that value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"timed out waiting for {what}")
