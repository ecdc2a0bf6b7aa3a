#!/usr/bin/env python3
"""Runs the scenario in a guest image under plain QEMU, unwatched: full-run.py DISK_IMAGE OUT_DIR [--refuse-mbr] [--kvm]

For development of the scenario itself. The image is only the backing file of a temporary overlay. Prints what the
serial console said, and checks it; with --refuse-mbr the disk fails every write to its first sector
(the saved original lies in the same 4 KiB block, so saving it fails too).
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGE_SIGNATURE = 0x1A7A0012
ORDER = ["stage 2 as uid 0", "MBR save: ", "MBR write: ", "cron entry: ok", "network: .* tried 20", "done, exit "]
CHECK = b"#!/bin/sh\nuname -r\ncat /etc/cron.d/drive-by\nfindmnt -no SOURCE /\n"


class Port:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(100):
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                time.sleep(0.1)
        self.buffer = b""

    def line(self, seconds: float) -> dict:
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.socket.recv(4096)
            if not data:
                raise EOFError("the port was closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def send(self, header: dict, content: bytes = b"") -> None:
        self.socket.settimeout(60)
        self.socket.sendall(json.dumps(header).encode() + b"\n" + content)


def main() -> int:
    disk, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    refuse = "--refuse-mbr" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        overlay, console = work / "overlay.qcow2", work / "console"
        make = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(overlay)]
        subprocess.run(make, check=True)
        mbr = bytearray(disk.open("rb").read(512))
        if int.from_bytes(mbr[440:444], "little") != IMAGE_SIGNATURE:
            print("full-run: the image has not the recipe's disk signature; the overlay gets it")
            mbr[440:444] = IMAGE_SIGNATURE.to_bytes(4, "little")
        (work / "mbr").write_bytes(mbr)
        command = f"write -q -s {work}/mbr 0 512"
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, str(overlay)], check=True)
        drive = f"driver=qcow2,file.driver=file,file.filename={overlay}"
        if refuse:
            drive = f"driver=blkdebug,image.driver=qcow2,image.file.driver=file,image.file.filename={overlay}"
            drive += ",inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5"
            drive += ",inject-error.0.sector=0"
        command = ["qemu-system-x86_64", "-machine", "pc", "-accel", "kvm" if "--kvm" in sys.argv else "tcg", "-m", "1024"]
        command += ["-display", "none", "-monitor", "none", "-serial", f"file:{console}"]
        command += ["-drive", f"if=virtio,{drive}"]
        command += ["-drive", f"if=virtio,format=raw,snapshot=on,file={out}/scenario.img"]
        command += ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"]
        command += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=task,name=lava.task"]
        command += ["-chardev", f"socket,id=task,path={work}/port,server=on,wait=off"]
        qemu = subprocess.Popen(command)
        try:
            return run(work, console, out, refuse)
        finally:
            print("--- serial console ---")
            print(re.sub(r"[^\n\x20-\x7e]", "", console.read_text(errors="replace")))
            qemu.terminate()
            qemu.wait()


def run(work: Path, console: Path, out: Path, refuse: bool) -> int:
    began = time.monotonic()

    def note(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", flush=True)

    port = Port(work / "port")
    note(f"guest: {port.line(180)}")
    applet = (out / "applet.jar").read_bytes()
    java = ["/usr/bin/java", "-Djava.security.manager=allow", "-cp", "/opt/scenario/host.jar", "lava.applet.AppletHost"]
    task = {"name": "slides.jar", "path": "/home/user/slides.jar", "size": len(applet), "command": java + ["{task}"]}
    port.send(task | {"scenario_disk": True, "console": True}, applet)
    answer = port.line(240)
    note(f"task: {answer}")
    port.send({"reboot": True})
    note(f"after the restart: {port.line(240)}")
    check = {"name": "check.sh", "path": "/home/user/check.sh", "size": len(CHECK), "command": ["{task}"]}
    port.send(check | {"mode": 0o755, "console": True}, CHECK)
    note(f"check: {port.line(60)}")

    text = console.read_text(errors="replace")
    said = re.findall(r"drive-by: (.*?)\r?\n", text.split("LAVA drive-by:")[0])
    planted = "LAVA drive-by: planted boot sector ran" in text
    wrong = [] if answer == {"exit": 5 if refuse else 0} else [f"answer {answer}"]
    wrong += [] if planted != refuse else [f"planted: {planted}"]
    wrong += [] if len(said) == len(ORDER) and all(map(re.match, ORDER, said)) else [f"lines: {said}"]
    refused = "MBR write: Input/output error (EIO)" in said
    wrong += [] if refused == refuse else [f"refused: {refused}"]
    print("passed" if not wrong else f"FAILED: {wrong}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
