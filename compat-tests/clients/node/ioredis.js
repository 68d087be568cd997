// ioredis: node ioredis.js PORT ADMIN_PASSWORD PROTOCOL [CA_FILE]. A line for each check.
//
// Up to its version 5, the last for Node 18, ioredis speaks RESP2 alone: 3 checks nothing then.
"use strict";

const fs = require("node:fs");
const { Redis } = require("ioredis");
const { version } = require("ioredis/package.json");
const { assert, attempt, check, holds, main, refused } = require("./checks.js");

const [port, password, protocol, caFile] = process.argv.slice(2);
const name = `ioredis-${protocol}${caFile ? "-tls" : ""}`;
const speaksResp3 = Number(version.split(".")[0]) >= 6;

function create(more = {}) {
  const client = new Redis({
    host: "127.0.0.1",
    port: Number(port),
    lazyConnect: true,
    retryStrategy: null,
    maxRetriesPerRequest: 0,
    ...(speaksResp3 ? { protocol: Number(protocol) } : {}),
    ...(caFile ? { tls: { ca: fs.readFileSync(caFile) } } : {}),
    ...more,
  });
  // An error is the check's own matter: it comes as a rejection too.
  client.on("error", () => {});
  return client;
}

async function connect(more) {
  const client = create(more);
  await client.connect();
  return client;
}

main(async () => {
  holds(`version ${version} speaks RESP${speaksResp3 ? "2 and 3" : "2 alone"}`, true);
  if (protocol === "3" && !speaksResp3) return;
  const admin = await connect({ password });
  const client = await connect({ connectionName: name });

  // -- the connection: ioredis is ready once INFO says that nothing is loading
  await check("PING", () => client.ping(), "PONG");
  await check("ECHO", () => client.echo("hello"), "hello");
  await check("CLIENT GETNAME", () => client.client("GETNAME"), name);
  await attempt("CLIENT LIST", async () => (await admin.client("LIST")).includes(`name=${name}`));
  await check("user default", async () => (await connect({ username: "default", password })).ping(), "PONG");
  await refused("wrong password", "", async () => (await connect({ password: "wrong" })).call("NSNEW", "other"));
  await check("database 0", async () => (await connect({ db: 0 })).ping(), "PONG");
  await check("SELECT 0", () => client.select(0), "OK");
  await refused("SELECT 7", "Namespace not found", () => client.select(7));
  await refused("not an admin", "Permission denied", () => client.call("NSNEW", "other"));
  if (caFile) {
    await refused("an unknown authority is not trusted", "", () => connect({ tls: {} }));
  }

  // -- keys and values, in a namespace of this run
  await check("NSNEW", () => admin.call("NSNEW", name), "OK");
  await check("SELECT by name", () => client.select(name), "OK");
  await check("SET answers the key", () => client.set("key", "value"), "key");
  await check("SET of the same", () => client.set("key", "value"), null);
  await check("GET", () => client.get("key"), "value");
  await check("GET missing", () => client.get("missing"), null);
  await check("EXISTS", () => client.exists("key"), 1);
  await check("MGET", () => client.mget("key", "missing"), ["value", null]);
  await refused("DEL missing", "Key not found", () => client.del("missing"));
  await check("DEL", () => client.del("key"), "OK");
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, number) => number));
  await check("SET binary", () => client.setBuffer(bytes.subarray(1), bytes), bytes.subarray(1));
  await attempt("GET binary", async () => bytes.equals(await client.getBuffer(bytes.subarray(1))));
  const large = Buffer.alloc(8 << 20, protocol);
  await check("SET of 8 MiB", () => client.set("large", large), "large");
  await attempt("GET of 8 MiB", async () => large.equals(await client.getBuffer("large")));
  await check("SET empty", () => client.set("empty", ""), "empty");
  await check("GET empty", () => client.get("empty"), "");

  await check("MSET", () => client.mset({ m1: "1", m2: "2" }), "OK");
  await check("SETNX new", () => client.setnx("nx", "1"), 1);
  await check("SETNX old", () => client.setnx("nx", "2"), 0);
  await check("SET NX new", () => client.set("nx2", "1", "NX"), "OK");
  await check("SET NX old", () => client.set("nx2", "2", "NX"), null);
  await check("SET XX", () => client.set("nx2", "3", "XX"), "OK");
  await check("SET GET", () => client.set("nx2", "4", "GET"), "3");
  await check("SET IFEQ", () => client.call("SET", "nx2", "5", "IFEQ", "4"), "OK");
  await check("SET IFEQ other", () => client.call("SET", "nx2", "6", "IFEQ", "4"), null);
  await refused("SET EX", "Invalid option: EX", () => client.set("nx2", "6", "EX", 10));
  await check("STRLEN", () => client.strlen("nx2"), 1);
  await check("GETRANGE", async () => (await client.set("range", "0123456789"), client.getrange("range", 2, -3)), "234567");
  await check("TYPE", () => client.type("range"), "string");
  await check("TTL", () => client.ttl("range"), -1);
  await check("PTTL missing", () => client.pttl("missing"), -2);
  await attempt("RANDOMKEY", async () => typeof (await client.randomkey()) === "string");
  await attempt("MEMORY USAGE", async () => (await client.memory("USAGE", "range")) > 0);
  await check("OBJECT ENCODING", () => client.object("ENCODING", "range"), "raw");
  await check("UNLINK", () => client.unlink("m1", "m2", "large", "missing"), 3);

  // -- pipelines
  await attempt("a pipeline", async () => {
    const pipeline = client.pipeline();
    for (let n = 0; n < 2000; n += 1) pipeline.set(`p${n}`, `value ${n}`);
    const replies = await pipeline.exec();
    assert(replies.length === 2000 && replies.every(([error, key], n) => !error && key === `p${n}`), replies[0]);
  });
  await check("a pipeline with an error", async () => {
    const replies = await client.pipeline().get("p1").del("missing").get("p2").exec();
    return replies.map(([error, value]) => error?.message ?? value);
  }, ["value 1", "Key not found", "value 2"]);
  await refused("a transaction", "", () => client.multi().get("p1").exec());
  await check("after a refused transaction", () => client.get("p1"), "value 1");
  await check("a transaction", () => client.multi().ping().echo("hello").exec(), [[null, "PONG"], [null, "hello"]]);
  await attempt("publish and subscribe", async () => {
    const subscriber = await connect();
    const heard = [];
    let all;
    const done = new Promise((resolve) => (all = resolve));
    const hear = (...words) => heard.push(words) === 2 && all();
    subscriber.on("message", hear);
    subscriber.on("pmessage", hear);
    assert((await subscriber.subscribe(`${name}-news`)) === 1);
    assert((await subscriber.psubscribe(`${name}-*`)) === 2);
    assert((await client.publish(`${name}-news`, "hello")) === 2);
    await Promise.race([done, new Promise((_, reject) => setTimeout(() => reject(new Error("no message")), 20000))]);
    const expected = [[`${name}-news`, "hello"], [`${name}-*`, `${name}-news`, "hello"]];
    assert(JSON.stringify(heard) === JSON.stringify(expected), JSON.stringify(heard));
    // Without names it waits until there is no subscription at all.
    assert((await subscriber.unsubscribe(`${name}-news`)) === 1 && (await subscriber.punsubscribe()) === 0);
    assert(String(await subscriber.ping()) === "PONG");
    subscriber.disconnect();
  });
  await attempt("auto pipelining", async () => {
    const auto = await connect({ enableAutoPipelining: true });
    await auto.select(name);
    const values = await Promise.all(Array.from({ length: 500 }, (_, n) => auto.get(`p${n}`)));
    assert(values.every((value, n) => value === `value ${n}`), values[0]);
    auto.disconnect();
  });

  // -- scans
  async function scanned(options) {
    const found = [];
    for await (const keys of client.scanStream(options)) found.push(...keys);
    return found.sort();
  }
  await attempt("scanStream", async () => {
    const found = await scanned({ count: 100 });
    assert(new Set(found).size === (await client.dbsize()) && found.length >= 2000, found.length);
  });
  await check("scanStream with match", () => scanned({ match: "p199?", count: 500 }), Array.from({ length: 10 }, (_, n) => `p199${n}`));
  await attempt("SCANX", async () => {
    const [cursor, entries] = await client.callBuffer("SCANX");
    assert(cursor.length === 17 && entries.length > 0 && entries[0].length === 3, cursor);
    const text = await client.callBuffer("SCANX", cursor).then(() => "more", (error) => error.message);
    assert(["more", "No more data"].includes(text), text);
  });

  // -- the server
  await attempt("INFO", async () => {
    const info = await client.info();
    for (const field of ["sequential_key_size: 8\n", "redis_version:", "used_memory:", "connected_clients:"]) {
      assert(info.includes(field), info);
    }
  });
  await attempt("COMMAND COUNT", async () => (await client.command("COUNT")) > 40);
  await attempt("CONFIG GET", async () => JSON.stringify(await admin.config("GET", "maxclients")).includes("maxclients"));
  await attempt("SLOWLOG GET", async () => Array.isArray(await admin.slowlog("GET")));
  await refused("a command of Redis", "Command not supported (LPUSH", () => client.lpush("list", "1"));
  await refused("no such command", "Command not supported", () => client.call("NOSUCHCOMMAND"));
  await attempt("MONITOR", async () => {
    const monitor = await admin.monitor();
    const line = new Promise((resolve, reject) => {
      monitor.on("monitor", (_, words) => words[0]?.toUpperCase() === "GET" && words[1] === "p7" && resolve());
      setTimeout(() => reject(new Error("no line")), 20000);
    });
    await client.get("p7");
    await line;
    monitor.disconnect();
  });

  // -- new connections
  await attempt("a killed connection is made anew", async () => {
    const patient = await connect({ retryStrategy: () => 10, maxRetriesPerRequest: 20 });
    const id = await patient.client("ID");
    assert((await admin.client("KILL", "ID", id)) === 1, id);
    assert((await patient.ping()) === "PONG");
    assert((await patient.client("ID")) !== id, id);
    patient.disconnect();
  });
  await check("QUIT", () => client.quit(), "OK");
});
