#!/usr/bin/env python3
"""Writes link/order.ld anew: what a node runs, so that the linker puts it side by side.

The system maps 64 KiB of a program around each page that is touched, or a whole large folio of its cache. With the functions of a node scattered
among those of the command line, nearly the whole program was resident in a node that idles; see
docs/performance.md. A node is run under valgrind: it starts, meets another one, serves apps in both dialects. Then one as
it is in a pod: it watches a real API server, gets its certificate from an injector, answers probes. Each
function that ran is listed, without the hash at the end of its name, so that the list outlives compilers and changes:
a name that is gone matches nothing, one that is missing lies with the rest. First what a node does that is alone, then
what the others do, last what only pods need.

Needs valgrind, and what `tests/kubernetes/cluster api up` needs. Run it with `just order` after a change that adds much
to what a node does.
"""

import base64
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UNORDERED = os.path.join(ROOT, "target/unordered")
# With shared libraries, and static: what is generic is made in other crates there, and so has other names.
MUSL = f"{platform.machine()}-unknown-linux-musl"
PILLIONS = [os.path.join(UNORDERED, place, "release/pillion") for place in ("", MUSL)]
# Other nodes, enough that trees of theirs branch and that newcomers are no longer told every name.
OTHERS = 18
CLUSTER = os.path.join(ROOT, "tests/kubernetes/cluster")
CALLGRIND = ["valgrind", "--tool=callgrind", "--demangle=no"]


def build():
    env = dict(os.environ, PILLION_UNORDERED="1")
    for target in ([], ["--target", MUSL]):
        command = ["cargo", "build", "--release", "--target-dir", UNORDERED, *target]
        subprocess.run(command, cwd=ROOT, env=env, check=True)


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


def profile(scratch, pillion):
    env = dict(os.environ, PILLION_DIR=scratch, HOME=scratch, XDG_CONFIG_HOME=scratch)
    env.pop("PILLION_SOCKET", None)
    outputs, nodes = [], []

    def node(name, watched, *more):
        command = [pillion, "up", "--name", name, *more]
        if watched:
            output = os.path.join(scratch, name + ".callgrind")
            outputs.append(output)
            command = [*CALLGRIND, f"--callgrind-out-file={output}", *command]
        with open(os.path.join(scratch, name + ".log"), "w") as log:
            nodes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))

    def cli(*arguments):
        return subprocess.run([pillion, *arguments], env=env, capture_output=True, text=True, check=False).stdout

    def path(mesh, name):
        return os.path.join(scratch, mesh, name + ".sock")

    # One that is alone, one that is junior and one that is senior to the node that is not looked at.
    node("alone", True, "--mesh", "other")
    node("a", True)
    node("b", False)
    node("c", True)
    for other in range(OTHERS):
        node(f"other{other}", False)
    until("the mesh", lambda: cli("nodes", "--socket", path("default", "b"), "--json").count('"connected"') == OTHERS + 2)
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
    ran = [functions(output) for output in outputs]
    return [ran[0], set().union(*ran[1:])]


class Cluster:
    """An API server, with what the chart would have put there."""

    def __init__(self, scratch):
        self.port = 26470
        self.directory = os.path.join(scratch, "cluster")
        self.env = dict(os.environ, CLUSTER_DIR=self.directory, CLUSTER_PORT=str(self.port))
        self.env.pop("TEST_CLUSTER", None)
        subprocess.run([CLUSTER, "api", "up"], env=self.env, check=True)

    def kubectl(self, *arguments, given=None):
        text = json.dumps(given) if given else None
        command = [CLUSTER, "kubectl", *arguments]
        return subprocess.run(command, env=self.env, input=text, capture_output=True, text=True, check=True).stdout

    def make(self, kind, version, name, **rest):
        self.kubectl("create", "-f", "-", given={"kind": kind, "apiVersion": version, "metadata": {"name": name}, **rest})

    def down(self):
        subprocess.run([CLUSTER, "down"], env=self.env, check=True)


def profile_pod(scratch, pillion):
    """What a node does in a pod."""
    cluster = Cluster(scratch)
    try:
        return run_pod(scratch, pillion, cluster)
    finally:
        cluster.down()


def run_pod(scratch, pillion, cluster):
    until("the namespace", lambda: "default" in cluster.kubectl("get", "namespaces", "-o", "name"))
    cluster.make("ServiceAccount", "v1", "web")
    for secret in ("pillion-ca", "pillion-webhook-tls"):
        cluster.make("Secret", "v1", secret)
    cluster.make("Lease", "coordination.k8s.io/v1", "pillion-injector")
    cluster.make("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", "pillion", webhooks=[])
    mesh = {"name": "mesh", "port": 4470}
    cluster.make("Service", "v1", "pillion-default", spec={"clusterIP": "None", "ports": [mesh]})
    for pod in (f"web-{number}" for number in range(OTHERS + 1)):
        container = {"name": "web", "image": "web"}
        spec = {"containers": [container], "serviceAccountName": "web", "automountServiceAccountToken": False}
        cluster.make("Pod", "v1", pod, spec=spec)
        cluster.kubectl("label", "pod", pod, "pillion.dev/mesh=default")
    # What the injector writes; nobody is there, and the addresses are nobody's.
    address = {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "web-7", "namespace": "default"}}
    cluster.make(
        "EndpointSlice", "discovery.k8s.io/v1", "pillion-default-1", addressType="IPv4", endpoints=[address], ports=[mesh]
    )
    cluster.kubectl("label", "endpointslice", "pillion-default-1", "kubernetes.io/service-name=pillion-default")
    running, log = [], os.path.join(scratch, "injector.log")

    def run(command, log, **more):
        with open(log, "w") as to:
            running.append(subprocess.Popen(command, stdout=to, stderr=to, **more))

    def logged(log, words):
        with open(log) as lines:
            return re.search(words, lines.read())

    def counted(log, words):
        with open(log) as lines:
            return lines.read().count(words)

    template = os.path.join(ROOT, "tests/kubernetes_api/sidecar.json")
    local = ["--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"]
    names = ["--namespace", "default", "--name", "pillion", "--host", "127.0.0.1"]
    env = dict(os.environ, KUBECONFIG=os.path.join(cluster.directory, "admin.yaml"))
    run([pillion, "injector", *names, "--template", template, *local], log, env=env)
    until("the injector", lambda: logged(log, r"the webhook is on \S*127.0.0.1:(\d+)"))
    issuer = logged(log, r"the webhook is on \S*127.0.0.1:(\d+)")[1]
    bundle = "jsonpath={.data.ca\\.crt}"
    until("the authority", lambda: cluster.kubectl("get", "secret", "pillion-ca", "-o", bundle))
    authority = base64.b64decode(cluster.kubectl("get", "secret", "pillion-ca", "-o", bundle)).decode()
    outputs = []

    def pod(name, watched, *more):
        place = os.path.join(scratch, name)
        account = os.path.join(place, "account")
        os.makedirs(account)
        bound = ["--bound-object-kind", "Pod", "--bound-object-name", name]

        def write(file, text):
            with open(os.path.join(account, file), "w") as to:
                to.write(text)

        write("token", cluster.kubectl("create", "token", "web", *bound).strip())
        write("issued", cluster.kubectl("create", "token", "web", "--audience", "pillion.dev", *bound).strip())
        write("namespace", "default")
        with open(os.path.join(cluster.directory, "certs/apiserver.crt")) as certificate:
            write("ca.crt", certificate.read())
        command = [pillion, "up", "--name", f"web@{name}.default", "--socket", os.path.join(place, "p.sock")]
        command += ["--socket-mode", "0666", *local, "--log-format", "json", *more]
        command += ["--issuer", f"https://127.0.0.1:{issuer}/v1/certificate", "--issuer-token", f"{account}/issued"]
        if watched:
            outputs.append(os.path.join(scratch, name + ".callgrind"))
            command = [*CALLGRIND, f"--callgrind-out-file={outputs[-1]}", *command]
        # Where a pod has its account.
        there = "mount -t tmpfs none /run; mkdir -p /run/secrets/kubernetes.io; "
        there += 'ln -s "$0" /run/secrets/kubernetes.io/serviceaccount; exec "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", there, account, *command]
        env = dict(os.environ, PILLION_DIR=place, HOME=place, PILLION_STATE_DIR=place, PILLION_ISSUER_CA=authority)
        env.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT=str(cluster.port))
        env.update(POD_NAME=name, POD_NAMESPACE="default", POD_UID=name)
        os.chmod(place, 0o700)
        run(command, os.path.join(place, "log"), env=env)
        return os.path.join(place, "p.sock"), os.path.join(place, "log")

    cluster.kubectl("create", "clusterrole", "looks", "--verb=list,watch", "--resource=endpointslices.discovery.k8s.io")
    cluster.kubectl("create", "clusterrolebinding", "looks", "--clusterrole=looks", "--serviceaccount=default:web")
    try:
        watch = ["--strategy", "kubernetes://?service=pillion-default&namespace=default"]
        theirs, log = pod("web-1", False, "--strategy", "none")
        until("the other node", lambda: logged(log, "is up.*port (\\d+)"))
        join = ("--join", f"127.0.0.1:{logged(log, 'is up.*port ([0-9]+)')[1]}")
        mine, log = pod("web-0", True, *watch, *join)
        for number in range(2, OTHERS + 1):
            pod(f"web-{number}", False, "--strategy", "none", *join)
        until("the mesh", lambda: counted(log, '"joined"') == OTHERS)
        health = logged(log, r"http://127.0.0.1:(\d+)")[1]
        for path in ("startupz", "readyz", "livez", "metrics"):
            for _ in range(3):
                urllib.request.urlopen(f"http://127.0.0.1:{health}/{path}", timeout=60).read()
        exercise(mine, theirs)
        address["addresses"] = ["192.0.2.2"]
        cluster.kubectl("patch", "endpointslice", "pillion-default-1", "-p", json.dumps({"endpoints": [address]}))
        time.sleep(3)
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGINT)
        for process in running:
            process.wait()
    return [functions(output) for output in outputs]


def functions(output):
    with open(output) as lines:
        names = (match[1] for line in lines if (match := re.match(r"c?fn=\(\d+\) (\S+)", line)))
        return {re.sub(r"'\d+$", "", name) for name in names}


def pattern(symbol):
    """The name of a function without what changes from build to build; none for what has none of its own."""
    if match := re.fullmatch(r"(_ZN.*17h)[0-9a-f]{16}E.*", symbol):
        return match[1] + "*"
    if symbol.startswith("_R"):
        return re.sub(r"\.\d+$", "*", re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", symbol))
    # Those of C, of ring (whose names have its version in them) and of a C library that is linked in.
    if re.fullmatch(r"[A-Za-z_]\w*", symbol):
        return re.sub(r"^(ring_core_)[0-9_]+__", r"\1*__", symbol)
    return None


def write(runs):
    listed = set()
    with open(os.path.join(ROOT, "link/order.ld"), "w") as script:
        script.write("/* What a node runs, side by side. Written by link/order.py; see there. */\nSECTIONS\n{\n  .text.node :\n  {\n")
        for ran in runs:
            new = {found for name in ran if (found := pattern(name))} - listed
            listed |= new
            # What the compiler takes to be unlikely has sections of its own.
            script.writelines(f"    *(.text.{name} .text.unlikely.{name})\n" for name in sorted(new))
        script.write("  }\n}\nINSERT BEFORE .text;\n")
    print(f"{len(listed)} patterns")


if __name__ == "__main__":
    if "--built" not in sys.argv:
        build()
    found = []
    for pillion in PILLIONS:
        with tempfile.TemporaryDirectory() as scratch:
            os.chmod(scratch, 0o700)
            found.append(profile(scratch, pillion) + profile_pod(scratch, pillion))
    # The same run of each program, then the next one.
    write([set().union(*same) for same in zip(*found, strict=True)])
