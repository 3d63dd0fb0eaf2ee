/* What both programs share: a listening socket on a free port of the loopback interface, and whole reads and writes. */
#include <sys/socket.h>

static int listen_anywhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 64)) exit(1);
    if (getsockname(listener, (struct sockaddr *)&address, &length)) exit(1);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static int accept_one(int listener) {
    int connection = accept(listener, NULL, NULL), on = 1;
    if (connection < 0) exit(1);
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connection;
}

__attribute__((unused)) static int receive_all(int connection, void *buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t got = recv(connection, (char *)buffer + done, size - done, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        done += got;
    }
    return 0;
}

__attribute__((unused)) static int send_all(int connection, const void *buffer, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t sent = send(connection, (const char *)buffer + done, size - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return -1;
        done += sent;
    }
    return 0;
}
