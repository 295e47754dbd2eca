/* The connections of load: opening them, handshakes, frames in and out, permessage-deflate, the
 * greeting of Socket.IO, and the one loop that waits. What a message means is up to load.c. */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "figures.h"
#include "frames.h"
#include "options.h"

enum { RESPONSE_MAX = 8192, RECEIVED_AT_ONCE = 256 << 10, MESSAGE_MAX = PAYLOAD_MAX + 64 };
enum state { UNUSED, CONNECTING, SHAKING, GREETING, OPEN, CLOSING, CLOSED };

/* LISTENER, ECHOER and HOLDER are the many, VISITOR is one that only opens and closes. */
enum role { LISTENER, ECHOER, HOLDER, VISITOR, PUBLISHER, PROBE, PAGE_PROBE };

struct connection {
    int fd, window, opcode; /* window: bits of deflate, 0 without it; opcode: of an unfinished message */
    enum state state;
    enum role role;
    bool slow, blocked, deflated, warm;
    uint32_t number;
    unsigned close_code; /* that the server has sent */
    char accept[ACCEPT_LENGTH + 1];
    uint64_t started;
    struct bytes in, fragments, out; /* in: what is not yet a whole frame or response */
    size_t sent_out;
    /* What a phase knows of it: the next sequence number, which of the 64 before it have come. */
    uint32_t next, sent, came;
    uint64_t arrived, last, *sent_at;
};

static struct counts {
    uint64_t delivered, dup, reordered, badlen, badbody, stale, proto_errors, failed, closed, pings;
    char error[160]; /* the first one */
} count;
static long opening, open_now;
static struct histogram latency;
static int poller;

/* Given by load.c. */
static void message_came(struct connection *c, const uint8_t *payload, size_t length);
static void page_came(void);
static void connection_ended(struct connection *c, enum state was, const char *why);
static void serve_probe(void);
static uint64_t probe_wakes(void);

static void give_up(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void note(const char *format, const char *detail)
{
    if (*count.error) return;
    snprintf(count.error, sizeof count.error, format, detail);
    for (char *p = count.error; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\') *p = ' ';
}

static void watch(struct connection *c, int how, uint32_t events)
{
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLET | events, .data.ptr = c};
    if (epoll_ctl(poller, how, c->fd, &e) < 0) give_up("epoll_ctl");
}

static void end(struct connection *c, const char *why)
{
    enum state was = c->state;
    if (was == UNUSED || was == CLOSED) return;
    close(c->fd);
    release(&c->in), release(&c->fragments), release(&c->out);
    c->state = CLOSED;
    if (was < OPEN || c->role == VISITOR) opening--;
    else open_now--;
    connection_ended(c, was, why);
}

/* What RFC 6455 forbids: it is counted, and the connection ends. */
static size_t broken(struct connection *c, const char *why)
{
    count.proto_errors++;
    note("%s", why);
    end(c, why);
    return 0;
}

static void flush(struct connection *c)
{
    while (c->state != CLOSED && c->sent_out < c->out.length) {
        ssize_t sent = send(c->fd, c->out.at + c->sent_out, c->out.length - c->sent_out, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->blocked = true;
            return;
        }
        if (sent < 0) {
            end(c, strerror(errno));
            return;
        }
        c->sent_out += (size_t)sent;
    }
    if (c->state == CLOSED) return;
    c->sent_out = c->out.length = 0;
    if (c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = false;
}

static uint64_t random_bits(void)
{
    static uint64_t x;
    if (!x) x = now() * 0x2545f4914f6cdd1dull | 1;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
}

/* Queue a frame; nothing leaves before flush(), so that answers to what came together go together. */
static void queue_frame(struct connection *c, int opcode, const void *payload, size_t length)
{
    uint64_t mask = random_bits() >> 16;
    uint8_t *p = reserve(&c->out, HEADER_MAX + length);
    size_t header = write_header(p, opcode, length, (uint8_t *)&mask);
    memcpy(p + header, payload, length);
    apply_mask(p + header, length, (uint8_t *)&mask);
    c->out.length += header + length;
}

static void opened(struct connection *c)
{
    c->state = OPEN;
    opening--, open_now++;
    if (c->slow)
        watch(c, EPOLL_CTL_MOD, 0); /* It reads nothing from here on. */
}

static void say_goodbye(struct connection *c)
{
    c->state = CLOSING;
    queue_frame(c, CLOSE, "\x03\xe8", 2);
}

/* Messages. */

/* Inflate a message. Without context takeover the same bytes are always the same message, so a
 * broadcast is inflated once, and for the other listeners it is enough to compare. */
static const uint8_t *inflated(int window, const uint8_t *packed, size_t *length)
{
    static uint8_t last[MESSAGE_MAX + 4], plain_text[MESSAGE_MAX];
    static size_t last_length, plain_length;
    static int last_window;
    static z_stream z;
    if (!last_window && inflateInit2(&z, -15) != Z_OK) give_up("zlib");
    if (window != last_window || *length != last_length || memcmp(last, packed, *length)) {
        memcpy(last, packed, *length);
        memcpy(last + *length, "\x00\x00\xff\xff", 4);
        inflateReset2(&z, -window);
        z.next_in = last, z.avail_in = (uInt)*length + 4;
        z.next_out = plain_text, z.avail_out = sizeof plain_text;
        last_window = window, last_length = *length;
        int status = inflate(&z, Z_SYNC_FLUSH);
        if (status != Z_STREAM_END && (status != Z_OK || z.avail_in)) {
            last_length = SIZE_MAX;
            return NULL;
        }
        plain_length = sizeof plain_text - z.avail_out;
    }
    *length = plain_length;
    return plain_text;
}

/* Engine.IO 4 and Socket.IO 5: 0 opens and 40 answers, 2 is a ping, 42["event","payload"] a message. */
static void socketio_came(struct connection *c, const uint8_t *p, size_t n)
{
    if (n && p[0] == '0') {
        queue_frame(c, TEXT, "40", 2);
    } else if (n && p[0] == '2') {
        queue_frame(c, TEXT, "3", 1);
    } else if (n > 1 && !memcmp(p, "40", 2)) {
        if (c->state == GREETING) opened(c);
    } else if (n > 1 && !memcmp(p, "42", 2)) {
        const uint8_t *comma = memchr(p, ',', n), *quote = comma ? memchr(comma, '"', n - (size_t)(comma - p)) : NULL;
        size_t before = quote ? (size_t)(quote + 1 - p) : n;
        if (before + 2 > n || memcmp(p + n - 2, "\"]", 2))
            broken(c, "an event of Socket.IO that is not one text");
        else message_came(c, p + before, n - before - 2);
    } else {
        broken(c, "the server ended the Socket.IO session");
    }
}

static void queue_message(struct connection *c, const char *event, const struct bytes *payload)
{
    static struct bytes text;
    if (!options.socketio) {
        queue_frame(c, options.binary ? BINARY : TEXT, payload->at, payload->length);
        return;
    }
    text.length = (size_t)sprintf((char *)reserve(&text, 64), "42[\"%s\",\"", event);
    append(&text, payload->at, payload->length);
    append(&text, "\"]", 2);
    queue_frame(c, TEXT, text.at, text.length);
    text.length = 0;
}

static void whole_message(struct connection *c, const uint8_t *p, size_t n, int opcode, bool deflated)
{
    if ((c->slow && c->state == OPEN) || c->state == CLOSING) return;
    if (deflated && !(p = inflated(c->window, p, &n))) {
        count.proto_errors++;
        note("%s", "a message that does not inflate");
    } else if (opcode != (options.binary ? BINARY : TEXT)) {
        broken(c, options.binary ? "a binary message became text" : "a text message became binary");
    } else if (options.socketio) {
        socketio_came(c, p, n);
    } else {
        message_came(c, p, n);
    }
}

static void control_came(struct connection *c, const struct frame *f, const uint8_t *payload)
{
    if (f->opcode == PING) {
        count.pings++;
        queue_frame(c, PONG, payload, f->length);
    } else if (f->opcode == CLOSE && !c->close_code) {
        char code[8];
        c->close_code = f->length > 1 ? payload[0] << 8 | payload[1] : 1005;
        sprintf(code, "%u", c->close_code);
        if (c->state == CLOSING) return;
        if (!c->slow) {
            note("the server sent close %s", code);
            queue_frame(c, CLOSE, payload, f->length > 1 ? 2 : 0);
            flush(c);
        }
        end(c, code);
    }
}

/* Take one frame; return its size, 0 while it is not whole. */
static size_t take_frame(struct connection *c, const uint8_t *p, size_t n)
{
    struct frame f;
    if (!read_header(p, n, &f)) return 0;
    bool control = f.opcode >= CLOSE, first = f.opcode == TEXT || f.opcode == BINARY;
    if (f.masked) return broken(c, "a masked frame from the server");
    if (f.rsv && (f.rsv != 4 || !first || !c->window))
        return broken(c, "a reserved bit that was not agreed on");
    if (f.opcode > PONG || (!control && !first && f.opcode != CONTINUATION) || (control && (f.length > 125 || !f.fin)))
        return broken(c, "a frame that RFC 6455 does not know");
    if (!control && first == (c->opcode != 0))
        return broken(c, "a frame out of the order of fragments");
    if (f.length > MESSAGE_MAX || f.length + c->fragments.length > MESSAGE_MAX)
        return broken(c, "a message longer than any that was sent");
    if (n < f.header + f.length) return 0;
    const uint8_t *payload = p + f.header;
    if (control) {
        control_came(c, &f, payload);
    } else if (first && f.fin) {
        whole_message(c, payload, f.length, f.opcode, f.rsv);
    } else {
        append(&c->fragments, payload, f.length);
        if (first) c->opcode = f.opcode, c->deflated = f.rsv;
        if (f.fin) {
            struct bytes whole = c->fragments;
            int opcode = c->opcode;
            c->fragments = (struct bytes){0}, c->opcode = 0;
            whole_message(c, whole.at, whole.length, opcode, c->deflated);
            release(&whole);
        }
    }
    return f.header + f.length;
}

/* The handshake, and the responses of the page that is probed. */

/* Copy what ends with an empty line; return its size, 0 while it is not whole. */
static size_t read_fields(struct connection *c, const uint8_t *p, size_t n, char head[RESPONSE_MAX])
{
    const uint8_t *last = memmem(p, n < RESPONSE_MAX ? n : RESPONSE_MAX - 1, "\r\n\r\n", 4);
    if (!last) return n < RESPONSE_MAX ? 0 : broken(c, "a response whose header fields do not end");
    size_t size = (size_t)(last - p) + 4;
    memcpy(head, p, size);
    head[size] = 0;
    return size;
}

/* The value of a header field, given as "\r\nname:"; false if there is none. */
static bool read_field(const char *head, const char *name, char value[256])
{
    const char *at = strcasestr(head, name);
    *value = 0;
    if (!at) return false;
    at += strlen(name);
    at += strspn(at, " \t");
    snprintf(value, 256, "%.*s", (int)strcspn(at, "\r"), at);
    return true;
}

static size_t take_handshake(struct connection *c, const uint8_t *p, size_t n)
{
    char head[RESPONSE_MAX], value[256];
    size_t size = read_fields(c, p, n, head);
    if (!size) return 0;
    if (strncmp(head, "HTTP/1.1 101 ", 13)) {
        snprintf(value, sizeof value, "the handshake was answered with %.*s", (int)strcspn(head, "\r"), head);
        end(c, value);
        return 0;
    }
    if (!read_field(head, "\r\nsec-websocket-accept:", value) || strncmp(value, c->accept, ACCEPT_LENGTH))
        return broken(c, "a wrong Sec-WebSocket-Accept");
    bool extended = read_field(head, "\r\nsec-websocket-extensions:", value);
    if (extended != options.deflate ||
        (extended && (strncmp(value, "permessage-deflate", 18) || !strstr(value, "server_no_context_takeover"))))
        return broken(c, options.deflate ? "permessage-deflate was not accepted with server_no_context_takeover"
                                         : "an extension that was not offered");
    if (extended) {
        const char *bits = strstr(value, "server_max_window_bits=");
        c->window = bits ? atoi(bits + 23 + (bits[23] == '"')) : 15;
        if (c->window < 8 || c->window > 15) return broken(c, "a window of deflate that is none");
    }
    if (c->role == VISITOR) {
        count_in(&latency, now() - c->started);
        say_goodbye(c);
    } else if (options.socketio) {
        c->state = GREETING;
    } else {
        opened(c);
    }
    return size;
}

static size_t take_page(struct connection *c, const uint8_t *p, size_t n)
{
    char head[RESPONSE_MAX], value[256];
    size_t size = read_fields(c, p, n, head);
    if (!size) return 0;
    if (strncmp(head, "HTTP/1.1 200 ", 13) || !read_field(head, "\r\ncontent-length:", value))
        return broken(c, "the page was not answered with 200 and a Content-Length");
    unsigned long body = strtoul(value, NULL, 10);
    if (body > PAYLOAD_MAX) return broken(c, "a page longer than 1 MiB");
    if (n < size + body) return 0;
    page_came();
    return size + body;
}

static void request(struct connection *c, const char *path, const char *fields)
{
    char text[2048 + sizeof options.headers];
    int length = sprintf(text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\n%s%s\r\n", path, options.port, fields,
                         options.headers);
    append(&c->out, text, (size_t)length);
    flush(c);
}

static void shake_hands(struct connection *c)
{
    const char *paths[] = {[PUBLISHER] = options.publish, [PROBE] = options.probe_websocket};
    char path[1100], key[KEY_LENGTH + 1], fields[512];
    uint64_t nonce[2] = {random_bits(), random_bits()};
    snprintf(path, sizeof path, "%s", c->role < PUBLISHER ? options.path : paths[c->role]);
    if (options.paths && c->role < PUBLISHER)
        sprintf(path + strlen(path), "/%ld", c->number % options.paths);
    base64((uint8_t *)nonce, 16, key);
    accept_for(key, c->accept);
    const char *offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; "
                        "server_no_context_takeover; client_no_context_takeover\r\n";
    snprintf(fields, sizeof fields,
             "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             "Sec-WebSocket-Key: %s\r\n%s", key, options.deflate ? offer : "");
    c->state = SHAKING;
    request(c, path, fields);
}

/* Start to connect to 127.0.0.1; the source address varies, so that ports do not run out. */
static void start(struct connection *c, enum role role)
{
    static uint32_t turn;
    int one = 1, slow_buffer = (int)options.slow_buffer;
    struct sockaddr_in address = {.sin_family = AF_INET};
    *c = (struct connection){.role = role, .slow = c->slow, .number = c->number, .state = CONNECTING};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) give_up("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (c->slow) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &slow_buffer, sizeof slow_buffer);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + turn++ % (uint32_t)options.sources);
    if (bind(c->fd, (struct sockaddr *)&address, sizeof address) < 0) give_up("bind");
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)options.port);
    c->started = now();
    c->blocked = true;
    opening++;
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        end(c, strerror(errno));
    else watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

/* The loop. */

static void receive(struct connection *c, bool to_the_end)
{
    static uint8_t buffer[MESSAGE_MAX + HEADER_MAX + RESPONSE_MAX + RECEIVED_AT_ONCE];
    while (c->state != CLOSED) {
        size_t held = c->in.length, used = 0, step = 1;
        ssize_t got = recv(c->fd, buffer + held, RECEIVED_AT_ONCE, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0) {
            end(c, got ? strerror(errno) : "the server closed the connection");
            return;
        }
        if (held) memcpy(buffer, c->in.at, held);
        release(&c->in);
        for (size_t have = held + (size_t)got; step && used < have && c->state != CLOSED; used += step) {
            const uint8_t *p = buffer + used;
            step = c->role == PAGE_PROBE ? take_page(c, p, have - used)
                   : c->state == SHAKING ? take_handshake(c, p, have - used)
                                         : take_frame(c, p, have - used);
        }
        if (c->state == CLOSED) return;
        if (used < held + (size_t)got) append(&c->in, buffer + used, held + (size_t)got - used);
        if (c->out.length && !c->blocked) flush(c);
        if (got < RECEIVED_AT_ONCE && !to_the_end) return;
    }
}

static void handle(struct connection *c, uint32_t events)
{
    bool ended = events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);
    if (c->state == CONNECTING && (ended || events & EPOLLOUT)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) end(c, strerror(error));
        else if (c->role == PAGE_PROBE) opened(c);
        else shake_hands(c);
    } else if (c->blocked && events & EPOLLOUT) {
        flush(c);
    }
    if (c->state > CONNECTING && c->state < CLOSED && (ended || events & EPOLLIN))
        receive(c, ended);
}

static int lines; /* of stdin, not used yet */
static bool stdin_ended;

static void read_stdin(void)
{
    char text[256];
    ssize_t got = read(0, text, sizeof text);
    for (ssize_t i = 0; i < got; i++) lines += text[i] == '\n';
    if (got <= 0) {
        stdin_ended = true;
        epoll_ctl(poller, EPOLL_CTL_DEL, 0, NULL);
    }
}

/* Wait for events until a time, or less, and handle them. */
static void turn(uint64_t until)
{
    static struct epoll_event events[1024];
    uint64_t t = now(), due = probe_wakes();
    uint64_t wait = due < until ? due : until;
    wait = wait > t ? wait - t : 0;
    struct timespec timeout = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
    int n = epoll_pwait2(poller, events, 1024, &timeout, NULL);
    if (n < 0 && errno != EINTR) give_up("epoll_wait");
    serve_probe();
    for (int i = 0; i < n; i++) {
        if (i % 32 == 31)
            serve_probe(); /* It is not to wait behind the many. */
        if (events[i].data.ptr) handle(events[i].data.ptr, events[i].events);
        else read_stdin();
    }
}

#endif
