"""redis-py's asyncio side: python redis_py_asyncio.py PORT ADMIN_PASSWORD PROTOCOL [CA_FILE]."""

import asyncio
import sys

import redis.asyncio as redis

from checks import finish, holds, same

port, password, protocol = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ca_file = sys.argv[4] if len(sys.argv) > 4 else None
secure = {"connection_class": redis.SSLConnection, "ssl_ca_certs": ca_file} if ca_file else {}


async def main():
    connections = redis.BlockingConnectionPool(
        host="127.0.0.1", port=port, password=password, protocol=protocol, max_connections=20, **secure
    )
    prefix = f"async{protocol}{bool(secure)}-"
    async with redis.Redis.from_pool(connections) as client:
        same("PING", await client.ping(), True)

        keys = [f"{prefix}{number}" for number in range(200)]

        async def work(number):
            key = f"{prefix}{number}"
            return await client.execute_command("SETX", key, key), await client.get(key)

        answers = await asyncio.gather(*(work(number) for number in range(200)), return_exceptions=True)
        same("200 tasks", answers, [(key.encode(), key.encode()) for key in keys])
        async with client.pipeline(transaction=False) as pipeline:
            for number in range(500):
                pipeline.get(f"{prefix}{number}")
            replies = await pipeline.execute()
        same("a pipeline", replies[199:201], [keys[199].encode(), None])
        found = {key async for key in client.scan_iter(match=f"{prefix}*", count=50)}
        same("scan_iter", len(found), 200)
        info = await client.info()
        holds("INFO", info.get("sequential_key_size") == 8, info)


asyncio.run(main())
finish()
