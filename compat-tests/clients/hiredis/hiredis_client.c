/* hiredis: hiredis_client PORT UNIX_SOCKET ADMIN_PASSWORD PROTOCOL [CA_FILE]. A line for each check.
 *
 * Debian 12 has hiredis 0.14: RESP2 alone, and no TLS. From 1.0 on the same source checks RESP3
 * (HELLO 3) too, and TLS where it is compiled with -DWITH_TLS against libhiredis_ssl.
 */
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef WITH_TLS
#include <hiredis/hiredis_ssl.h>
#endif

static int differences = 0;

static void holds(const char *what, int is_true, const char *found) {
    differences += !is_true;
    if (is_true) printf("ok %s\n", what);
    else printf("DIFFERENT %s: %s\n", what, found ? found : "it does not hold");
}

/* Reads one reply that is already on its way or asked for by the format. */
static redisReply *ask(redisContext *context, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = redisvCommand(context, format, arguments);
    va_end(arguments);
    if (!reply) {
        printf("DIFFERENT %s: no reply: %s\n", format, context->errstr);
        exit(1);
    }
    return reply;
}

static void expect(const char *what, redisReply *reply, int type, const char *text, size_t length) {
    int same = reply->type == type && reply->str && reply->len == length &&
        memcmp(reply->str, text, length) == 0;
    holds(what, same, reply->str);
    freeReplyObject(reply);
}

static void expect_text(const char *what, redisReply *reply, int type, const char *text) {
    expect(what, reply, type, text, strlen(text));
}

static void expect_integer(const char *what, redisReply *reply, long long integer) {
    holds(what, reply->type == REDIS_REPLY_INTEGER && reply->integer == integer, reply->str);
    freeReplyObject(reply);
}

static void expect_nil(const char *what, redisReply *reply) {
    holds(what, reply->type == REDIS_REPLY_NIL, reply->str);
    freeReplyObject(reply);
}

static redisContext *connected(const char *what, redisContext *context) {
    if (!context || context->err) {
        printf("DIFFERENT %s: %s\n", what, context ? context->errstr : "no memory");
        exit(1);
    }
    holds(what, 1, NULL);
    return context;
}

static void say_hello(redisContext *context, int protocol, const char *password) {
    if (protocol == 2) {
        expect_text("AUTH", ask(context, "AUTH %s", password), REDIS_REPLY_STATUS, "OK");
        return;
    }
#if HIREDIS_MAJOR >= 1
    redisReply *reply = ask(context, "HELLO 3 AUTH default %s", password);
    holds("HELLO 3 answers a map", reply->type == REDIS_REPLY_MAP, reply->str);
    freeReplyObject(reply);
#endif
}

static void check_keys(redisContext *context) {
    static const char binary[] = "\0\r\n\xff$-1\r\n";
    const size_t length = sizeof binary - 1;
    expect_text("PING", ask(context, "PING"), REDIS_REPLY_STATUS, "PONG");
    expect_text("ECHO", ask(context, "ECHO %s", "hello"), REDIS_REPLY_STRING, "hello");
    expect_text("SELECT 0", ask(context, "SELECT 0"), REDIS_REPLY_STATUS, "OK");
    expect("SET", ask(context, "SET %b %b", binary, length, binary, length), REDIS_REPLY_STRING, binary, length);
    expect("GET", ask(context, "GET %b", binary, length), REDIS_REPLY_STRING, binary, length);
    expect_nil("SET of the same", ask(context, "SET %b %b", binary, length, binary, length));
    expect_nil("GET missing", ask(context, "GET missing"));
    expect_integer("EXISTS", ask(context, "EXISTS %b", binary, length), 1);
    expect_text("DEL missing", ask(context, "DEL missing"), REDIS_REPLY_ERROR, "Key not found");
    expect_text("no such command", ask(context, "NOSUCHCOMMAND"), REDIS_REPLY_ERROR, "Command not supported");
    expect_text("MSET", ask(context, "MSET h1 1 h2 2"), REDIS_REPLY_STATUS, "OK");
    expect_text("SET NX", ask(context, "SET h3 3 NX"), REDIS_REPLY_STATUS, "OK");
    expect_nil("SET NX again", ask(context, "SET h3 4 NX"));
    expect_text("SET GET", ask(context, "SET h3 4 GET"), REDIS_REPLY_STRING, "3");
    expect_integer("STRLEN", ask(context, "STRLEN h3"), 1);
    expect_text("TYPE", ask(context, "TYPE h3"), REDIS_REPLY_STATUS, "string");
    expect_integer("TTL", ask(context, "TTL h3"), -1);
    redisReply *many = ask(context, "MGET h1 missing h2");
    holds("MGET", many->type == REDIS_REPLY_ARRAY && many->elements == 3 &&
        many->element[0]->str && strcmp(many->element[0]->str, "1") == 0 &&
        many->element[1]->type == REDIS_REPLY_NIL, many->str);
    freeReplyObject(many);
    expect_integer("UNLINK", ask(context, "UNLINK h1 h2 h3 missing"), 3);
    expect_text("DEL", ask(context, "DEL %b", binary, length), REDIS_REPLY_STATUS, "OK");
}

static void check_large(redisContext *context) {
    const size_t length = 8 << 20;
    char *value = malloc(length);
    memset(value, 'h', length);
    expect_text("SET of 8 MiB", ask(context, "SET large %b", value, length), REDIS_REPLY_STRING, "large");
    expect("GET of 8 MiB", ask(context, "GET large"), REDIS_REPLY_STRING, value, length);
    expect_integer("UNLINK large", ask(context, "UNLINK large"), 1);
    free(value);
}

static void check_pipeline(redisContext *context) {
    enum { COUNT = 2000 };
    for (int number = 0; number < COUNT; number++)
        redisAppendCommand(context, "SET hp%d %d", number, number);
    int right = 0;
    for (int number = 0; number < COUNT; number++) {
        redisReply *reply;
        char key[16];
        snprintf(key, sizeof key, "hp%d", number);
        if (redisGetReply(context, (void **)&reply) != REDIS_OK) break;
        right += reply->type == REDIS_REPLY_STRING && strcmp(reply->str, key) == 0;
        freeReplyObject(reply);
    }
    holds("a pipeline", right == COUNT, context->errstr);
}

static void check_scan(redisContext *context) {
    char cursor[32] = "0";
    size_t found = 0;
    do {
        redisReply *reply = ask(context, "SCAN %s MATCH hp* COUNT 100", cursor);
        if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2) {
            holds("SCAN", 0, reply->str);
            freeReplyObject(reply);
            return;
        }
        snprintf(cursor, sizeof cursor, "%s", reply->element[0]->str);
        found += reply->element[1]->elements;
        freeReplyObject(reply);
    } while (strcmp(cursor, "0") != 0);
    holds("SCAN", found == 2000, "not 2000 keys");
    redisReply *reply = ask(context, "SCANX");
    holds("SCANX", reply->type == REDIS_REPLY_ARRAY && reply->element[0]->len == 17, reply->str);
    freeReplyObject(reply);
}

int main(int count, char **arguments) {
    if (count < 5) {
        fprintf(stderr, "hiredis_client PORT UNIX_SOCKET ADMIN_PASSWORD PROTOCOL [CA_FILE]\n");
        return 2;
    }
    const int port = atoi(arguments[1]), protocol = atoi(arguments[4]);
    const char *password = arguments[3];
    const struct timeval limit = {60, 0};
    printf("ok hiredis %d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR);

    redisContext *context = connected("TCP", redisConnectWithTimeout("127.0.0.1", port, limit));
    redisSetTimeout(context, limit);
#ifdef WITH_TLS
    redisSSLContext *secure = NULL;
    if (count > 5) {
        redisSSLContextError error;
        redisInitOpenSSL();
        secure = redisCreateSSLContext(arguments[5], NULL, NULL, NULL, "localhost", &error);
        holds("TLS", secure && redisInitiateSSLWithContext(context, secure) == REDIS_OK, context->errstr);
    }
#endif
    say_hello(context, protocol, password);
    check_keys(context);
    check_large(context);
    check_pipeline(context);
    check_scan(context);
    redisReply *info = ask(context, "INFO");
    holds("INFO", info->str && strstr(info->str, "sequential_key_size: 8"), info->str);
    freeReplyObject(info);

    redisContext *local = connected("unix socket", redisConnectUnix(arguments[2]));
    expect_text("AUTH refused", ask(local, "AUTH wrong"), REDIS_REPLY_ERROR, "Access denied");
    say_hello(local, protocol, password);
    check_keys(local);
    redisFree(local);

    expect_text("QUIT", ask(context, "QUIT"), REDIS_REPLY_STATUS, "OK");
    redisFree(context);
#ifdef WITH_TLS
    if (secure) redisFreeSSLContext(secure);
#endif
    puts("done");
    return differences ? 1 : 0;
}
