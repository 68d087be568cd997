"""What 0-db's own tools do: python zdb_tools.py PORT OTHER_PORT ADMIN_PASSWORD. A line for each check.

The first server runs hooks; the second is the one that the incremental update writes to.
"""

import hashlib
import sys
import time
from datetime import datetime

import redis
from redis._parsers.helpers import bool_ok, parse_info

from checks import attempt, check, finish, refused

port, other_port, password = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def connect(port):
    client = redis.Redis(host="127.0.0.1", port=port, single_connection_client=True)
    client.set_response_callback("NSINFO", parse_info)
    client.set_response_callback("DEL", bool_ok)
    client.set_response_callback("SET", bytes)
    client.set_response_callback("AUTH", bytes)
    return client


master, slave = connect(port), connect(other_port)

# -- AUTH SECURE: SHA-1 of the challenge, a colon, and the password
def answer(client, secret):
    challenge = client.execute_command("AUTH", "SECURE", "CHALLENGE").decode()
    assert len(challenge) == 16, challenge
    return hashlib.sha1(f"{challenge}:{secret}".encode()).hexdigest()


for name, client in (("master", master), ("slave", slave)):
    refused(f"{name}: a wrong answer", "Access denied", lambda: client.execute_command("AUTH", "SECURE", answer(client, "x")))
    response = answer(client, password)
    check(f"{name}: AUTH SECURE", lambda: client.execute_command("AUTH", "SECURE", response), b"OK")
    refused(f"{name}: the same answer again", "No CHALLENGE requested", lambda: client.execute_command("AUTH", "SECURE", response))
    check(f"{name}: SELECT with a password", lambda: client.execute_command("SELECT", "default", password) in (b"OK", True), True)


# -- live stats: INFO by redis.info(), differences of its numbers
FIELDS = (
    "data_disk_read_bytes", "data_disk_write_bytes", "index_disk_read_bytes", "index_disk_write_bytes",
    "network_rx_bytes", "network_tx_bytes", "commands_executed", "clients_lifetime", "uptime",
)


def live_stats():
    before = master.info()
    for number in range(10):
        master.execute_command("SET", f"stat{number}", "value")
    after = master.info()
    differences = {field: after[field] - before[field] for field in FIELDS}
    assert all(isinstance(after[field], int) for field in FIELDS), after
    assert differences["commands_executed"] >= 10, differences
    assert differences["network_rx_bytes"] > 0 and differences["network_tx_bytes"] > 0, differences


attempt("live stats", live_stats)


def odd_names():
    # A name may be nearly anything; INFO must stay readable, and tell each namespace.
    names = ["with blank", "a,b", "x=y", "a:b", "#hash", "cr\rlf\n", "ünï", b"\xff\xfe", "db7:keys=9"]
    for name in names:
        assert master.execute_command("NSNEW", name) == b"OK", name
    info = master.info()
    spaces = [field for field in info if field.startswith("db") and isinstance(info[field], dict)]
    assert len(spaces) == len(names) + 1, {field: info[field] for field in info if field.startswith("db")}
    assert all(info[field]["expires"] == 0 and "keys" in info[field] for field in spaces), info
    assert "__raw__" not in info, info["__raw__"]
    for name in names:
        assert master.execute_command("NSDEL", name) == b"OK", name


attempt("INFO with odd names of namespaces", odd_names)


# -- the monitor of hooks
def hooks():
    assert master.execute_command("NSNEW", "hooked") == b"OK"
    deadline = time.monotonic() + 20
    while True:
        entries = master.execute_command("HOOKS")
        found = {hook[0] for hook in entries}
        ours = [hook for hook in entries if hook[:2] == [b"namespace-created", [b"hooked"]]]
        hook = ours[0] if ours else None
        if hook and hook[4] != 0:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    name, arguments, pid, created, finished, status = hook
    assert arguments == [b"hooked"] and pid > 0 and status == 0, hook
    assert abs(datetime.fromtimestamp(created) - datetime.now()).total_seconds() < 60, created
    assert created <= finished, hook
    assert b"ready" in found, found
    assert master.execute_command("NSDEL", "hooked") == b"OK"


attempt("HOOKS", hooks)


# -- the incremental update: what is at this place of the master?
def place(client):
    info = client.execute_command("NSINFO", "default")
    return int(info["data_current_id"]), int(info["data_current_offset"])


def raw():
    for number in range(20):
        file, offset = place(master)
        key, value = b"raw%d" % number, b"value %d" % number * (number + 1)
        assert master.execute_command("SET", key, value, 1_600_000_000 + number) == key
        got = master.execute_command("DATA", "RAW", file, offset)
        assert (got[0], got[3], got[4], got[5]) == (key, 0, 1_600_000_000 + number, value), (file, offset, got)
        assert got[2][:2] == b"0x" and len(got[2]) == 10, got[2]
    file, offset = place(master)
    assert master.execute_command("DEL", b"raw0", 1_600_000_100)
    got = master.execute_command("DATA", "RAW", file, offset)
    assert (got[0], got[3] & 1, got[4], got[5]) == (b"raw0", 1, 1_600_000_100, None), got


attempt("DATA RAW at the place that NSINFO told", raw)
refused("DATA RAW at the end", "EOF", lambda: master.execute_command("DATA", "RAW", *place(master)))
refused("DATA RAW of no such file", "Invalid Request", lambda: master.execute_command("DATA", "RAW", 4000, 28))


def jump():
    file, offset = place(master)
    assert master.execute_command("NSJUMP") == b"OK"
    after, _ = place(master)
    assert after == file + 1, (file, after)
    refused("the old file has its end", "EOF", lambda: master.execute_command("DATA", "RAW", file, offset))
    assert master.execute_command("SET", "jumped", "value") == b"jumped"


attempt("NSJUMP", jump)


def incremental():
    # What the tool writes on the slave: values and ends of keys with the master's times.
    wanted = {}
    for number in range(50):
        key, value = b"inc%d" % (number % 30), b"version %d" % number
        master.execute_command("SET", key, value)
        wanted[key] = value
    master.execute_command("DEL", b"inc3")
    del wanted[b"inc3"]
    for key in list(wanted):
        taken = master.execute_command("KEYTIME", key)
        assert slave.execute_command("SET", key, wanted[key], taken) == key
        assert slave.execute_command("KEYTIME", key) == taken
    assert slave.execute_command("DEL", b"inc4", 1_600_000_000) is True
    for key, value in wanted.items():
        assert slave.get(key) == (None if key == b"inc4" else value), key


attempt("SET and DEL with times", incremental)
finish()
