/* The least a broker must do with records it is sent: receive them and write them to a file.
 *
 *     receive_write FILE
 *
 * Prints the port it listens on, serves one connection, and ends when that ends. A request is a size (4 bytes, big endian)
 * and so many bytes; it is answered with its correlation id in 8 bytes. Nothing is looked at.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "listen.h"

enum { LARGEST = 64 << 20 };

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int file = open(arguments[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    unsigned char *frame = malloc(LARGEST);
    if (file < 0 || !frame) return 1;
    int connection = accept_one(listen_anywhere());
    for (;;) {
        uint32_t size;
        if (receive_all(connection, &size, 4)) break;
        size = ntohl(size);
        if (size < 8 || size > LARGEST || receive_all(connection, frame, size)) return 1;
        for (uint32_t done = 0; done < size;) {
            ssize_t written = write(file, frame + done, size - done);
            if (written <= 0) return 1;
            done += written;
        }
        unsigned char answer[8] = {0, 0, 0, 4};
        memcpy(answer + 4, frame + 4, 4);
        if (send_all(connection, answer, 8)) return 1;
    }
    return 0;
}
