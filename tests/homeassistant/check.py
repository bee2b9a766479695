"""Checks what the daemon sends over MQTT with the schemas and templates of Home Assistant.

    python tests/homeassistant/check.py

Needs mosquitto, Python 3.13, and the packages in `requirements.txt`. Home Assistant itself is
not started: its schemas check the discovery message, and its templates read a real state and a
real event.
"""

import asyncio
import importlib
import json
import os
import queue
import signal
import socket
import subprocess
import tempfile
import time
from contextvars import ContextVar
from pathlib import Path

import paho.mqtt.client as mqtt
from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant
from homeassistant.helpers import frame
from homeassistant.helpers.template import Template

ROOT = Path(__file__).resolve().parents[2]
MASKD = Path(os.environ.get("MASKD", ROOT / "target/release/maskd"))

# The instance that the templates belong to.
HASS = ContextVar("hass")

# What Home Assistant copies from the device to each of its entities.
SHARED = ["availability_topic", "device", "origin"]

CONFIG = """
[camera]
source = "{source}"
playback-fps = 4.0
[decide]
confirm-ms = 100
[capture]
enabled = true
[mqtt]
host = "127.0.0.1"
port = {port}
device = "door"
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(client, port):
    """Connects as soon as the broker listens."""
    for _ in range(600):
        try:
            client.connect("127.0.0.1", port)
            return
        except ConnectionRefusedError:
            time.sleep(0.1)
    raise AssertionError("the broker does not listen")


def collect(port, wanted):
    """Connects to the broker, and waits for a message on each topic that is wanted."""
    messages = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: messages.put((message.topic, message.payload))
    client.on_connect = lambda client, *_: client.subscribe("#")
    connect(client, port)
    client.loop_start()
    found = {}
    while not wanted(found):
        topic, payload = messages.get(timeout=120)
        found.setdefault(topic, []).append(json.loads(payload) if payload[:1] == b"{" else payload.decode())
    client.loop_stop()
    return found


def render(text, payload):
    """Renders a template of an entity as Home Assistant does for a message."""
    return Template(text, HASS.get()).async_render_with_possible_json_value(json.dumps(payload), parse_result=False)


def check_entity(key, component, device):
    """Checks an entity with the schema of its platform."""
    platform = importlib.import_module(f"homeassistant.components.mqtt.{component['platform']}")
    config = {name: device[name] for name in SHARED} | component
    del config["platform"]
    checked = platform.DISCOVERY_SCHEMA(dict(config))
    # The schemas remove keys that they do not know.
    unknown = set(config) - set(checked)
    assert not unknown, f"{key}: Home Assistant does not know {unknown}"


def check_values(components, states, events):
    for state in states:
        decision = render(components["decision"]["value_template"], state)
        assert decision in components["decision"]["options"], decision
        assert render(components["model"]["value_template"], state) == "Built-in model"
        assert render(components["accuracy"]["value_template"], state) == "None", "the built-in model is not measured"
        assert int(render(components["unlabelled"]["value_template"], state)) >= 0
    measured = states[0] | {"head": 3, "accuracy": 96.2}
    assert render(components["model"]["value_template"], measured) == "Model 3"
    assert render(components["accuracy"]["value_template"], measured) == "96.2"
    entity = components["no_mask"]
    rendered = [(event, render(entity["value_template"], event)) for event in events]
    for event, text in rendered:
        is_meant = event["kind"] == "decision" and event["decision"] == "no_mask"
        if not is_meant:
            assert text == "", (event, text)
            continue
        assert json.loads(text)["event_type"] in entity["event_types"], text
    assert any(text for _, text in rendered), "nobody without a mask"


def main():
    folder = Path(tempfile.mkdtemp(prefix="maskd-homeassistant-"))
    port = free_port()
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    config = CONFIG.format(source=ROOT / "assets/frames/maksssksksss128.jpg", port=port)
    (folder / "maskd.toml").write_text(config)
    broker = subprocess.Popen(["mosquitto", "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    command = [MASKD, "run", "--config", folder / "maskd.toml", "--state", folder / "state"]
    daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        discovery, state, event = "homeassistant/device/door/config", "maskd/door/state", "maskd/door/event"

        def is_complete(found):
            decisions = [one["decision"] for one in found.get(event, []) if one["kind"] == "decision"]
            return discovery in found and state in found and "no_mask" in decisions

        found = collect(port, is_complete)
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(timeout=60)
        broker.terminate()
        broker.wait(timeout=60)
        subprocess.run(["rm", "-rf", folder], check=True)
    assert code == 0, f"the daemon ended with {code}"
    device = found[discovery][-1]
    asyncio.run(check(device, found[state], found[event]))
    print(f"ok  {len(device['components'])} entities fit Home Assistant {__version__}")


async def check(device, states, events):
    hass = HomeAssistant(tempfile.gettempdir())
    frame.async_setup(hass)
    HASS.set(hass)
    DEVICE_DISCOVERY_SCHEMA(device)
    with_page = device | {"device": device["device"] | {"configuration_url": "http://192.0.2.7:8080/"}}
    DEVICE_DISCOVERY_SCHEMA(with_page)
    for key, component in device["components"].items():
        check_entity(key, component, with_page)
    check_values(device["components"], states, events)


if __name__ == "__main__":
    main()
