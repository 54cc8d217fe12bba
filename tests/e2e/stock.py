"""A stock of products, in Python without a package: what any language needs to be a process of the mesh.

Usage: stock.py SOCKET NAME. Prints what it is asked to print; ends when it is told "stop".
"""

import json
import socket
import sys


def main():
    path, name = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    lines = connection.makefile("r", encoding="utf-8")

    def tell(**command):
        connection.sendall((json.dumps(command) + "\n").encode())

    stock = []
    tell(op="register", name=name, id=1)
    for line in lines:
        event = json.loads(line)
        if event["ev"] == "error":
            raise SystemExit(event["message"])
        if event["ev"] != "message":
            continue
        body = event["body"]
        if body == "status":
            print([product["name"] for product in stock], flush=True)
        elif body == "stop":
            return
        elif body[0] == "add" and len(body) == 2:
            stock.insert(0, body[1])
        elif body[0] == "add":
            stock.insert(0, body[2])
            print(f"{body[1]} added a new item on stock", flush=True)
            tell(op="send", to=body[1], body=stock)
        elif body[0] == "status" and len(body) == 2:
            print(f"{body[1]} checked the stock", flush=True)
            tell(op="send", to=body[1], body=["show", stock])
        elif body[0] == "status":
            print(f"{body[1]} checked the stock", flush=True)
            tell(op="send", to=body[1], body=["stock", body[2], stock])


main()
