#!/usr/bin/env python3
"""In the chat from Python: says what is typed and prints what is said. python3 say.py NICK [TOPIC]"""
import json, os, socket, sys, threading

nick, topic = (sys.argv[1:] + ["python", "chat.lobby"][len(sys.argv) - 1 :])[:2]
app = socket.socket(socket.AF_UNIX)
app.connect(os.environ["PILLION_SOCKET"])
to_node = app.makefile("w")


def tell(**command):
    print(json.dumps(command), file=to_node, flush=True)


def hear():
    for line in app.makefile("r"):
        event = json.loads(line)
        if event["ev"] == "message" and isinstance(event["body"], dict):
            print(f"{event['body'].get('nick')}: {event['body'].get('text')}", flush=True)


tell(op="track", topic=topic, key=nick, metadata={"via": "python"})
tell(op="subscribe", topic=topic)
threading.Thread(target=hear, daemon=True).start()
for line in sys.stdin:
    tell(op="publish", topic=topic, body={"nick": nick, "text": line.rstrip("\n")})
