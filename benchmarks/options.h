/* The command line of load: what may be given, within which bounds, and what holds otherwise. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAYLOAD_MIN = 32, PAYLOAD_MAX = 1 << 20, PHASES_MAX = 64, BAD_ARGUMENTS = 2 };
enum mode { FANOUT, ECHO, CONNECT, IDLE };
static const char *const mode_names[] = {"fanout", "echo", "connect", "idle"};

struct phase {
    long count, payload, window, depth;
    double seconds, rate;
    char tag[64];
};

static struct options {
    enum mode mode;
    long port, listeners, total, opening, sources, slow, slow_buffer, paths, repeat;
    double connect_timeout, timeout, probe_rate;
    const char *path, *publish, *probe_websocket, *probe_page;
    char headers[4096];
    bool sync, deflate, binary, socketio;
    struct phase phases[PHASES_MAX];
    int phase_count;
} options = {.listeners = 1, .total = 1000, .opening = 32, .sources = 4, .slow_buffer = 65536, .repeat = 1,
             .connect_timeout = 60, .timeout = 5, .probe_rate = 50, .publish = "/pub"};

static void usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(BAD_ARGUMENTS);
}

/* A number that can be given: the name, where it goes, and its bounds. */
struct number {
    const char *name;
    long *whole;
    double *real, least, most;
};

/* Set the number of that name; false if the table has none. */
static bool set_number(const struct number *table, const char *name, const char *text)
{
    while (table->name && strcmp(table->name, name)) table++;
    if (!table->name) return false;
    char *end;
    double value = strtod(text, &end);
    bool right = end != text && !*end && value >= table->least && value <= table->most;
    if (!right || (table->whole && value != (double)(long)value))
        usage("%s is %s from %.10g to %.10g, not '%s'", name, table->whole ? "a whole number" : "a number",
              table->least, table->most, text);
    if (table->whole) *table->whole = (long)value;
    else *table->real = value;
    return true;
}

static const struct number numbers[] = {
    {"port", &options.port, NULL, 1, 65535},
    {"n", &options.listeners, NULL, 1, 100000},
    {"total", &options.total, NULL, 1, 10000000},
    {"conc", &options.opening, NULL, 1, 10000},
    {"srcs", &options.sources, NULL, 1, 200},
    {"slow", &options.slow, NULL, 0, 100000},
    {"slow-rcvbuf", &options.slow_buffer, NULL, 1024, 1 << 26},
    {"paths", &options.paths, NULL, 1, 100000},
    {"repeat", &options.repeat, NULL, 1, 10000},
    {"conn-timeout", NULL, &options.connect_timeout, 0.1, 3600},
    {"timeout", NULL, &options.timeout, 0.1, 600},
    {"probe-rate", NULL, &options.probe_rate, 0.1, 10000},
    {NULL, NULL, NULL, 0, 0},
};

/* Text that goes into a request or a line of JSON as it is. */
static const char *plain(const char *name, const char *text, const char *refused)
{
    for (const char *p = text; *p; p++)
        if (*p < ' ' || *p > '~' || strchr(refused, *p))
            usage("%s has a character that may not be in it: '%s'", name, text);
    return text;
}

static const char *url_path(const char *name, const char *text)
{
    if (*text != '/' || strlen(text) > 1000)
        usage("%s begins with / and has at most 1000 characters, unlike '%s'", name, text);
    return plain(name, text, " ");
}

static void add_header(const char *text)
{
    size_t used = strlen(options.headers);
    if (!strstr(plain("header", text, ""), ": ") || used + strlen(text) + 3 > sizeof options.headers)
        usage("header is 'Name: value', and all of them have at most 4 KiB: '%s'", text);
    sprintf(options.headers + used, "%s\r\n", text);
}

static void add_phase(const char *text)
{
    struct phase p = {.count = 1000000, .payload = 64, .window = 1, .depth = 1};
    const struct number keys[] = {
        {"k", &p.count, NULL, 1, 1e9},       {"b", &p.payload, NULL, PAYLOAD_MIN, PAYLOAD_MAX},
        {"win", &p.window, NULL, 1, 100000}, {"d", &p.depth, NULL, 1, 10000},
        {"secs", NULL, &p.seconds, 0, 3600}, {"rate", NULL, &p.rate, 0, 1e6},
        {NULL, NULL, NULL, 0, 0},
    };
    char copy[256], *rest = copy;
    if (options.phase_count == PHASES_MAX || strlen(text) >= sizeof copy)
        usage("there are more than %d phases, or one is too long: '%s'", PHASES_MAX, text);
    snprintf(p.tag, sizeof p.tag, "p%d", options.phase_count);
    strcpy(copy, text);
    for (char *key; (key = strsep(&rest, ","));) {
        char *value = strchr(key, '=');
        if (!value) usage("a phase is key=value,key=value,..., not '%s'", text);
        *value++ = 0;
        if (!strcmp(key, "tag")) snprintf(p.tag, sizeof p.tag, "%s", plain("tag", value, "\"\\"));
        else if (!set_number(keys, key, value))
            usage("a phase has k, b, secs, rate, win, d and tag, not '%s'", key);
    }
    options.phases[options.phase_count++] = p;
}

static void read_options(int count, char **words)
{
    static const struct option names[] = {
        {"port", 1, 0, 0}, {"n", 1, 0, 0}, {"total", 1, 0, 0}, {"conc", 1, 0, 0}, {"srcs", 1, 0, 0},
        {"slow", 1, 0, 0}, {"slow-rcvbuf", 1, 0, 0}, {"paths", 1, 0, 0}, {"repeat", 1, 0, 0},
        {"conn-timeout", 1, 0, 0}, {"timeout", 1, 0, 0}, {"probe-rate", 1, 0, 0}, {"path", 1, 0, 'p'},
        {"pub", 1, 0, 'u'}, {"phase", 1, 0, 'f'}, {"header", 1, 0, 'h'}, {"profile", 1, 0, 'o'},
        {"probe-ws", 1, 0, 'w'}, {"probe-http", 1, 0, 'g'}, {"sync", 0, 0, 's'}, {"deflate", 0, 0, 'd'},
        {"binary", 0, 0, 'b'}, {0, 0, 0, 0}};
    int mode = 0, index = 0, option;
    while (count > 1 && mode < 4 && strcmp(mode_names[mode], words[1])) mode++;
    if (count < 2 || mode == 4)
        usage("usage: load fanout|echo|connect|idle --port PORT [--option value ...]");
    options.mode = (enum mode)mode;
    options.path = mode == FANOUT || mode == IDLE ? "/sub" : "/echo";
    words[1] = words[0]; /* For getopt's messages. */
    while ((option = getopt_long(count - 1, words + 1, "", names, &index)) != -1) {
        switch (option) {
        case 0: set_number(numbers, names[index].name, optarg); break;
        case 'p': options.path = url_path("path", optarg); break;
        case 'u': options.publish = url_path("pub", optarg); break;
        case 'w': options.probe_websocket = url_path("probe-ws", optarg); break;
        case 'g': options.probe_page = url_path("probe-http", optarg); break;
        case 'f': add_phase(optarg); break;
        case 'h': add_header(optarg); break;
        case 's': options.sync = true; break;
        case 'd': options.deflate = true; break;
        case 'b': options.binary = true; break;
        case 'o':
            options.socketio = !strcmp(optarg, "sio");
            if (!options.socketio && strcmp(optarg, "raw"))
                usage("profile is raw or sio, not '%s'", optarg);
            break;
        default: exit(BAD_ARGUMENTS); /* getopt has said why. */
        }
    }
    if (optind < count - 1) usage("'%s' belongs to no option", words[1 + optind]);
    if (!options.port) usage("--port is needed; the server is at 127.0.0.1");
    if (options.slow && (options.mode != FANOUT || options.slow >= options.listeners))
        usage("--slow is for fanout, and leaves at least one listener that reads");
    if (options.probe_websocket && options.probe_page)
        usage("--probe-ws and --probe-http are not for the same run");
    if ((options.probe_websocket || options.probe_page) && options.mode != FANOUT && options.mode != ECHO)
        usage("--probe-ws and --probe-http are for fanout and echo");
    if (options.socketio && (options.paths || options.binary))
        usage("--profile sio goes without --paths and --binary");
    if (!options.phase_count) add_phase(mode == CONNECT ? "tag=connect" : "k=1000,secs=2");
}

#endif
