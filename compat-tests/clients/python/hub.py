"""What the hub and jumpscale do with redis-py: python hub.py PORT ADMIN_PASSWORD. A line for each check."""

import sys

import redis
from redis._parsers.helpers import parse_info

from checks import attempt, check, finish, refused, same

port, password = int(sys.argv[1]), sys.argv[2]
admin = redis.Redis("127.0.0.1", port)
check("AUTH", lambda: admin.execute_command("AUTH", password) in (b"OK", True), True)
# The hub keeps one connection for good: redis-py's pool hands out the one that was given back.

# -- jumpscale: a namespace with a password, private, limited
check("NSNEW", lambda: admin.execute_command("NSNEW", "hub"), b"OK")
refused("NSNEW again", "This namespace is not available", lambda: admin.execute_command("NSNEW", "hub"))
check("password", lambda: admin.execute_command("NSSET", "hub", "password", "hubsecret"), b"OK")
check("public no", lambda: admin.execute_command("NSSET", "hub", "public", "no"), b"OK")
check("maxsize", lambda: admin.execute_command("NSSET", "hub", "maxsize", 1 << 20), b"OK")
check("NSLIST", lambda: admin.execute_command("NSLIST"), [b"default", b"hub"])
refused("private", "Namespace protected and private", lambda: admin.execute_command("SELECT", "hub"))
refused("wrong password", "Access denied", lambda: admin.execute_command("SELECT", "hub", "wrong"))
# One string with blanks, as the hub's scripts write it: redis-py makes words of it.
check("SELECT", lambda: admin.execute_command("SELECT hub hubsecret") in (b"OK", True), True)

# -- the hub: upload what is not there yet
def upload():
    for number in range(300):
        key, value = b"chunk%03d" % number, b"data%03d" % number * 100
        assert admin.execute_command("EXISTS", key) == 0
        # With redis-py's own callback the reply is only told from OK.
        assert admin.execute_command("SET", key, value) is False
        assert admin.execute_command("EXISTS", key) == 1


attempt("upload", upload)

# -- NSINFO as redis-py reads INFO
def information():
    info = parse_info(admin.execute_command("NSINFO hub"))
    same("entries", info["entries"], 300)
    same("data_size_bytes", info["data_size_bytes"], 300 * 700)
    same("data_limits_bytes", info["data_limits_bytes"], 1 << 20)
    same("name", info["name"].strip(), "hub")
    same("mode", info["mode"].strip(), "userkey")
    same("password", info["password"].strip(), "yes")
    same("public", info["public"].strip(), "no")
    same("data_size_mb", type(info["data_size_mb"]), float)
    assert "__raw__" not in info, info["__raw__"]


attempt("NSINFO", information)

# -- the integrity check: all keys in pages, CHECK for each
def integrity():
    checked, errors, response = 0, [], admin.execute_command("SCANX")
    while True:
        for key in response[1]:
            if admin.execute_command("CHECK", key[0]) == 0:
                errors.append(key[0])
        checked += len(response[1])
        try:
            response = admin.execute_command("SCANX", response[0])
        except redis.exceptions.ResponseError as error:
            # The hub takes any error for the end.
            assert str(error) == "No more data", error
            break
    assert (checked, errors) == (300, []), (checked, errors)


attempt("SCANX and CHECK", integrity)
check("back to default", lambda: admin.execute_command("SELECT default") in (b"OK", True), True)
check("NSDEL", lambda: admin.execute_command("NSDEL", "hub"), b"OK")
refused("NSDEL again", "This namespace doesn't exists", lambda: admin.execute_command("NSDEL", "hub"))
finish()
