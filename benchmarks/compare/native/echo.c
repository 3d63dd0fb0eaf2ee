/* echo SIZE: answers each frame with SIZE bytes and their size before them. Prints the port it listens on. */
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
#include <unistd.h>

#include "listen.h"

enum { REQUEST_MAX = 65536, READY_MAX = 256 };

struct connection {
    int socket;
    size_t received;
    char request[REQUEST_MAX];
};

int main(int count, char **arguments) {
    if (count != 2) return 1;
    int listener = listen_anywhere(), ready = epoll_create1(0);
    size_t size = 4 + atoi(arguments[1]);
    char *answer = calloc(1, size);
    uint32_t length = htonl(size - 4);
    memcpy(answer, &length, 4);
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(ready, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        struct epoll_event events[READY_MAX];
        int found = epoll_wait(ready, events, READY_MAX, -1);
        for (int i = 0; i < found; i++) {
            struct connection *one = events[i].data.ptr;
            if (!one) {
                one = calloc(1, sizeof *one);
                one->socket = accept_one(listener);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
                epoll_ctl(ready, EPOLL_CTL_ADD, one->socket, &event);
                continue;
            }
            ssize_t got = recv(one->socket, one->request + one->received, REQUEST_MAX - one->received, 0);
            if (got <= 0) {
                close(one->socket);
                free(one);
                continue;
            }
            one->received += got;
            if (one->received < 4) continue;
            memcpy(&length, one->request, 4);
            if (one->received < 4 + (size_t)ntohl(length)) continue;
            one->received = 0; /* one in flight: nothing is behind it */
            if (send_all(one->socket, answer, size)) return 1;
        }
    }
}
