"""redis-py: python redis_py.py PORT ADMIN_PASSWORD PROTOCOL PARSER [CA_FILE]. A line for each check.

PARSER is "python" or "hiredis"; with CA_FILE the port speaks TLS.
"""

import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.exceptions import ResponseError

from checks import attempt, check, finish, refused, same

port, password, protocol, parser = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
ca_file = sys.argv[5] if len(sys.argv) > 5 else None
name = f"py{protocol}{parser}{'tls' if ca_file else ''}"

# redis-py uses the parser of the package hiredis where it is installed.
same("the parser asked for is used", redis.utils.HIREDIS_AVAILABLE, True)
if parser == "python":
    from redis._parsers import _RESP2Parser, _RESP3Parser

    parser_class = {2: _RESP2Parser, 3: _RESP3Parser}[protocol]
else:
    from redis._parsers import _HiredisParser as parser_class

if ca_file:
    secure = {"connection_class": redis.SSLConnection, "ssl_ca_certs": ca_file}
else:
    secure = {}


def pool(pool_class=redis.ConnectionPool, **arguments):
    return pool_class(
        host="127.0.0.1", port=port, protocol=protocol, parser_class=parser_class, **secure, **arguments
    )


def connect(**arguments):
    return redis.Redis(connection_pool=pool(**arguments))


# Everything below happens in a namespace of this run: each new connection selects it.
admin = connect(password=password)
check("NSNEW", lambda: admin.execute_command("NSNEW", name), b"OK")


def inside(pool_class=redis.ConnectionPool, **arguments):
    pool_ = pool(pool_class, **arguments)

    def select(connection):
        connection.on_connect()
        connection.send_command("SELECT", name)
        connection.read_response()

    pool_.connection_kwargs["redis_connect_func"] = select
    return redis.Redis(connection_pool=pool_)


client = inside(client_name=name)

# -- the connection
check("PING", client.ping, True)
check("ECHO", lambda: client.echo("hello"), b"hello")
check("CLIENT GETNAME", lambda: client.client_getname() in (name, name.encode()), True)
check("CLIENT ID", lambda: client.client_id() > 0, True)
attempt("CLIENT LIST", lambda: any(line["name"] == name for line in admin.client_list()))
refused("CLIENT LIST without a password", "Permission denied", client.client_list)
attempt("CLIENT INFO", lambda: client.client_info()["name"] == name)
attempt("TIME", lambda: client.time()[0] > 1_700_000_000)
check("SELECT 0", lambda: admin.execute_command("SELECT", 0) in (True, b"OK"), True)
refused("SELECT 7", "Namespace not found", lambda: connect(db=7).ping())
check("db=0", lambda: connect(db=0).ping(), True)
check("user default", lambda: connect(username="default", password=password).ping(), True)
# AUTH answers with 0-db's text, HELLO with Redis's.
denied = "Access denied" if protocol == 2 else "invalid username-password pair"
refused("wrong password", denied, lambda: connect(password="wrong").ping())
refused("wrong user", "", lambda: connect(username="somebody", password=password).ping())
refused("not an admin", "Permission denied", lambda: client.execute_command("NSNEW", "other"))

scheme = f"rediss://:{password}@127.0.0.1:{port}/0?ssl_ca_certs={ca_file}&" if ca_file else f"redis://:{password}@127.0.0.1:{port}/0?"
check("from_url", lambda: redis.Redis.from_url(f"{scheme}protocol={protocol}").ping(), True)
if ca_file:
    refused(
        "an unknown authority is not trusted",
        "",
        lambda: redis.Redis(host="127.0.0.1", port=port, ssl=True, retry=Retry(NoBackoff(), 0)).ping(),
    )

# -- keys and values: SET answers the key, which redis-py takes for "not OK"
check("SET", lambda: client.set("key", "first"), False)
check("SETX answers the key", lambda: client.execute_command("SETX", "key", "value"), b"key")
check("SETX of the same", lambda: client.execute_command("SETX", "key", "value"), None)
check("GET", lambda: client.get("key"), b"value")
check("GET missing", lambda: client.get("missing"), None)
check("EXISTS", lambda: client.exists("key"), 1)
check("MGET", lambda: client.mget("key", "missing"), [b"value", None])
refused("DEL missing", "Key not found", lambda: client.delete("missing"))
check("DEL", lambda: client.delete("key"), b"OK")
binary = bytes(range(256)) + b"\r\n$-1\r\n"
check("SET binary", lambda: client.execute_command("SETX", b"\x00\xff\r\n", binary), b"\x00\xff\r\n")
check("GET binary", lambda: client.get(b"\x00\xff\r\n"), binary)
check("SET empty", lambda: client.execute_command("SETX", "empty", b""), b"empty")
check("GET empty", lambda: client.get("empty"), b"")
refused("long key", "Key too large", lambda: client.set("k" * 256, "v"))
for size in (1 << 20, 8 << 20):
    value = bytes([protocol]) * size
    check(f"SET of {size} bytes", lambda: client.execute_command("SETX", "large", value), b"large")
    attempt(f"GET of {size} bytes", lambda: client.get("large") == value)
check("DEL large", lambda: client.delete("large"), b"OK")

check("MSET", lambda: client.mset({"m1": "1", "m2": "2", "m3": "3"}), True)
check("MGET of MSET", lambda: client.mget("m1", "m2", "m3"), [b"1", b"2", b"3"])
check("SETNX new", lambda: client.setnx("nx", "1"), True)
check("SETNX old", lambda: client.setnx("nx", "2"), False)
check("SET NX new", lambda: client.set("nx2", "1", nx=True), True)
check("SET NX old", lambda: client.set("nx2", "2", nx=True), None)
check("SET XX old", lambda: client.set("nx2", "3", xx=True), True)
check("SET XX new", lambda: client.set("nx3", "3", xx=True), None)
check("SET GET", lambda: client.set("nx2", "4", get=True), b"3")
check("SET GET new", lambda: client.set("nx4", "4", get=True), None)
check("SET IFEQ", lambda: client.execute_command("SET", "nx2", "5", "IFEQ", "4"), True)
check("SET IFEQ other", lambda: client.execute_command("SET", "nx2", "6", "IFEQ", "4"), None)
check("GET after IFEQ", lambda: client.get("nx2"), b"5")
refused("SET EX", "Invalid option: EX", lambda: client.set("nx2", "4", ex=10))
check("STRLEN", lambda: client.strlen("nx2"), 1)
check("STRLEN missing", lambda: client.strlen("missing"), 0)
check("SETX for GETRANGE", lambda: client.execute_command("SETX", "range", "0123456789"), b"range")
check("GETRANGE", lambda: client.getrange("range", 2, -3), b"234567")
check("TYPE", lambda: client.type("range"), b"string")
check("TYPE missing", lambda: client.type("missing"), b"none")
check("TTL", lambda: client.ttl("range"), -1)
check("TTL missing", lambda: client.ttl("missing"), -2)
check("PTTL", lambda: client.pttl("range"), -1)
attempt("RANDOMKEY", lambda: client.exists(client.randomkey()) == 1)
attempt("MEMORY USAGE", lambda: client.memory_usage("range") > 0)
check("MEMORY USAGE missing", lambda: client.memory_usage("missing"), None)
check("OBJECT ENCODING", lambda: client.object("encoding", "range"), b"raw")
check("UNLINK", lambda: client.unlink("m1", "m2", "m3", "missing"), 3)

# -- pipelines, without MULTI and with it
def pipelined():
    pipeline = client.pipeline(transaction=False)
    for number in range(2000):
        pipeline.execute_command("SETX", f"p{number:04}", f"value {number}")
    pipeline.get("p1999")
    replies = pipeline.execute()
    return replies[:2000] == [b"p%04d" % number for number in range(2000)] and replies[2000:] == [b"value 1999"]


attempt("a pipeline", pipelined)
check(
    "a pipeline with an error in it",
    lambda: [
        str(reply) if isinstance(reply, Exception) else reply
        for reply in client.pipeline(transaction=False)
        .get("p0001").execute_command("DEL", "missing").get("p0002")
        .execute(raise_on_error=False)
    ],
    [b"value 1", "Key not found", b"value 2"],
)
refused("a transaction", "", lambda: client.pipeline(transaction=True).get("p0001").execute())
check("the pool after a refused transaction", lambda: client.get("p0001"), b"value 1")

# -- scans
keys = {b"p%04d" % number for number in range(2000)}
check("DBSIZE", lambda: client.dbsize() >= 2000, True)
attempt("scan_iter", lambda: keys <= set(client.scan_iter()))
attempt("scan_iter gives no key twice", lambda: len(list(client.scan_iter(count=500))) == client.dbsize())
check("scan_iter match", lambda: sorted(client.scan_iter(match="p000?", count=100)), [b"p%04d" % n for n in range(10)])
check("scan_iter type", lambda: len(list(client.scan_iter(match="p1*", count=500, _type="string"))), 1000)
check("scan_iter of another type", lambda: list(client.scan_iter(_type="hash")), [])
attempt("SCAN 0", lambda: client.scan(0, count=10)[0] != 0)


def binary_scan():
    cursor, entries = client.execute_command("SCANX")
    found = list(entries)
    try:
        while True:
            assert len(cursor) == 17, cursor
            cursor, entries = client.execute_command("SCANX", cursor)
            found += entries
    except ResponseError as error:
        assert str(error) == "No more data", error
    return keys <= {key for key, _, _ in found} and len(found) == client.dbsize()


attempt("SCANX with 0-db's cursor", binary_scan)
attempt("KSCAN", lambda: len(client.execute_command("KSCAN", "p00")[1]) > 0)

# -- the server
def information():
    info = client.info()
    assert info["sequential_key_size"] == 8, info
    for field in ("redis_version", "uptime_in_seconds", "connected_clients", "used_memory", "role",
                  "total_commands_processed", "used_cpu_sys", "maxclients"):
        assert field in info, f"{field} is not in {sorted(info)}"
    assert isinstance(info["used_memory"], int), info["used_memory"]
    namespaces = [value for key, value in info.items() if key.startswith("db") and isinstance(value, dict)]
    own = [namespace for namespace in namespaces if namespace.get("name") == name]
    assert len(own) == 1 and own[0]["keys"] >= 2000 and own[0]["expires"] == 0, namespaces
    assert not info.get("__raw__"), info["__raw__"]


attempt("INFO", information)
attempt("INFO keyspace", lambda: all(key.startswith("db") for key in client.info("keyspace")))
attempt("INFO memory", lambda: "used_memory" in client.info("memory") and "role" not in client.info("memory"))
attempt("CONFIG GET", lambda: int(admin.config_get("maxclients")["maxclients"]) > 0)
refused("CONFIG GET without a password", "Permission denied", lambda: client.config_get("maxclients"))
attempt("CONFIG SET", lambda: admin.config_set("slowlog-log-slower-than", 10000))
attempt("SLOWLOG GET", lambda: isinstance(admin.slowlog_get(), list))
attempt("SLOWLOG LEN", lambda: admin.slowlog_len() >= 0)
attempt("LATENCY LATEST", lambda: isinstance(admin.latency_latest(), (list, dict)))
attempt("COMMAND", lambda: "get" in client.command())
attempt("COMMAND COUNT", lambda: client.command_count() == len(client.command()))
attempt("COMMAND DOCS", lambda: len(client.execute_command("COMMAND DOCS", "get")) > 0)
refused("a command of Redis", "Command not supported (LPUSH", lambda: client.lpush("list", "1"))
refused("a transaction on keys", "cannot be between MULTI and EXEC", lambda: client.pipeline().get("p0001").execute())
refused("WATCH", "Command not supported (WATCH", lambda: client.pipeline().watch("p0001"))
check(
    "a transaction",
    lambda: client.pipeline().ping().echo("hello").publish(f"{name}-nobody", "hello").execute(),
    [True, b"hello", 0],
)


def subscribed():
    subscriber = inside().pubsub()
    got = []
    heard = []
    subscriber.subscribe(f"{name}-news", **{f"{name}-handled": heard.append})
    subscriber.psubscribe(f"{name}-*")
    while len(got) < 3:
        message = subscriber.get_message(timeout=20)
        assert message is not None, got
        got.append((message["type"], message["channel"], message["data"]))
    own = name.encode()
    assert got == [
        ("subscribe", own + b"-news", 1), ("subscribe", own + b"-handled", 2), ("psubscribe", own + b"-*", 3),
    ], got
    assert client.publish(f"{name}-news", b"\x00\xff\r\n") == 2
    assert client.publish(f"{name}-handled", "for the handler") == 2
    assert client.publish(f"{name}-other", "x" * 100_000) == 1
    assert client.pubsub_numsub(f"{name}-news") == [(own + b"-news", 1)]
    assert own + b"-news" in client.pubsub_channels(f"{name}*")
    assert client.pubsub_numpat() >= 1
    subscriber.ping("still there?")
    got = []
    while not (got and got[-1]["type"] == "pong"):
        message = subscriber.get_message(timeout=20)
        # On RESP3 a pong is an answer like others, which comes before messages that were read with it.
        if message is None:
            assert heard, got
            if len(got) >= 4:
                break
            continue
        got.append(message)
    messages = [(one["type"], one["pattern"], one["channel"], one["data"]) for one in got if "message" in one["type"]]
    assert messages == [
        ("message", None, own + b"-news", b"\x00\xff\r\n"),
        ("pmessage", own + b"-*", own + b"-news", b"\x00\xff\r\n"),
        ("pmessage", own + b"-*", own + b"-handled", b"for the handler"),
        ("pmessage", own + b"-*", own + b"-other", b"x" * 100_000),
    ], messages
    assert [one["data"] for one in heard] == [b"for the handler"], heard
    subscriber.unsubscribe()
    subscriber.punsubscribe()
    left = 1
    while left:
        message = subscriber.get_message(timeout=20)
        assert message is not None, left
        left = message["data"] if "unsubscribe" in message["type"] else left
    assert client.publish(f"{name}-news", "nobody") == 0
    subscriber.close()


attempt("publish and subscribe", subscribed)


def killed_subscriber():
    subscriber = inside(retry=Retry(NoBackoff(), 3), client_name=f"{name}-subscriber").pubsub()
    subscriber.subscribe(f"{name}-killed")
    assert subscriber.get_message(timeout=20)["type"] == "subscribe"
    listed = [line for line in admin.client_list(_type="pubsub") if line["name"] == f"{name}-subscriber"]
    assert len(listed) == 1 and listed[0]["sub"] == "1" and "P" in listed[0]["flags"], listed
    assert admin.client_kill_filter(_id=listed[0]["id"], _type="pubsub") == 1
    # It subscribes again by itself.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        subscriber.get_message(timeout=0.1)
        if client.publish(f"{name}-killed", "hello"):
            break
    while time.monotonic() < deadline:
        message = subscriber.get_message(timeout=20)
        if message["type"] == "message":
            return message["data"] == b"hello"
    return False


attempt("a killed subscriber comes back", killed_subscriber)
refused("no such command", "Command not supported", lambda: client.execute_command("NOSUCHCOMMAND"))


def monitored():
    with admin.monitor() as monitor:
        client.get("p0007")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            command = monitor.next_command()
            if command["command"] == "GET p0007":
                return True
    return False


attempt("MONITOR", monitored)

# -- pools, retries, health checks
def threads():
    blocking = inside(redis.BlockingConnectionPool, max_connections=10, timeout=20)
    failed = []

    def work(number):
        try:
            for turn in range(25):
                key = f"t{number}-{turn}"
                assert blocking.execute_command("SETX", key, key) == key.encode()
                assert blocking.get(key) == key.encode()
        except Exception as error:
            failed.append(repr(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed, failed[0]


attempt("20 threads share 10 connections", threads)


def killed():
    patient = inside(retry=Retry(NoBackoff(), 3), client_name=f"{name}-patient")
    assert patient.ping()
    assert admin.client_kill_filter(_id=patient.client_id(), skipme=False) == 1
    assert patient.get("p0001") == b"value 1"


attempt("a killed connection is made anew", killed)


def health():
    healthy = inside(health_check_interval=0.001)
    for number in range(3):
        assert healthy.get(f"p000{number}") == f"value {number}".encode()
        # A health check is a PING before the next command after a silence.
        time.sleep(0.005)


attempt("health checks", health)

# -- namespaces
def sequential():
    sequence = f"{name}seq"
    with connect(password=password).client() as one:
        assert one.execute_command("NSNEW", sequence) == b"OK"
        assert one.execute_command("NSSET", sequence, "mode", "seq") == b"OK"
        fields = dict(line.split(": ") for line in one.execute_command("NSINFO", sequence).decode().splitlines()[1:])
        assert fields["name"] == sequence and fields["mode"] == "sequential", fields
        assert one.execute_command("SELECT", sequence) in (b"OK", True)
        for number in range(3):
            assert one.execute_command("SETX", "", f"value {number}") == number.to_bytes(8, "little")
        cursor, entries = one.execute_command("SCANX")
        assert len(cursor) == 17 and [entry[:2] for entry in entries] == [
            [number.to_bytes(8, "little"), 7] for number in range(3)
        ], entries
        assert one.execute_command("CHECK", bytes(8)) == 1
        assert sequence.encode() in one.execute_command("NSLIST")
        assert one.execute_command("SELECT", "default") in (b"OK", True)
        assert one.execute_command("NSDEL", sequence) == b"OK"


attempt("a sequential namespace", sequential)
finish()
