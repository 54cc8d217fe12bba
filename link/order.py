#!/usr/bin/env python3
"""Writes link/order.ld anew: what a node runs, so that the linker puts it side by side.

The system maps 64 KiB of a program around each page that is touched. With the functions of a node scattered
among those of the command line, nearly the whole program was resident in a node that idles; see
docs/performance.md. A node is run under valgrind: it starts, meets another one, serves apps in both dialects. Each
function that ran is listed, without the hash at the end of its name, so that the list outlives compilers and changes:
a name that is gone matches nothing, one that is missing lies with the rest.

Needs valgrind. Run it with `just order` after a change that adds much to what a node does.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PILLION = os.path.join(ROOT, "target/unordered/release/pillion")


def build():
    env = dict(os.environ, PILLION_UNORDERED="1")
    subprocess.run(["cargo", "build", "--release", "--target-dir", "target/unordered"], cwd=ROOT, env=env, check=True)


def until(what, test):
    for _ in range(600):
        if test():
            return
        time.sleep(0.1)
    sys.exit(f"gave up waiting for {what}")


class App:
    """An app that speaks JSON lines."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")
        self.ids = 0

    def say(self, op, **fields):
        self.socket.sendall((json.dumps({"op": op, **fields}) + "\n").encode())

    def ask(self, op, **fields):
        self.ids += 1
        self.say(op, id=self.ids, **fields)
        return self.until(lambda event: event.get("id") == self.ids)

    def until(self, wanted):
        while True:
            event = json.loads(self.lines.readline())
            if wanted(event):
                return event


def exercise(mine, theirs):
    """What apps do: `mine` is at the node that is looked at."""
    one, two = App(mine), App(theirs)
    for app in (one, two):
        app.ask("hello", version=1)
    pids = [app.ask("self")["pid"] for app in (one, two)]
    one.ask("register", name="one")
    two.ask("register", name="two")
    one.ask("monitor_nodes", on=True)
    for app, to in ((one, pids[1]), (two, pids[0]), (one, pids[0])):
        for body in ("small", "x" * 5000, "x" * 200000):
            app.ask("send", to=to, body=body)
    for app, other in ((one, two), (two, one)):
        to = pids[0] if other is one else pids[1]
        app.ask("monitor", to=to)
        app.say("call", id=1000, to=to, body={"n": 1})
        call = other.until(lambda event: event["ev"] == "call")
        other.say("reply", ref=call["ref"], body=2)
        app.until(lambda event: event.get("id") == 1000)
        child = app.ask("spawn", link=False, monitor=True)["pid"]
        app.ask("join", group="all")
        app.ask("register", name="g" + child[-4:-1], scope="global")
        app.ask("exit", pid=child, reason="done")
        app.ask("send_after", to=to, after_ms=20, body="later")
        app.ask("nodes")
        app.ask("serve", module="m")
        app.ask("info", to=to)
    for app, at in ((one, "any"), (two, "any")):
        app.say("rpc", id=2000, node=at, module="m", function="f", body=[])
        asked = (one if app is one else two).until(lambda event: event["ev"] == "rpc")
        app.say("reply", ref=asked["ref"], body=2)
        app.until(lambda event: event.get("id") == 2000)
    two.socket.close()
    time.sleep(1)
    one.socket.close()


def profile(scratch):
    env = dict(os.environ, PILLION_DIR=scratch, HOME=scratch, XDG_CONFIG_HOME=scratch)
    env.pop("PILLION_SOCKET", None)
    outputs, nodes = [], []

    def node(name, watched, *more):
        command = [PILLION, "up", "--name", name, *more]
        if watched:
            output = os.path.join(scratch, name + ".callgrind")
            outputs.append(output)
            command = ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={output}", *command]
        with open(os.path.join(scratch, name + ".log"), "w") as log:
            nodes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))

    def cli(*arguments):
        return subprocess.run([PILLION, *arguments], env=env, capture_output=True, text=True, check=False).stdout

    def path(mesh, name):
        return os.path.join(scratch, mesh, name + ".sock")

    # One that is alone, one that is junior and one that is senior to the node that is not looked at.
    node("alone", True, "--mesh", "other")
    node("a", True)
    node("b", False)
    node("c", True)
    until("the mesh", lambda: cli("nodes", "--socket", path("default", "b"), "--json").count('"connected"') == 2)
    for watched in ("a", "c"):
        for _ in range(3):
            cli("ping", "b", "--socket", path("default", watched))
            cli("nodes", "--socket", path("default", watched))
        exercise(path("default", watched), path("default", "b"))
    time.sleep(3)
    for running in nodes:
        running.send_signal(signal.SIGINT)
    for running in nodes:
        running.wait()
    # First what a node does that has nothing to do.
    return [functions(output) for output in outputs]


def functions(output):
    with open(output) as lines:
        names = (match[1] for line in lines if (match := re.match(r"c?fn=\(\d+\) (\S+)", line)))
        return {re.sub(r"'\d+$", "", name) for name in names}


def pattern(symbol):
    """The name of a function without what changes from build to build; none for what is no function of Rust's."""
    if match := re.fullmatch(r"(_ZN.*17h)[0-9a-f]{16}E.*", symbol):
        return match[1] + "*"
    if symbol.startswith("_R"):
        return re.sub(r"\.\d+$", "*", re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", symbol))
    return None


def write(runs):
    listed = set()
    with open(os.path.join(ROOT, "link/order.ld"), "w") as script:
        script.write("/* What a node runs, side by side. Written by link/order.py; see there. */\nSECTIONS\n{\n  .text.node :\n  {\n")
        for ran in (runs[0], set().union(*runs[1:])):
            new = {found for name in ran if (found := pattern(name))} - listed
            listed |= new
            script.writelines(f"    *(.text.{name})\n" for name in sorted(new))
        script.write("  }\n}\nINSERT BEFORE .text;\n")
    print(f"{len(listed)} patterns")


if __name__ == "__main__":
    if "--built" not in sys.argv:
        build()
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o700)
        write(profile(scratch))
