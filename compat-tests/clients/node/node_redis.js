// node-redis: node node_redis.js PORT ADMIN_PASSWORD PROTOCOL [CA_FILE]. A line for each check.
"use strict";

const fs = require("node:fs");
const { createClient, createClientPool, RESP_TYPES } = require("redis");
const { assert, attempt, check, holds, main, refused, same } = require("./checks.js");

const [port, password, protocol, caFile] = process.argv.slice(2);
const name = `node-redis-${protocol}${caFile ? "-tls" : ""}`;

function options(more = {}) {
  const socket = { host: "127.0.0.1", port: Number(port), reconnectStrategy: false };
  if (caFile) Object.assign(socket, { tls: true, ca: fs.readFileSync(caFile) });
  const { socket: moreSocket, ...others } = more;
  return { socket: { ...socket, ...moreSocket }, RESP: Number(protocol), ...others };
}

async function connect(more) {
  const client = createClient(options(more));
  // An error is the check's own matter: it comes as a rejection too.
  client.on("error", () => {});
  await client.connect();
  return client;
}

main(async () => {
  const admin = await connect({ password });
  const client = await connect({ name });
  const typeMapping = { [RESP_TYPES.BLOB_STRING]: Buffer };

  // -- the connection
  await check("PING", () => client.ping(), "PONG");
  await check("ECHO", () => client.echo("hello"), "hello");
  await check("CLIENT GETNAME", () => client.clientGetName(), name);
  await attempt("CLIENT ID", async () => (await client.clientId()) > 0);
  await attempt("CLIENT INFO", async () => (await client.clientInfo()).name === name);
  await attempt("CLIENT LIST", async () => (await admin.clientList()).some((line) => line.name === name));
  await attempt("user default", async () => (await connect({ username: "default", password })).ping());
  // AUTH answers with 0-db's text, HELLO with Redis's.
  const denied = protocol === "2" ? "Access denied" : "WRONGPASS";
  await refused("wrong password", denied, () => connect({ password: "wrong" }));
  await check("database 0", async () => (await connect({ database: 0 })).ping(), "PONG");
  await refused("database 7", "Namespace not found", () => connect({ database: 7 }));
  await refused("not an admin", "Permission denied", () => client.sendCommand(["NSNEW", "other"]));
  const scheme = caFile ? "rediss" : "redis";
  await check(
    "a URL",
    async () => (await connect({ url: `${scheme}://:${password}@127.0.0.1:${port}/0` })).ping(),
    "PONG",
  );
  if (caFile) {
    await refused("an unknown authority is not trusted", "certificate", () => connect({ socket: { ca: undefined } }));
  }

  // -- keys and values, in a namespace of this run
  await check("NSNEW", () => admin.sendCommand(["NSNEW", name]), "OK");
  await check("SELECT by name", () => client.sendCommand(["SELECT", name]), "OK");
  await check("SET answers the key", () => client.set("key", "value"), "key");
  await check("SET of the same", () => client.set("key", "value"), null);
  await check("GET", () => client.get("key"), "value");
  await check("GET missing", () => client.get("missing"), null);
  await check("EXISTS", () => client.exists("key"), 1);
  await check("MGET", () => client.mGet(["key", "missing"]), ["value", null]);
  await refused("DEL missing", "Key not found", () => client.del("missing"));
  await check("DEL", () => client.del("key"), "OK");
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, number) => number));
  const raw = client.withTypeMapping(typeMapping);
  await check("SET binary", () => raw.set(bytes.subarray(1), bytes), bytes.subarray(1));
  await attempt("GET binary", async () => bytes.equals(await raw.get(bytes.subarray(1))));
  await check("SET empty", () => client.set("empty", ""), "empty");
  await check("GET empty", () => client.get("empty"), "");
  const large = Buffer.alloc(8 << 20, protocol);
  await check("SET of 8 MiB", () => client.set("large", large), "large");
  await attempt("GET of 8 MiB", async () => large.equals(await raw.get("large")));
  await refused("long key", "Key too large", () => client.set("k".repeat(256), "v"));

  await check("MSET", () => client.mSet({ m1: "1", m2: "2" }), "OK");
  await check("SETNX new", () => client.setNX("nx", "1"), 1);
  await check("SETNX old", () => client.setNX("nx", "2"), 0);
  await check("SET NX new", () => client.set("nx2", "1", { condition: "NX" }), "OK");
  await check("SET NX old", () => client.set("nx2", "2", { condition: "NX" }), null);
  await check("SET XX", () => client.set("nx2", "3", { condition: "XX" }), "OK");
  await check("SET XX new", () => client.set("nx3", "3", { condition: "XX" }), null);
  await check("SET GET", () => client.set("nx2", "4", { GET: true }), "3");
  await check("SET IFEQ", () => client.set("nx2", "5", { condition: "IFEQ", matchValue: "4" }), "OK");
  await check("SET IFEQ other", () => client.set("nx2", "6", { condition: "IFEQ", matchValue: "4" }), null);
  await check("GET after IFEQ", () => client.get("nx2"), "5");
  await refused("SET EX", "Invalid option: EX", () => client.set("nx2", "6", { expiration: { type: "EX", value: 10 } }));
  await check("STRLEN", () => client.strLen("nx2"), 1);
  await check("GETRANGE", async () => (await client.set("range", "0123456789"), client.getRange("range", 2, -3)), "234567");
  await check("TYPE", () => client.type("range"), "string");
  await check("TYPE missing", () => client.type("missing"), "none");
  await check("TTL", () => client.ttl("range"), -1);
  await check("PTTL missing", () => client.pTTL("missing"), -2);
  await attempt("RANDOMKEY", async () => typeof (await client.randomKey()) === "string");
  await attempt("MEMORY USAGE", async () => (await client.memoryUsage("range")) > 0);
  await check("OBJECT ENCODING", () => client.objectEncoding("range"), "raw");
  await check("UNLINK", () => client.unlink(["m1", "m2", "large", "missing"]), 3);

  // -- pipelines: what is sent in one turn of the loop goes in one write
  await attempt("a pipeline", async () => {
    const replies = await Promise.all(Array.from({ length: 2000 }, (_, n) => client.set(`p${n}`, `value ${n}`)));
    assert(replies[1999] === "p1999", replies[1999]);
  });
  await check("a pipeline with an error", async () => {
    const replies = await Promise.allSettled([client.get("p1"), client.del("missing"), client.get("p2")]);
    return replies.map((reply) => reply.value ?? reply.reason.message);
  }, ["value 1", "Key not found", "value 2"]);
  await check(
    "execAsPipeline",
    () => client.multi().get("p1").get("p2").execAsPipeline(),
    ["value 1", "value 2"],
  );
  await refused("a transaction on keys", "", () => client.multi().get("p1").exec());
  await check("a transaction", () => client.multi().ping().echo("hello").exec(), ["PONG", "hello"]);
  await attempt("publish and subscribe", async () => {
    const subscriber = await connect();
    const heard = [];
    let all;
    const done = new Promise((resolve) => (all = resolve));
    const hear = (message, channel) => heard.push([message, channel]) === 2 && all();
    await subscriber.subscribe(`${name}-news`, hear);
    await subscriber.pSubscribe(`${name}-*`, hear);
    assert((await client.publish(`${name}-news`, "hello")) === 2);
    await Promise.race([done, new Promise((_, reject) => setTimeout(() => reject(new Error("no message")), 20000))]);
    assert(heard.every((one) => one.join() === `hello,${name}-news`), JSON.stringify(heard));
    await subscriber.unsubscribe();
    await subscriber.pUnsubscribe();
    assert(String(await subscriber.ping()) === "PONG");
    subscriber.destroy();
  });
  await check("after a refused transaction", () => client.get("p1"), "value 1");

  // -- scans
  await attempt("scanIterator", async () => {
    const found = new Set();
    for await (const keys of client.scanIterator({ COUNT: 100 })) keys.forEach((key) => found.add(key));
    assert(Array.from({ length: 2000 }, (_, n) => `p${n}`).every((key) => found.has(key)), found.size);
    assert(found.size === (await client.dbSize()), found.size);
  });
  await check("scanIterator with MATCH", async () => {
    const found = [];
    for await (const keys of client.scanIterator({ MATCH: "p199?", COUNT: 500 })) found.push(...keys);
    return found.sort();
  }, Array.from({ length: 10 }, (_, n) => `p199${n}`));
  await attempt("SCANX", async () => {
    const [cursor, entries] = await client.sendCommand(["SCANX"], { typeMapping });
    assert(cursor.length === 17 && entries.length > 0 && entries[0].length === 3, cursor);
    const next = client.sendCommand(["SCANX", cursor], { typeMapping });
    const text = await next.then(() => "more", (error) => error.message);
    assert(["more", "No more data"].includes(text), text);
  });

  // -- the server
  await attempt("INFO", async () => {
    const info = await client.info();
    for (const field of ["sequential_key_size: 8\n", "redis_version:", "used_memory:", "connected_clients:"]) {
      assert(info.includes(field), info);
    }
  });
  await attempt("INFO memory", async () => (await client.info("memory")).startsWith("# Memory"));
  await attempt("TIME", async () => (await client.time()) !== undefined);
  await attempt("COMMAND", async () => (await client.command()).some((command) => command.name === "get"));
  await attempt("COMMAND COUNT", async () => (await client.commandCount()) > 40);
  await attempt("CONFIG GET", async () => Number((await admin.configGet("maxclients")).maxclients) > 0);
  await attempt("LATENCY LATEST", async () => Array.isArray(await admin.latencyLatest()));
  await refused("a command of Redis", "Command not supported (LPUSH", () => client.lPush("list", "1"));
  await refused("no such command", "Command not supported", () => client.sendCommand(["NOSUCHCOMMAND"]));
  await attempt("MONITOR", async () => {
    const monitor = await connect({ password });
    let seen;
    const line = new Promise((resolve) => (seen = resolve));
    await monitor.monitor((text) => String(text).includes('"p7"') && seen(true));
    await client.get("p7");
    await Promise.race([line, new Promise((_, reject) => setTimeout(() => reject(new Error("no line")), 20000))]);
    monitor.destroy();
  });

  // -- pools and new connections
  await attempt("a pool", async () => {
    const pool = createClientPool(options({ password }), { minimum: 1, maximum: 20 });
    pool.on("error", () => {});
    await pool.connect();
    await Promise.all(Array.from({ length: 200 }, async (_, n) => {
      const key = `${name}-${n}`;
      await pool.set(key, key);
      assert((await pool.get(key)) === key, key);
    }));
    pool.destroy();
  });
  await attempt("a killed connection is made anew", async () => {
    const patient = await connect({ socket: { reconnectStrategy: () => 10 } });
    const id = await patient.clientId();
    assert((await admin.sendCommand(["CLIENT", "KILL", "ID", String(id)])) === 1, id);
    assert((await patient.ping()) === "PONG");
    assert((await patient.clientId()) !== id, id);
    patient.destroy();
  });
  await attempt("NSINFO", async () => {
    const info = await client.sendCommand(["NSINFO", name]);
    assert(info.includes(`name: ${name}\n`) && info.includes("mode: userkey\n"), info);
  });
  await attempt("QUIT", () => client.close());
  holds("it is closed", !client.isOpen);
  same("the protocol asked for", options().RESP, Number(protocol));
});
