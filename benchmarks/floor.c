/* floor: the least that a WebSocket server on this kernel can cost, as something to compare with.
 *
 *   floor PORT          listens on 127.0.0.1 (0: any port) and prints the port
 *
 * /echo returns every message, /sub joins the one group, /pub sends every message to the group: one
 * non-blocking send() of one ready frame for each listener. One thread, level-triggered epoll. A
 * forgotten one ends by itself after an hour.
 *
 *   cc -O2 -Wall -Wextra -o floor floor.c */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frames.h"

enum { REQUEST_MAX = 8192, FRAME_MAX = 4 << 20, UNSENT_MAX = 64 << 20, RECEIVED_AT_ONCE = 128 << 10, LIFETIME = 3600 };

struct connection {
    int fd;
    enum { NEW, ECHOER, LISTENER, PUBLISHER } role;
    int place; /* among the listeners */
    bool blocked;
    struct bytes in, out; /* in: what is not yet a whole frame; out: what the socket did not take */
    size_t sent;
};

static int poller, listener_count;
static struct bytes listeners; /* pointers */

static struct connection **listener_at(int place) { return (struct connection **)listeners.at + place; }

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(struct connection *c, int how, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, how, fd, &e) < 0) give_up("epoll_ctl");
}

static void drop(struct connection *c)
{
    if (c->role == LISTENER) {
        struct connection *moved = *listener_at(--listener_count);
        *listener_at(c->place) = moved;
        moved->place = c->place;
        listeners.length -= sizeof c;
    }
    close(c->fd);
    c->fd = -1;
    release(&c->in), release(&c->out);
}

/* Send, or keep what the socket does not take; a connection with too much of that is cut off. */
static void put(struct connection *c, const uint8_t *p, size_t n)
{
    ssize_t sent = c->blocked ? 0 : send(c->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == (ssize_t)n || (sent < 0 && errno != EAGAIN))
        return; /* Reading will notice that it is broken. */
    if (sent < 0) sent = 0;
    if (c->out.length + n > UNSENT_MAX) {
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    append(&c->out, p + sent, n - (size_t)sent);
    if (!c->blocked) watch(c, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT);
    c->blocked = true;
}

static void write_more(struct connection *c)
{
    while (c->sent < c->out.length) {
        ssize_t sent = send(c->fd, c->out.at + c->sent, c->out.length - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) return;
        c->sent += (size_t)sent;
    }
    release(&c->out);
    c->sent = 0;
    c->blocked = false;
    watch(c, EPOLL_CTL_MOD, c->fd, EPOLLIN);
}

static void broadcast(const uint8_t *payload, size_t length, int opcode)
{
    static struct bytes frame;
    frame.length = 0;
    frame.length = write_header(reserve(&frame, HEADER_MAX), opcode, length, NULL);
    append(&frame, payload, length);
    for (int i = 0; i < listener_count; i++) put(*listener_at(i), frame.at, frame.length);
}

static size_t take_request(struct connection *c, const uint8_t *p, size_t n)
{
    char head[REQUEST_MAX], accept[ACCEPT_LENGTH + 1], answer[256];
    const uint8_t *last = memmem(p, n < REQUEST_MAX ? n : REQUEST_MAX - 1, "\r\n\r\n", 4);
    if (!last && n < REQUEST_MAX) return 0;
    size_t size = last ? (size_t)(last - p) + 4 : 0;
    memcpy(head, p, size);
    head[size] = 0;
    const char *path = strchr(head, ' '), *key = strcasestr(head, "\r\nsec-websocket-key: ");
    if (!path || !key || strcspn(key + 21, "\r") != KEY_LENGTH) {
        drop(c);
        return 0;
    }
    accept_for(key + 21, accept);
    int length = sprintf(answer, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    c->role = !strncmp(path, " /sub", 5) ? LISTENER : !strncmp(path, " /pub", 5) ? PUBLISHER : ECHOER;
    if (c->role == LISTENER) {
        c->place = listener_count++;
        append(&listeners, &c, sizeof c);
    }
    put(c, (uint8_t *)answer, (size_t)length);
    return size;
}

/* Take one frame; what is to be echoed is collected in `echo`, so that it goes with one send(). */
static size_t take_frame(struct connection *c, uint8_t *p, size_t n, struct bytes *echo)
{
    struct frame f;
    if (!read_header(p, n, &f)) return 0;
    if (!f.masked || f.length > FRAME_MAX) {
        drop(c);
        return 0;
    }
    if (n < f.header + f.length) return 0;
    uint8_t *payload = p + f.header;
    apply_mask(payload, f.length, f.mask);
    bool message = f.opcode == TEXT || f.opcode == BINARY;
    if (message && c->role == PUBLISHER) {
        broadcast(payload, f.length, f.opcode);
    } else if (message || f.opcode == CLOSE) {
        uint64_t length = message || f.length < 2 ? f.length : 2;
        echo->length += write_header(reserve(echo, HEADER_MAX), f.opcode, length, NULL);
        append(echo, payload, length);
    }
    if (f.opcode == CLOSE) {
        put(c, echo->at, echo->length);
        drop(c);
    }
    return f.header + f.length;
}

static void read_more(struct connection *c)
{
    static uint8_t buffer[FRAME_MAX + HEADER_MAX + RECEIVED_AT_ONCE];
    static struct bytes echo;
    size_t held = c->in.length, used = 0, step = 1;
    ssize_t got = recv(c->fd, buffer + held, RECEIVED_AT_ONCE, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        drop(c);
        return;
    }
    if (held) memcpy(buffer, c->in.at, held);
    release(&c->in);
    echo.length = 0;
    size_t have = held + (size_t)got;
    for (; step && used < have && c->fd >= 0; used += step)
        step = c->role == NEW ? take_request(c, buffer, have) : take_frame(c, buffer + used, have - used, &echo);
    if (c->fd < 0) return;
    if (echo.length) put(c, echo.at, echo.length);
    if (used < have) append(&c->in, buffer + used, have - used);
}

static void take_in(int listening)
{
    int one = 1;
    for (int fd; (fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) give_up("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    char *rest = "";
    long port = argc == 2 ? strtol(argv[1], &rest, 10) : -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct epoll_event events[256];
    struct rlimit limit;
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc != 2 || !*argv[1] || *rest || port < 0 || port > 65535) {
        fputs("usage: floor PORT (0: any; at 127.0.0.1)\n", stderr);
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    alarm(LIFETIME);
    poller = epoll_create1(0);
    address.sin_port = htons((uint16_t)port);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&address, size) || listen(listening, 4096) ||
        getsockname(listening, (struct sockaddr *)&address, &size))
        give_up("floor");
    watch(NULL, EPOLL_CTL_ADD, listening, EPOLLIN);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                take_in(listening);
                continue;
            }
            if (events[i].events & EPOLLOUT) write_more(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_more(c);
            if (c->fd < 0) free(c);
        }
    }
}
