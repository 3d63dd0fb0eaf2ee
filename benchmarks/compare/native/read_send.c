/* The least a broker must do with records it is asked for: read them from a file and send them.
 *
 *     read_send FILE CONNECTIONS BYTES
 *
 * Prints the port it listens on. Each connection reads the whole file, BYTES for each request (a size of 4 bytes, big endian,
 * and so many bytes, which are not looked at); an answer is its size and the bytes. Ends when all connections have.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "listen.h"

enum { CONNECTIONS_MAX = 64, REQUEST_MAX = 65536 };

int main(int count, char **arguments) {
    if (count != 4) return 2;
    int file = open(arguments[1], O_RDONLY);
    int connections = atoi(arguments[2]);
    size_t bytes = strtoul(arguments[3], NULL, 10);
    unsigned char *block = malloc(bytes + 4);
    unsigned char request[REQUEST_MAX];
    if (file < 0 || !block || connections < 1 || connections > CONNECTIONS_MAX) return 1;
    struct pollfd open_ones[CONNECTIONS_MAX];
    off_t positions[CONNECTIONS_MAX] = {0};
    int listener = listen_anywhere();
    for (int index = 0; index < connections; index++)
        open_ones[index] = (struct pollfd){.fd = accept_one(listener), .events = POLLIN};
    for (int left = connections; left > 0;) {
        if (poll(open_ones, connections, -1) < 0) return 1;
        for (int index = 0; index < connections; index++) {
            if (open_ones[index].fd < 0 || !open_ones[index].revents) continue;
            uint32_t size;
            if (receive_all(open_ones[index].fd, &size, 4)) {
                close(open_ones[index].fd);
                open_ones[index].fd = -1;
                left--;
                continue;
            }
            size = ntohl(size);
            if (size > REQUEST_MAX || receive_all(open_ones[index].fd, request, size)) return 1;
            ssize_t got = pread(file, block + 4, bytes, positions[index]);
            if (got < 0) return 1;
            positions[index] += got;
            uint32_t head = htonl((uint32_t)got);
            memcpy(block, &head, 4);
            if (send_all(open_ones[index].fd, block, got + 4)) return 1;
        }
    }
    return 0;
}
