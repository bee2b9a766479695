"""Tests the page in headless Chromium, with keyboard input and with the screen size of a phone.

    python tests/web/page.py [--screenshots FOLDER]

Needs chromium, chromedriver, and selenium.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    StaleElementReferenceException,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from door import MASKD, PASSWORD, ROOT, Door, until

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
]

CONFIG = """
[camera]
source = "assets/frames"
playback-fps = 1.0
[capture]
enabled = true # so that there is something to label
uncertain-below = 1.0
confident-share = 1.0
max-per-track = 1000
max-per-hour = 10000
[refit]
enabled = false
"""


class Browser:
    def __init__(self, url, screenshots):
        self.url = url
        self.screenshots = screenshots
        self.profile = tempfile.mkdtemp(prefix="maskd-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in [*FLAGS, f"--user-data-dir={self.profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.size(1100, 800)

    def size(self, width, height, scheme="light", motion="no-preference"):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, part=""):
        self.driver.get(f"{self.url}/{part}")

    def find(self, selector):
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found else None

    def read(self, find, value):
        """Reads a value of an element, even if the page is redrawn in the meantime."""
        while True:
            try:
                found = find()
                return value(found) if found else None
            except StaleElementReferenceException:
                continue

    def text(self, selector="main"):
        return self.read(lambda: self.find(selector), lambda found: found.text) or ""

    def wait(self, words, selector="main", seconds=90):
        until(f"{words!r} in {selector}", lambda: words in self.text(selector), seconds)

    def click(self, selector):
        """Clicks an element, even if the page is redrawn in the meantime."""

        def clicked():
            try:
                found = self.find(selector)
                if found:
                    found.click()
                return bool(found)
            except (
                ElementClickInterceptedException,
                ElementNotInteractableException,
                StaleElementReferenceException,
            ):
                return False

        until(f"{selector} can be clicked", clicked)

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, words):
        """Presses the tab key until the element with this text has the focus."""
        for _ in range(60):
            self.press(Keys.TAB)
            focused = self.read(lambda: self.driver.switch_to.active_element, lambda found: found.text)
            if words in (focused or ""):
                return
        raise AssertionError(f"the tab key does not reach {words!r}")

    def shot(self, name):
        fits = self.driver.execute_script(
            "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
        assert fits, f"{name}: wider than the screen"
        if self.screenshots:
            picture = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
            picture.save(self.screenshots / f"{name}.jpg", quality=82, optimize=True)

    def check_log(self):
        """Checks that the browser logged no errors except the requests that were refused on purpose."""
        log = [entry["message"] for entry in self.driver.get_log("browser")]
        bad = [line for line in log if " 401 " not in line and " 400 " not in line]
        assert not bad, bad

    def close(self):
        self.driver.quit()
        shutil.rmtree(self.profile, ignore_errors=True)


def bad_head(folder):
    """Creates a head that was trained with swapped labels, so that training on the device can improve on it."""
    subprocess.run([sys.executable, ROOT / "tests/python/make_data_set.py", folder / "set"], check=True)
    (folder / "set/bare").rename(folder / "set/with_mask")
    (folder / "set/masked").rename(folder / "set/without_mask")
    head = folder / "bad.onnx"
    command = [MASKD, "train", "--dataset", folder / "set", "--recipe", "tutorial", "--epochs", "30", "--head-only", head]
    subprocess.run([*command, "--model", folder / "bad-model.onnx"], check=True, capture_output=True)
    return head


def log_in(browser):
    browser.open()
    browser.wait("Log in")
    browser.press("wrong", Keys.ENTER)
    browser.wait("Wrong password.")
    browser.shot("log-in")
    browser.press(PASSWORD, Keys.ENTER)
    until("the live view", lambda: browser.find("live-view img[src^=blob]"))
    cookies = browser.driver.get_cookies()
    assert [(c["httpOnly"], c["sameSite"]) for c in cookies] == [(True, "Strict")], cookies
    seen = browser.driver.execute_script("return document.cookie")
    assert seen == "", "scripts cannot see the session"


def live_view(browser):
    until("a decision", lambda: "mask" in browser.text(".decision"))
    until("a face", lambda: browser.find(".face meter"))
    browser.wait("running", ".figures")
    browser.shot("live")
    assert browser.find(".decision").get_attribute("aria-live") == "polite"
    image = browser.find("live-view img")
    first = image.get_attribute("src")
    until("the next picture", lambda: image.get_attribute("src") != first)


def label_by_keyboard(browser, door, truth, head):
    browser.open("#label")
    drawn = "return document.querySelector('.crops img')?.naturalWidth > 0"
    until("a crop", lambda: browser.driver.execute_script(drawn))
    browser.press("s", "s")
    until("another crop", lambda: browser.driver.execute_script(drawn))
    browser.shot("label")
    door.maskd("heads", "import", head)
    labels = [button.get_attribute("class").split()[1] for button in browser.driver.find_elements(By.CSS_SELECTOR, ".label")]
    done = 0
    skipped = 0
    while done < 14:
        shown = [image.get_attribute("src").split("/")[-2] for image in browser.driver.find_elements(By.CSS_SELECTOR, ".crops img")]
        assert shown, "crops are left"
        known = [truth[sample] for sample in shown if sample in truth]
        if not known:
            skipped += 1
            assert skipped < 200, "only new crops"
            browser.press("s")
            continue
        before = browser.text("#unlabelled-count")
        browser.press(str(labels.index(known[0]) + 1))
        until("the next crop", lambda: browser.text("#unlabelled-count") != before)
        done += len(shown)
    def labelled():
        counts = door.get("/samples/stats")
        return sum(count["samples"] for label, count in counts.items() if label != "unlabelled")

    until("all labels", lambda: labelled() == done)
    browser.press("u")
    browser.wait("Undone.", "#toast")
    assert labelled() < done
    browser.press("1" if "with_mask" == labels[0] and truth[shown[0]] == labels[0] else "2")
    until("the label again", lambda: labelled() == done)

    def shown_now():
        images = browser.driver.find_elements(By.CSS_SELECTOR, ".crops img")
        return {image.get_attribute("src").split("/")[-2] for image in images}

    # Samples are compared by id, because the camera keeps running and adds new crops.
    def waiting(samples):
        return samples <= {sample["id"] for sample in door.get("/samples")}

    discarded = shown_now()
    browser.press("d")
    until("it is discarded", lambda: not waiting(discarded))
    browser.wait("discarded", "#toast")
    browser.click("#toast button")
    browser.wait("Undone.", "#toast")
    assert waiting(discarded), "nothing is lost"
    assert shown_now() == discarded, "it is shown again"
    browser.press("d")
    until("it is discarded again", lambda: not waiting(discarded))
    browser.press("u")
    browser.wait("Undone.", "#toast")
    assert waiting(discarded), "nothing is lost"
    # The request is sent even if the page is closed right afterwards.
    browser.press("d")
    browser.driver.get("about:blank")
    until("it is discarded", lambda: not waiting(discarded))


def learn(browser, door):
    browser.open("#learning")
    browser.wait("since the last training")
    browser.tab_to("Train now")
    browser.press(Keys.ENTER)
    # Training has the lowest priority and takes a while on a busy machine.
    browser.wait("The last training produced model 2", seconds=600)
    outcome = door.get("/status")["last_refit"]["outcome"]
    assert outcome["ruling"] == "accepted", outcome["reason"]
    browser.wait("the new model was right on")
    browser.wait("Labeled so far: ")
    assert "Loss" not in browser.text(), "figures are behind the disclosure"
    browser.click("#details-last summary")
    browser.wait("Before")
    browser.wait("in use", "#head-2 summary")
    assert browser.find("table.confusion")
    # Without training steps, there is no curve.
    has_curve = len(outcome["measured"]["curve"]) > 1
    assert bool(browser.find("svg.plot[aria-label*='Loss']")) == has_curve, outcome["measured"]
    until("no message", lambda: browser.text("#toast") == "")
    browser.shot("learning")
    browser.driver.execute_script("document.getElementById('refit').focus()")
    browser.tab_to("Roll back")
    browser.press(Keys.ENTER)
    until("the question", lambda: browser.find("dialog[open]"))
    browser.tab_to("Roll back")
    browser.press(Keys.ENTER)
    browser.wait("Model 1 is in use.", "#toast")
    # The live state does not change until the next frame.
    until("model 1 classifies", lambda: door.get("/live")["head"] == 1)
    for number, name in [("2", "Model 2"), ("0", "The built-in model")]:
        browser.click(f"#head-{number} summary")
        browser.click(f"#use-{number}")
        until("the question", lambda: browser.find("dialog[open]"))
        browser.tab_to("Use it")
        browser.press(Keys.ENTER)
        browser.wait(f"{name} is in use.", "#toast")
        browser.wait("in use", f"#head-{number} summary")
    browser.click("#history summary")
    browser.wait("The built-in model: chosen, requested on the page.", "#history")
    browser.wait("Model 2: trained on this device, requested on the page.", "#history")
    for field, key in [("labels-checked", Keys.SPACE), ("refit", Keys.ENTER)]:
        browser.driver.execute_script("document.getElementById(arguments[0]).focus()", field)
        browser.press(key)
    browser.wait("The owner vouched for the labels.", seconds=600)
    assert door.get("/status")["last_refit"]["outcome"]["labels_checked"]
    is_checked = browser.read(lambda: browser.find("#labels-checked"), lambda box: box.is_selected())
    assert not is_checked, "it holds for one training"


def change_settings(browser, door):
    browser.open("#settings")
    until("the form", lambda: browser.find("#hold_ms"))
    field = browser.find("#masked_threshold")
    field.clear()
    field.send_keys("0.3", Keys.ENTER)
    browser.wait("unmasked-threshold is 0.35, allowed is 0 to 0.3")
    field.clear()
    field.send_keys("0.7")
    hold = browser.find("#hold_ms")
    hold.clear()
    hold.send_keys("2500", Keys.ENTER)
    browser.wait("Saved.", "#toast")
    browser.find("#capture").send_keys(Keys.SPACE)
    hold = browser.find("#hold_ms")
    hold.send_keys(Keys.ENTER)
    until("capture is off", lambda: not door.get("/live")["capture"]["on"])
    text = door.config.read_text()
    assert "hold-ms = 2500" in text and "masked-threshold = 0.7" in text, text
    assert "enabled = false # so that there is something to label" in text, text
    browser.shot("settings")


def on_a_phone(browser):
    browser.size(360, 740, "dark", "reduce")
    for part in ["live", "label", "learning", "settings"]:
        browser.open(f"#{part}")
        until(f"{part} is drawn", lambda: browser.find("main h2, main .decision"))
        if part == "live":
            until("a face", lambda: browser.find(".face meter"))
            browser.wait("Resume the picture")
            until("a picture", lambda: browser.find("live-view img[src^=blob]"))
        if part == "label":
            until("its picture", lambda: browser.driver.execute_script("return document.querySelector('.crops img')?.naturalWidth > 0"))
            small = browser.driver.execute_script(
                "return [...document.querySelectorAll('main button')].filter((b) => b.offsetHeight < 44).map((b) => b.textContent)"
            )
            assert not small, f"too small for a thumb: {small}"
        browser.shot(f"phone-{part}")
    browser.size(1100, 800)


def log_out(browser):
    browser.open("#live")
    until("the live view", lambda: browser.find("live-view img[src^=blob]"))
    cookie = browser.driver.get_cookies()[0]
    browser.find("#log-out").click()
    until("the log-in", lambda: browser.find("#password"))
    browser.driver.add_cookie({"name": cookie["name"], "value": cookie["value"]})
    browser.driver.refresh()
    until("the log-in", lambda: browser.find("#password"))
    assert not browser.find("live-view"), "a cookie is refused after log-out"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--screenshots", type=Path)
    screenshots = parser.parse_args().screenshots
    with Door(CONFIG) as door:
        head = bad_head(door.folder)
        # The built-in model classifies all but one or two of the photographs correctly.
        until("enough crops", lambda: door.get("/queue")["waiting"] >= 18)
        groups = door.get("/queue")["groups"]
        truth = {s["id"]: max(s["probabilities"], key=s["probabilities"].get) for g in groups for s in g["samples"]}
        browser = Browser(door.url, screenshots)
        try:
            steps = [
                ("log in", lambda: log_in(browser)),
                ("live view", lambda: live_view(browser)),
                ("label by keyboard", lambda: label_by_keyboard(browser, door, truth, head)),
                ("training, scores, rollback", lambda: learn(browser, door)),
                ("phone", lambda: on_a_phone(browser)),
                ("settings", lambda: change_settings(browser, door)),
                ("log out", lambda: log_out(browser)),
                ("no browser errors", browser.check_log),
            ]
            for name, step in steps:
                step()
                print(f"ok  {name}", flush=True)
        except Exception:
            browser.driver.save_screenshot("target/web-failure.png")
            print(browser.text("body"), browser.driver.get_log("browser"), file=sys.stderr)
            raise
        finally:
            browser.close()


if __name__ == "__main__":
    main()
