"""A hosted program in Python without a package: what it takes to be the process that a node hosts.

Answers calls: ["set", KEY, VALUE] and ["get", KEY] of a state that begins as its arguments say, ["env"] and ["args"],
["exit", STATUS]. Says "up" when it is the process.
"""

import json
import os
import signal
import socket
import sys


def main():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["PILLION_SOCKET"])
    lines = connection.makefile("r", encoding="utf-8")

    def tell(**command):
        connection.sendall((json.dumps(command) + "\n").encode())

    def leave(*_):
        if "--last-words" in sys.argv:
            tell(op="send", to=sys.argv[-1], body="last words")
        if "--deaf" not in sys.argv:
            os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    state = {"seed": "from init"}
    tell(op="hello", id=0, version=1, process=os.environ["PILLION_PROCESS"])
    for line in lines:
        event = json.loads(line)
        if event["ev"] == "error":
            raise SystemExit(event["message"])
        if event["ev"] == "ok" and event["id"] == 0:
            print("up", flush=True)
        if event["ev"] != "call":
            continue
        body, answer = event["body"], None
        if body[0] == "set":
            state[body[1]] = body[2]
        elif body[0] == "get":
            answer = state.get(body[1])
        elif body[0] == "env":
            answer = dict(os.environ)
        elif body[0] == "args":
            answer = sys.argv[1:]
        elif body[0] == "cwd":
            answer = os.getcwd()
        elif body[0] == "say":
            tell(op="send", to=body[1], body=body[2])
            os._exit(body[3])
        elif body[0] == "exit":
            os._exit(body[1])
        tell(op="reply", ref=event["ref"], body=answer)


main()
