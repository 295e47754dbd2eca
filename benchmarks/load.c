/* load: opens WebSockets on a server at 127.0.0.1, has it send messages, and checks and times each one.
 *
 *   load fanout|echo|connect|idle --port PORT [options]     options.h has them, README.rst explains them
 *
 * Prints one line of JSON for every phase. Ends with 2 for bad arguments, 3 when not every connection
 * opened, 4 when a listener gets no broadcast at all, 1 when the system refuses something.
 *
 * Linux 5.11 and glibc 2.35 or later:  cc -O2 -Wall -Wextra -o load load.c -lz */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "connections.h"
#include "payloads.h"

enum { PROBE_LENGTH = 64, OUT_MAX = 16 << 20, BROADCASTS_MIN = 3, WARM_UP = 0, NOT_OPEN = 3, NOT_HEARD = 4 };
static const double LONGEST = 600, LONGEST_WAIT = 3600; /* seconds for a phase, and for a line of stdin */

static struct connection *many, publisher, probe;
static long many_count, warm, visited;

/* The phase under way; its number is 0 between phases. */
static const struct phase *phase;
static uint32_t phase_number;
static uint64_t phase_start, progress;
static struct histogram last_latency, probe_latency;
static uint64_t longest_gap;

/* Broadcasts of the phase: when each was due, and how many listeners are still to get it. */
struct broadcast {
    uint64_t due;
    long missing;
};
static struct bytes broadcasts;
static uint32_t published, completed;
static long healthy;
static uint64_t echoes, outstanding;
static bool echoing;

static long slow_closed;
static uint64_t slow_first_close;
static uint16_t slow_codes[65536];

static bool probing;
static uint64_t probe_start, probe_end, probe_heard;
static uint32_t probes_sent, probes_back;

static void probe_came(uint32_t i);

static uint64_t after(uint64_t start, double seconds) { return start + (uint64_t)(seconds * 1e9); }

static void queue_payload(struct connection *c, const char *event, uint32_t number, uint32_t sequence, size_t length)
{
    static struct bytes payload;
    write_payload(&payload, number, sequence, c->number, length);
    queue_message(c, event, &payload);
}

/* What comes, by role. */

/* Keep the order of what a connection gets; false when it has this one already. */
static bool in_order(struct connection *c, uint32_t sequence)
{
    uint32_t back = c->next - 1 - sequence;
    if (sequence >= c->next) {
        uint32_t step = sequence - c->next + 1;
        c->arrived = step < 64 ? c->arrived << step | 1 : 1;
        c->next = sequence + 1;
        return true;
    }
    if (back > 63 || c->arrived >> back & 1) {
        count.dup++;
        return false;
    }
    count.reordered++;
    c->arrived |= 1ull << back;
    return true;
}

static struct broadcast *broadcast_at(uint32_t sequence) { return (struct broadcast *)broadcasts.at + sequence; }

static void broadcast_came(struct connection *c, uint32_t sequence, uint64_t t)
{
    struct broadcast *b = broadcast_at(sequence);
    uint64_t since = c->last > b->due ? c->last : b->due, taken = t > b->due ? t - b->due : 0;
    if (phase->rate && t > since && t - since > longest_gap) longest_gap = t - since;
    c->last = t;
    count_in(&latency, taken);
    if (--b->missing == 0) {
        count_in(&last_latency, taken);
        completed++;
    }
}

static void send_echo(struct connection *c, uint64_t t)
{
    c->sent_at[c->sent % phase->depth] = t;
    queue_payload(c, "echo", phase_number, c->sent++, (size_t)phase->payload);
    outstanding++;
    echoing = ++echoes < (uint64_t)phase->count;
}

static void message_came(struct connection *c, const uint8_t *p, size_t length)
{
    uint32_t number, sequence, sent = c->role == LISTENER ? published : c->role == PROBE ? probes_sent : c->sent;
    uint32_t source = c->role == LISTENER ? publisher.number : c->number;
    size_t wanted = c->role == PROBE ? PROBE_LENGTH : (size_t)(phase ? phase->payload : 0);
    uint64_t t = now();
    if (c->role == PUBLISHER || c->role == HOLDER) return;
    if (!read_head(p, length, &number, &sequence)) {
        count.proto_errors++;
        note("%s", "a message without phase and sequence number");
        return;
    }
    if (number == WARM_UP) {
        warm += !c->warm;
        c->warm = true;
        progress = t;
        return;
    }
    if (number != phase_number || sequence >= sent) {
        count.stale++;
        return;
    }
    count.badlen += length != wanted;
    count.badbody += !is_payload(p, length, number, sequence, source, wanted);
    if (!in_order(c, sequence)) return;
    if (c->role == PROBE) {
        probe_came(sequence);
        return;
    }
    progress = t;
    count.delivered++;
    if (c->role == LISTENER) {
        broadcast_came(c, sequence, t);
    } else {
        count_in(&latency, t - c->sent_at[sequence % phase->depth]);
        outstanding--, c->came++;
        if (echoing) send_echo(c, t);
    }
}

static void connection_ended(struct connection *c, enum state was, const char *why)
{
    if (c->role == VISITOR && was == CLOSING && c->close_code) {
        visited++;
        return;
    }
    if (was < OPEN || c->role == VISITOR) {
        count.failed++;
        note(was == CLOSING ? "no close frame came: %s" : "%s", why);
        return;
    }
    if (c->slow) {
        slow_closed++;
        slow_codes[c->close_code]++;
        if (!slow_first_close && phase_number) slow_first_close = now();
        return;
    }
    count.closed++;
    note("%s", why);
    if (!phase_number) return;
    if (c->role == LISTENER) {
        healthy--;
        for (uint32_t i = c->next; i < published; i++) completed += --broadcast_at(i)->missing == 0;
    } else if (c->role == ECHOER) {
        outstanding -= c->sent - c->came;
    }
}

/* The probe: messages, or requests for a page, at times that do not depend on when answers come. */

static uint64_t probe_due(uint32_t i) { return after(probe_start, i / options.probe_rate); }

static bool probe_left(void) { return probes_back < probes_sent || probe_due(probes_sent) <= probe_end; }

/* When turn() is to wake for the probe: when the next is due, unless the page before has not come. */
static uint64_t probe_wakes(void)
{
    bool waits = options.probe_page && probes_sent > probes_back;
    return probing && !waits && probe_due(probes_sent) <= probe_end ? probe_due(probes_sent) : UINT64_MAX;
}

static void serve_probe(void)
{
    while (probing && probe.state == OPEN && probe_wakes() <= now()) {
        if (options.probe_page) request(&probe, options.probe_page, "");
        else queue_payload(&probe, "echo", phase_number, probes_sent, PROBE_LENGTH);
        probes_sent++;
        flush(&probe);
    }
    if (probing && probe.state == OPEN && probes_sent > probes_back) receive(&probe, false);
}

static void probe_came(uint32_t i)
{
    probe_heard = now();
    count_in(&probe_latency, probe_heard - probe_due(i));
    probes_back++;
}

static void page_came(void) { probe_came(probes_back); }

static bool has_probe(void) { return options.probe_websocket || options.probe_page; }

static void start_probing(void)
{
    probing = has_probe();
    probe_start = phase_start;
    probe_end = UINT64_MAX;
    probes_sent = probes_back = 0;
    probe.next = 0, probe.arrived = ~0ull;
}

/* What was due until now is still sent, and awaited; what does not come is lost. */
static void finish_probing(void)
{
    probe_end = probe_heard = now();
    while (probing && probe.state == OPEN && probe_left() && now() < after(probe_end, LONGEST) &&
           now() < after(probe_heard, options.timeout))
        turn(after(now(), .02));
    while (probing && probe_due(probes_sent) <= probe_end) probes_sent++;
    probing = false;
    if (options.probe_page && probes_back < probes_sent) end(&probe, "the page that is probed was not answered");
}

/* Lines of JSON. */

static void print_count(const char *name, uint64_t value) { printf(",\"%s\":%llu", name, (unsigned long long)value); }

/* What went wrong since the last line, and the line's end. */
static void print_faults(void)
{
    print_count("dup", count.dup);
    print_count("reordered", count.reordered);
    print_count("badlen", count.badlen);
    print_count("badbody", count.badbody);
    print_count("stale", count.stale);
    print_count("proto_errors", count.proto_errors);
    print_count("failed", count.failed);
    print_count("closed", count.closed);
    print_count("pings", count.pings);
    print_count("open", (uint64_t)open_now);
    printf(",\"error\":\"%s\"}\n", count.error);
}

static void print_slow_ones(void)
{
    const char *between = "";
    print_count("slow", (uint64_t)options.slow);
    print_count("slow_closed", (uint64_t)slow_closed);
    printf(",\"slow_first_close_s\":%.3f", slow_first_close ? (double)(slow_first_close - phase_start) / 1e9 : 0.0);
    printf(",\"slow_close_codes\":{");
    for (int code = 1; code < 65536; code++)
        if (slow_codes[code]) {
            printf("%s\"%d\":%u", between, code, slow_codes[code]);
            between = ",";
        }
    printf("}");
}

/* Opening, and warming up. */

/* Say that a phase may begin, and wait for a line; false when stdin has ended. */
static bool wait_for_line(const char *what, long index)
{
    printf("{\"event\":\"ready\",\"what\":\"%s\",\"index\":%ld,\"open\":%ld,\"closed\":%llu}\n", what, index, open_now,
           (unsigned long long)count.closed);
    fflush(stdout);
    uint64_t deadline = after(now(), LONGEST_WAIT);
    while (!lines && !stdin_ended && now() < deadline) turn(deadline);
    return lines-- > 0;
}

static void open_all(enum role role)
{
    struct connection *others[] = {role == LISTENER ? &publisher : NULL, has_probe() ? &probe : NULL};
    enum role roles[] = {PUBLISHER, options.probe_page ? PAGE_PROBE : PROBE};
    uint64_t start_of_it = now(), deadline = after(start_of_it, options.connect_timeout);
    long started = 0, wanted = many_count;
    do {
        for (; started < many_count && opening < options.opening && count.failed < 100; started++)
            start(&many[started], role);
        turn(deadline);
    } while ((opening || started < many_count) && now() < deadline && count.failed < 100);
    for (int i = 0; i < 2; i++) {
        wanted += others[i] != NULL;
        if (others[i]) start(others[i], roles[i]);
        while (opening && now() < deadline) turn(deadline);
    }
    if (options.sync || role == HOLDER) {
        printf("{\"event\":\"connected\",\"secs\":%.3f", (double)(now() - start_of_it) / 1e9);
        print_faults();
        fflush(stdout);
    }
    if (open_now < wanted) {
        const char *why = *count.error ? count.error : "there was no time left";
        fprintf(stderr, "load: %ld of %ld connections opened: %s\n", open_now, wanted, why);
        exit(NOT_OPEN);
    }
}

static void publish(uint32_t number, uint32_t sequence, size_t length)
{
    queue_payload(&publisher, "pub", number, sequence, length);
    flush(&publisher);
}

/* A server may take a listener's handshake before it sends to it: broadcast until each has heard one. */
static void warm_up(void)
{
    long wanted = many_count - options.slow;
    for (uint32_t i = 0; i < 20 && warm < wanted && publisher.state == OPEN; i++) {
        publish(WARM_UP, i, 64);
        for (uint64_t deadline = after(now(), 2); warm < wanted && now() < deadline;)
            turn(deadline);
    }
    if (warm < wanted) {
        fprintf(stderr, "load: %ld of %ld listeners heard a broadcast: %s\n", warm, wanted, count.error);
        exit(NOT_HEARD);
    }
    for (uint64_t deadline = after(now(), 10); now() < after(progress, .1) && now() < deadline;)
        turn(after(progress, .1));
}

/* Phases. */

static void begin(long index)
{
    phase_number = (uint32_t)index + 1;
    published = completed = 0;
    echoes = outstanding = longest_gap = slow_first_close = 0;
    broadcasts.length = 0;
    visited = healthy = 0;
    memset(&latency, 0, sizeof latency);
    memset(&last_latency, 0, sizeof last_latency);
    memset(&probe_latency, 0, sizeof probe_latency);
    phase_start = progress = now();
    for (long i = 0; i < many_count; i++) {
        struct connection *c = &many[i];
        c->next = c->sent = c->came = 0;
        c->arrived = ~0ull;
        c->last = phase_start;
        healthy += c->state == OPEN && !c->slow;
    }
    start_probing();
}

static uint64_t stop_time(void) { return phase->seconds ? after(phase_start, phase->seconds) : UINT64_MAX; }

static bool given_up(void)
{
    uint64_t hard = after(phase_start, (phase->seconds ? phase->seconds : LONGEST) + 4 * options.timeout);
    uint64_t t = now();
    return t > hard || (t > progress && t - progress > after(0, options.timeout));
}

static uint64_t next_due(void) { return phase->rate ? after(phase_start, published / phase->rate) : now(); }

static bool may_publish(void)
{
    return published < phase->count && (now() < stop_time() || published < BROADCASTS_MIN) && publisher.state == OPEN &&
           healthy;
}

/* Run a fan-out; false when it was given up. */
static bool fan_out(void)
{
    while (may_publish() || (completed < published && publisher.state == OPEN)) {
        while (may_publish() && next_due() <= now() && publisher.out.length < OUT_MAX &&
               (phase->rate || published - completed < phase->window)) {
            struct broadcast b = {next_due(), healthy};
            append(&broadcasts, &b, sizeof b);
            publish(phase_number, published++, (size_t)phase->payload);
        }
        uint64_t wake = after(now(), .02);
        turn(phase->rate && may_publish() && next_due() < wake ? next_due() : wake);
        if (!healthy) break;
        if (completed == published) progress = now();
        if (given_up()) break;
    }
    for (long i = 0; i < many_count && phase->rate; i++) {
        struct connection *c = &many[i];
        if (c->state != OPEN || c->slow || c->next >= published) continue;
        uint64_t due = broadcast_at(c->next)->due, since = c->last > due ? c->last : due, t = now();
        if (t > since && t - since > longest_gap) longest_gap = t - since;
    }
    return published && completed == published;
}

static bool echo(void)
{
    echoing = true;
    for (long i = 0; i < many_count && echoing; i++) {
        many[i].sent_at = realloc(many[i].sent_at, (size_t)phase->depth * sizeof *many[i].sent_at);
        for (long j = 0; j < phase->depth && echoing && many[i].state == OPEN; j++)
            send_echo(&many[i], now());
        flush(&many[i]);
    }
    while (outstanding && !given_up()) {
        turn(after(now(), .02));
        echoing = echoing && now() < stop_time();
    }
    echoing = false;
    return echoes && !outstanding;
}

static bool visit(void)
{
    uint64_t deadline = after(phase_start, options.connect_timeout);
    long started = 0;
    while ((started < options.total || opening) && now() < deadline) {
        for (long i = 0; i < many_count; i++) {
            struct connection *c = &many[i];
            if (c->state == CLOSING && now() - c->started > after(0, options.timeout))
                end(c, "the server did not close the connection");
            if ((c->state == UNUSED || c->state == CLOSED) && started < options.total)
                start(c, VISITOR), started++;
        }
        turn(after(now(), .02));
    }
    bool stalled = started < options.total || opening;
    for (long i = 0; i < many_count; i++) end(&many[i], "there was no time left");
    count.delivered = (uint64_t)visited;
    return !stalled;
}

static void run_phase(long index)
{
    static bool (*const run[])(void) = {fan_out, echo, visit};
    phase = &options.phases[index % options.phase_count];
    if (options.sync && !wait_for_line(phase->tag, index)) exit(0);
    begin(index);
    long n = options.mode == CONNECT ? options.total : healthy;
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    bool stalled = !run[options.mode]();
    double secs = (double)(now() - phase_start) / 1e9;
    double cpu_secs = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
    finish_probing();
    uint64_t expected = options.mode == FANOUT ? (uint64_t)published * (uint64_t)n
                        : options.mode == ECHO ? echoes : (uint64_t)options.total;
    printf("{\"event\":\"result\",\"mode\":\"%s\",\"tag\":\"%s\"", mode_names[options.mode], phase->tag);
    printf(",\"index\":%ld,\"n\":%ld,\"b\":%ld", index, n, phase->payload);
    printf(",\"win\":%ld,\"d\":%ld", phase->window, phase->depth);
    printf(",\"rate\":%g,\"stalled\":%s,\"secs\":%.6f", phase->rate, stalled ? "true" : "false", secs);
    printf(",\"gen_cpu_s\":%.6f,\"gen_busy\":%.3f", cpu_secs, cpu_secs / secs);
    printf(",\"msgs_per_s\":%.0f", (double)count.delivered / secs);
    print_count("broadcasts", published);
    print_count("completed", completed);
    print_count("expected", expected);
    print_count("delivered", count.delivered);
    print_count("lost", (options.mode == CONNECT ? 0 : expected - count.delivered) + probes_sent - probes_back);
    print_histogram("lat_us", &latency);
    if (options.mode == FANOUT) print_histogram("last_us", &last_latency);
    if (phase->rate) printf(",\"gap_us\":{\"max\":%.1f}", (double)longest_gap / 1e3);
    if (has_probe()) print_histogram("probe_us", &probe_latency);
    print_slow_ones();
    print_faults();
    fflush(stdout);
    for (uint64_t deadline = after(now(), .5); stalled && now() < deadline;)
        turn(deadline); /* What is late belongs to no phase. */
    phase_number = 0;
    count = (struct counts){0};
}

/* After the last phase: read what the slow listeners left, for a close frame behind it. */
static void hear_slow_ones(void)
{
    for (long i = many_count - options.slow; i < many_count; i++)
        if (many[i].state == OPEN) watch(&many[i], EPOLL_CTL_MOD, EPOLLIN);
    for (uint64_t deadline = after(now(), 1); now() < deadline && slow_closed < options.slow;) turn(deadline);
    printf("{\"event\":\"slow\"");
    print_slow_ones();
    print_faults();
}

static void hold(void)
{
    wait_for_line("idle", 0);
    printf("{\"event\":\"result\",\"mode\":\"idle\",\"tag\":\"%s\",\"n\":%ld", options.phases[0].tag, many_count);
    print_faults();
}

/* One descriptor for each connection, and some more. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    long wanted = many_count + 16;
    if (getrlimit(RLIMIT_NOFILE, &limit)) give_up("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max < (rlim_t)wanted)
        usage("%ld connections need %ld descriptors, and the hard limit (ulimit -Hn) is %ld", many_count, wanted,
              (long)limit.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &limit)) give_up("setrlimit");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    many_count = options.mode == CONNECT ? options.opening : options.listeners;
    allow_descriptors();
    many = calloc((size_t)many_count, sizeof *many);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!many || poller < 0) give_up("start");
    for (long i = 0; i < many_count; i++) {
        many[i].number = (uint32_t)i;
        many[i].slow = i >= many_count - options.slow;
    }
    publisher.number = UINT32_MAX;
    probe.number = UINT32_MAX - 1;
    draw_pattern();
    if (options.sync || options.mode == IDLE) {
        struct epoll_event e = {.events = EPOLLIN};
        stdin_ended = epoll_ctl(poller, EPOLL_CTL_ADD, 0, &e) < 0; /* It is a file, such as /dev/null. */
    }
    if (options.mode == IDLE) {
        open_all(HOLDER);
        hold();
        return 0;
    }
    if (options.mode != CONNECT) open_all(options.mode == FANOUT ? LISTENER : ECHOER);
    if (options.mode == FANOUT) warm_up();
    for (long i = 0; i < options.repeat * options.phase_count; i++) run_phase(i);
    if (options.slow) hear_slow_ones();
    return 0;
}
