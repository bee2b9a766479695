"""Walks from the package to the first accepted training as a new owner does: apt, `maskd setup` on a
terminal, and then only the page in Chromium. Prints the time of every step.

    python tests/web/walk.py --root ROOT --camera CAMERA [--screenshots FOLDER]

ROOT is a Debian root with /tmp/maskd.deb, which tests/package/walk makes. CAMERA contains the folders
with_mask and without_mask, whose pictures a simulated network camera shows.
"""

import argparse
import os
import pty
import random
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from door import PASSWORD, until
from page import Browser

FRAMES_PER_SECOND = 4
LABELS = ["without_mask", "with_mask"]
# People for each label and round of teaching.
PEOPLE = 8
ROUNDS = 4
# A person leaves when a picture was recorded, or after this time: not every face is found.
PRESENT_SECONDS = 8
# A track ends after one second without its face.
ABSENT_SECONDS = 1.2
BOUNDARY = "frame"
RESULT = "section[aria-label='The last training']"


class Camera:
    """A network camera that shows a sequence of people, or nobody."""

    def __init__(self, folder):
        rng = random.Random(1)
        self.pictures = {label: sorted((folder / label).iterdir()) for label in LABELS}
        for pictures in self.pictures.values():
            rng.shuffle(pictures)
        size = Image.open(self.pictures[LABELS[0]][0]).size
        self.nobody = jpeg(Image.linear_gradient("L").resize(size).convert("RGB"))
        self.frame = self.nobody
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
                self.end_headers()
                try:
                    while True:
                        head = f"--{BOUNDARY}\r\ncontent-type: image/jpeg\r\ncontent-length: {len(camera.frame)}\r\n\r\n"
                        self.wfile.write(head.encode() + camera.frame + b"\r\n")
                        time.sleep(1 / FRAMES_PER_SECOND)
                except OSError:
                    pass  # The daemon has closed the connection.

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def show(self, label):
        """Shows the next person until nobody is there."""
        self.frame = jpeg(Image.open(self.pictures[label].pop()).convert("RGB"))

    def clear(self):
        self.frame = self.nobody


def jpeg(picture):
    encoded = BytesIO()
    picture.save(encoded, "jpeg", quality=90)
    return encoded.getvalue()


class Root:
    """The Debian root, and the daemon in it."""

    def __init__(self, folder):
        self.folder = folder
        self.daemon = None

    def command(self, *words):
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "TERM=xterm"]
        return ["chroot", str(self.folder), *environment, *words]

    def install(self):
        apt = self.command("apt-get", "install", "--yes", "--no-install-recommends", "/tmp/maskd.deb")
        done = subprocess.run(apt, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def set_up(self, answers):
        """Runs `maskd setup` on a terminal, and gives each answer after its question. Returns what was shown."""
        process, terminal = pty.fork()
        if process == 0:
            command = self.command("maskd", "setup")
            os.execvp(command[0], command)
        shown = ""
        waiting = list(answers)
        seen = 0
        while True:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, f"no question after 60 s: {shown}"
            try:
                text = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # The program has ended.
                break
            shown += text
            while waiting and waiting[0][0] in shown[seen:]:
                question, answer = waiting.pop(0)
                seen = shown.index(question, seen) + len(question)
                os.write(terminal, answer.encode() + b"\n")
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == 0 and not waiting, (waiting, shown)
        return shown

    def start(self):
        """Starts the daemon with the command, the user, and the folders of its unit."""
        unit = (self.folder / "usr/lib/systemd/system/maskd.service").read_text()

        def setting(name):
            return re.search(rf"^{name}=(.*)$", unit, re.MULTILINE).group(1)

        user = setting("User")
        state, runtime = f"/var/lib/{setting('StateDirectory')}", f"/run/{setting('RuntimeDirectory')}"
        for folder, mode in [(state, setting("StateDirectoryMode")), (runtime, setting("RuntimeDirectoryMode"))]:
            subprocess.run(self.command("install", "--directory", f"--owner={user}", f"--group={user}", f"--mode={mode}", folder), check=True)
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--no-new-privs"]
        folders = [f"STATE_DIRECTORY={state}", f"RUNTIME_DIRECTORY={runtime}"]
        command = self.command("env", *folders, *words, *shlex.split(setting("ExecStart")))
        log, console = (self.folder / "tmp/log").open("w"), (self.folder / "tmp/console").open("w")
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=log)

    def page(self):
        """Returns the address of the page once the daemon serves it."""
        log = (self.folder / "tmp/log").read_text()
        assert self.daemon.poll() is None, log
        found = re.search(r"the page is at (\S+)", log)
        return found and found.group(1)

    def console(self):
        return (self.folder / "tmp/console").read_text()

    def stop(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(timeout=60)


class Stopwatch:
    def __init__(self, screenshots):
        self.screenshots = screenshots
        self.begin = self.last = time.monotonic()
        self.number = 0

    def step(self, what, browser=None):
        now = time.monotonic()
        print(f"{now - self.begin:7.1f} s  (+{now - self.last:6.1f} s)  {what}", flush=True)
        self.number += 1
        if browser and self.screenshots:
            name = re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")
            # Pictures are loaded after the elements that show them.
            time.sleep(1)
            browser.driver.save_screenshot(str(self.screenshots / f"{self.number:02}-{name}.png"))
        # An owner does not wait for the screenshot.
        self.begin += time.monotonic() - now
        self.last = time.monotonic()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def teach(browser, camera, label):
    """Holds the button while people pass, and returns how many face pictures were recorded."""
    words = label.replace("_", " ")

    def recorded():
        found = re.search(rf"Record(ing|ed) {words}: (\d+) picture", browser.text("#teach-status"))
        return found and int(found.group(2))

    browser.focus(f"#teach-{label}")
    ActionChains(browser.driver).click_and_hold(browser.find(f"#teach-{label}")).perform()
    until("the recording", lambda: recorded() is not None)
    for _ in range(min(PEOPLE, len(camera.pictures[label]))):
        before, end = recorded(), time.monotonic() + PRESENT_SECONDS
        camera.show(label)
        while recorded() == before and time.monotonic() < end:
            time.sleep(0.1)
        camera.clear()
        time.sleep(ABSENT_SECONDS)
    ActionChains(browser.driver).release().perform()
    browser.wait(f"Recorded {words}: ", "#teach-status")
    return recorded()


def train(browser):
    """Trains, unless the device has begun by itself. Returns what the page says about the training."""
    browser.open("#learning")
    button = until("the button", lambda: browser.find("#refit"))
    told = browser.text(RESULT)
    if button.is_enabled():
        browser.click("#refit")
    until("the end of the training", lambda: browser.text(RESULT) != told and browser.find("#training-progress[hidden]"), 900)
    return browser.text(RESULT)


def walk(options):
    watch = Stopwatch(options.screenshots)
    root, camera, browser = Root(options.root), Camera(options.camera), None
    try:
        root.install()
        watch.step("apt installed the package")
        port = free_port()
        shown = root.set_up(
            [
                ("Camera: a number or a source", camera.url),
                ("Are LEDs, a buzzer, or a relay connected?", ""),
                ("Address and port of the page", f"127.0.0.1:{port}"),
                ("Set a password for the page?", "y"),
                ("Password of the page", PASSWORD),
                ("Repeat the password", PASSWORD),
                ("Host name or address of the broker", ""),
                ("Write /etc/maskd/maskd.toml?", ""),
            ]
        )
        watch.step("maskd setup wrote the config")
        if options.screenshots:
            (options.screenshots / "setup.txt").write_text(shown)
        root.start()
        url = until("the page", root.page)
        watch.step("the daemon serves the page")
        browser = Browser(url, None)
        browser.size(1280, 800)
        browser.open()
        browser.wait("Log in")
        watch.step("the browser shows the log-in", browser)
        browser.press(PASSWORD, Keys.ENTER)
        until("the live picture", lambda: browser.find("live-view img[src^=blob]"))
        watch.step("the page shows the live picture", browser)
        for label in LABELS:
            camera.show(label)
            until("a face", lambda: browser.find(".face meter"))
            watch.step(f"the page shows a face {label.replace('_', ' ')}", browser)
            camera.clear()
            until("no face", lambda: not browser.find(".face"))
        for number in range(1, ROUNDS + 1):
            browser.open("#live")
            until("the buttons", lambda: browser.find("#teach-with_mask"))
            for label in LABELS:
                recorded = teach(browser, camera, label)
                watch.step(f"round {number}: recorded {recorded} pictures {label.replace('_', ' ')}", browser)
            told = train(browser)
            title = told.splitlines()[0]
            watch.step(f"round {number}: {title}", browser)
            model = re.search(r"produced model (\d+)", title)
            if model:
                break
        assert model, told
        browser.open("#live")
        browser.wait(f"number {model.group(1)}", ".figures")
        camera.show("with_mask")
        until("a face", lambda: browser.find(".face meter"))
        watch.step("the trained model classifies a face", browser)
        browser.open("#library")
        until("face pictures", browser.shown)
        watch.step("the library shows the face pictures", browser)
        browser.check_log()
        assert "mask" in root.console(), root.console()
        print("\n".join(root.console().splitlines()[-3:]))
    except BaseException:
        print((options.root / "tmp/log").read_text() if (options.root / "tmp/log").exists() else "", file=sys.stderr)
        if browser:
            print(browser.text("body"), file=sys.stderr)
            if options.screenshots:
                browser.driver.save_screenshot(str(options.screenshots / "failure.png"))
        raise
    finally:
        if browser:
            browser.close()
        root.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--camera", type=Path, required=True)
    parser.add_argument("--screenshots", type=Path)
    options = parser.parse_args()
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    walk(options)


if __name__ == "__main__":
    main()
