#!/usr/bin/env python3
"""Runs an emulated machine, and reads the results from its serial line.

    drive.py SECONDS QEMU ARGUMENT ...

The machine writes a line for each of its checks:

    rig ok WHAT           the check passed
    rig bad WHAT          the check failed
    rig skip WHAT         the check is not possible on this machine
    rig pins MASK VALUE WHAT
                          the host must check whether the levels of the
                          Raspberry Pi's pins 0 to 31 (GPLEV0) under MASK are
                          VALUE. The host reads the levels through QEMU's
                          monitor while the machine waits.
    rig done              all checks are done

All other lines are printed. The test fails if there is no "done" within SECONDS.
"""

import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time

# The address of the BCM2837's register GPLEV0 in the address space of its processors.
LEVELS = 0x3F200034


def levels(path):
    """Returns the levels of pins 0 to 31, with one bit per pin."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(10)
        monitor.connect(path)
        text = ""
        while "(qemu)" not in text:
            text += monitor.recv(4096).decode(errors="replace")
        monitor.sendall(f"xp /1wx {LEVELS:#x}\n".encode())
        while not (found := re.search(r"^0*3f200034: (0x[0-9a-f]+)", text, re.M)):
            text += monitor.recv(4096).decode(errors="replace")
        return int(found[1], 16)


def main():
    seconds, command = float(sys.argv[1]), sys.argv[2:]
    passed = failed = skipped = 0
    done = False
    with tempfile.TemporaryDirectory() as folder:
        monitor = os.path.join(folder, "monitor")
        command += ["-serial", "stdio", "-monitor", f"unix:{monitor},server,nowait"]
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(machine.stdout.fileno(), False)
        selector = selectors.DefaultSelector()
        selector.register(machine.stdout, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        text = b""
        while not done and time.monotonic() < end:
            selector.select(timeout=1)
            piece = machine.stdout.read()
            if piece == b"":
                break
            text += piece or b""
            *lines, text = text.split(b"\n")
            for line in lines:
                line = line.decode(errors="replace").rstrip()
                words = re.search(r"rig (ok|bad|skip|pins|done)\b ?(.*)", line)
                if not words:
                    print(f"     {line}", flush=True)
                    continue
                kind, what = words.groups()
                if kind == "pins":
                    mask, value, what = what.split(" ", 2)
                    # The LEDs may blink.
                    for _ in range(20):
                        seen = levels(monitor) & int(mask, 0)
                        if seen == int(value, 0):
                            break
                        time.sleep(0.13)
                    kind = "ok" if seen == int(value, 0) else "bad"
                    what += f" (read from outside: {seen:#010x})"
                passed += kind == "ok"
                failed += kind == "bad"
                skipped += kind == "skip"
                done = done or kind == "done"
                if kind != "done":
                    print({"ok": "ok   ", "bad": "BAD  ", "skip": "skip "}[kind] + what, flush=True)
        machine.kill()
        machine.wait()
    if not done:
        print(f"BAD  the machine did not finish within {seconds:.0f} s")
        failed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0


sys.exit(main())
