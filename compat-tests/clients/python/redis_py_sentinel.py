"""redis-py through a sentinel: python redis_py_sentinel.py SENTINEL_PORT PASSWORD. A line for each check."""

import sys

from redis.sentinel import Sentinel

from checks import attempt, check, finish

port, password = int(sys.argv[1]), sys.argv[2]
sentinel = Sentinel([("127.0.0.1", port)], socket_timeout=20)
attempt("discover_master", lambda: sentinel.discover_master("main")[0] == "127.0.0.1")
check("discover_slaves", lambda: sentinel.discover_slaves("main"), [])
main = sentinel.master_for("main", socket_timeout=20, password=password)
check("PING", main.ping, True)
check("SETX", lambda: main.execute_command("SETX", "python", "1"), b"python")
check("GET", lambda: main.get("python"), b"1")


def heard():
    subscriber = main.pubsub()
    subscriber.subscribe("news")
    assert subscriber.get_message(timeout=20)["type"] == "subscribe"
    assert main.publish("news", "hello") == 1
    message = subscriber.get_message(timeout=20)
    subscriber.close()
    return message["data"] == b"hello"


attempt("publish and subscribe", heard)
finish()
