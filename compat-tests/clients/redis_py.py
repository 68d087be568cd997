"""redis-py against zdb: python redis_py.py PORT ADMIN_PASSWORD. Prints "ok" and nothing else."""

import sys

import redis

port, password = int(sys.argv[1]), sys.argv[2]


def refused(text, function, *arguments):
    try:
        function(*arguments)
    except redis.ResponseError as error:
        assert text in str(error), f"{error!r} has no {text!r}"
    else:
        raise AssertionError(f"{arguments} was not refused")


for protocol in (2, 3):
    client = redis.Redis(host="127.0.0.1", port=port, protocol=protocol, client_name=f"py{protocol}")
    assert client.ping()
    assert client.client_getname() in (f"py{protocol}", f"py{protocol}".encode())
    assert client.echo("hello") == b"hello"
    seconds, microseconds = client.time()
    assert seconds > 1_700_000_000 and 0 <= microseconds < 1_000_000

    key = f"key{protocol}"
    # redis-py compares the reply to SET with "OK" and makes a bool of it; SETX it hands over.
    assert client.set(key, "first") is False
    assert client.execute_command("SETX", key, "value") == key.encode()
    assert client.execute_command("SETX", key, "value") is None
    assert client.get(key) == b"value"
    assert client.get("missing") is None
    assert client.exists(key) == 1
    assert client.mget(key, "missing") == [b"value", None]
    assert client.dbsize() >= 1
    refused("Key not found", client.delete, "missing")
    refused("Permission denied", client.execute_command, "NSNEW", "py")
    assert client.delete(key)

    pipeline = client.pipeline(transaction=False)
    for number in range(2000):
        pipeline.execute_command("SET", f"p{protocol}-{number}", f"value {number}")
    pipeline.get(f"p{protocol}-1999")
    replies = pipeline.execute()
    assert len(replies) == 2001 and replies[-1] == b"value 1999"

    # A large value, and one at the limit of a request's size.
    for size in (1 << 20, 8 << 20):
        value = bytes([protocol]) * size
        client.execute_command("SET", "large", value)
        assert client.get("large") == value

    info = client.info()
    assert info["sequential_key_size"] == 8, info

    admin = redis.Redis(host="127.0.0.1", port=port, password=password, protocol=protocol)
    namespace = f"py{protocol}"
    assert admin.execute_command("NSNEW", namespace) in (b"OK", "OK", True)
    assert admin.execute_command("NSSET", namespace, "mode", "seq") in (b"OK", "OK", True)
    fields = dict(
        line.split(": ") for line in admin.execute_command("NSINFO", namespace).decode().splitlines()[1:]
    )
    assert fields["name"] == namespace and fields["mode"] == "sequential", fields

    connection = redis.Redis(
        host="127.0.0.1", port=port, protocol=protocol, single_connection_client=True
    )
    connection.execute_command("SELECT", namespace)
    for number in range(3):
        assert connection.execute_command("SETX", "", f"value {number}") == number.to_bytes(8, "little")
    cursor, entries = connection.execute_command("SCANX")
    assert len(cursor) == 17 and len(entries) == 3, entries
    assert entries[0][0] == bytes(8) and entries[0][1] == 7, entries
    refused("No more data", connection.execute_command, "SCANX", cursor)
    assert connection.execute_command("CHECK", bytes(8)) == 1

    try:
        redis.Redis(host="127.0.0.1", port=port, password="wrong", protocol=protocol).ping()
    except (redis.AuthenticationError, redis.ResponseError):
        pass
    else:
        raise AssertionError("a wrong password was not refused")

redis.Redis(host="127.0.0.1", port=port).execute_command("SET", "from-python", b"bytes \x00\xff")
print("ok")
