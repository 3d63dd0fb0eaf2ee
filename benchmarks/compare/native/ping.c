/* ping PORT CONNECTIONS SECONDS FILE: sends frames, one in flight on each connection, and times their answers.
 *
 * FILE holds frames, each with its size before it; connection i sends the one number i modulo their count, again and again.
 * An answer is whole when as many bytes as its size says have come. Prints: requests, seconds, p50 and p99 in microseconds. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MAX = 65536, READY_MAX = 256, TIMES_MAX = 20000000 };

struct connection {
    int socket;
    const char *frame;
    size_t size, received;
    double sent_at;
    char answer[ANSWER_MAX];
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int smaller_first(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void ask(struct connection *one) {
    one->received = 0;
    one->sent_at = now();
    if (send(one->socket, one->frame, one->size, MSG_NOSIGNAL) != (ssize_t)one->size) exit(2);
}

/* Returns whether the answer is whole. */
static int take(struct connection *one) {
    uint32_t size;
    ssize_t got = recv(one->socket, one->answer + one->received, ANSWER_MAX - one->received, 0);
    if (got <= 0) exit(3);
    one->received += got;
    if (one->received < 4) return 0;
    memcpy(&size, one->answer, 4);
    if (one->received > 4 + (size_t)ntohl(size)) exit(4);
    return one->received == 4 + (size_t)ntohl(size);
}

int main(int count, char **arguments) {
    if (count != 5) return 1;
    int port = atoi(arguments[1]), connections = atoi(arguments[2]), frames = 0, waiting;
    double seconds = atof(arguments[3]), began, end;
    FILE *file = fopen(arguments[4], "rb");
    char *data = malloc(1 << 20);
    size_t size = file ? fread(data, 1, 1 << 20, file) : 0, starts[1024], sizes[1024];
    for (size_t at = 0; at + 4 <= size && frames < 1024; at += sizes[frames++]) {
        uint32_t length;
        memcpy(&length, data + at, 4);
        starts[frames] = at;
        sizes[frames] = 4 + ntohl(length);
    }
    if (!frames) return 1;
    struct connection *all = calloc(connections, sizeof *all);
    float *times = malloc(sizeof(float) * TIMES_MAX);
    long done = 0;
    int ready = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        int on = 1;
        all[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].socket, (struct sockaddr *)&address, sizeof address)) return 2;
        setsockopt(all[i].socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        all[i].frame = data + starts[i % frames];
        all[i].size = sizes[i % frames];
        ask(&all[i]); /* not timed: the broker learns who this is */
        while (!take(&all[i])) continue;
        epoll_ctl(ready, EPOLL_CTL_ADD, all[i].socket, &event);
    }
    began = now();
    end = began + seconds;
    for (int i = 0; i < connections; i++) ask(&all[i]);
    for (waiting = connections; waiting;) {
        struct epoll_event events[READY_MAX];
        int found = epoll_wait(ready, events, READY_MAX, 10000);
        if (found <= 0) return 3;
        for (int i = 0; i < found; i++) {
            struct connection *one = events[i].data.ptr;
            if (!take(one)) continue;
            double time = now();
            if (done < TIMES_MAX) times[done] = (time - one->sent_at) * 1e6;
            done++;
            if (time < end)
                ask(one);
            else
                waiting--;
        }
    }
    seconds = now() - began;
    long kept = done < TIMES_MAX ? done : TIMES_MAX;
    qsort(times, kept, sizeof(float), smaller_first);
    printf("%ld %.6f %.1f %.1f\n", done, seconds, times[kept / 2], times[kept * 99 / 100]);
    return 0;
}
