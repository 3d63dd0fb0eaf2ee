# What the compiled kernels share: varints, big-endian numbers, numbers that wrap like Java's, and the hash of keys. Inlined into each of them.
# `setup.py` counts this file to the source of every kernel, so that one made of an older copy is not run.


cdef inline (long long, Py_ssize_t) varint(const unsigned char* data, Py_ssize_t position, Py_ssize_t end) noexcept nogil:
    """32-bit zig-zag varint of at most five bytes; position -1 if there is none."""
    cdef unsigned int value = 0
    cdef unsigned int byte
    cdef int shift = 0
    while position < end and shift <= 28:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return <long long><int>((value >> 1) ^ (0 - (value & 1))), position
        shift += 7
    return 0, -1


cdef inline (long long, Py_ssize_t) varlong(const unsigned char* data, Py_ssize_t position, Py_ssize_t end) noexcept nogil:
    """64-bit zig-zag varint of at most ten bytes; position -1 if there is none."""
    cdef unsigned long long value = 0
    cdef unsigned long long byte
    cdef int shift = 0
    while position < end and shift <= 63:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return <long long>((value >> 1) ^ (0 - (value & 1))), position
        shift += 7
    return 0, -1


cdef inline Py_ssize_t varint_size(long long value) noexcept nogil:
    """Bytes of a zig-zag varint."""
    cdef unsigned long long rest = (<unsigned long long>value << 1) ^ <unsigned long long>(value >> 63)
    cdef Py_ssize_t size = 1
    while rest >= 0x80:
        rest >>= 7
        size += 1
    return size


cdef inline unsigned char* write_varint(unsigned char* out, long long value) noexcept nogil:
    """Write a zig-zag varint; return where it ends."""
    cdef unsigned long long rest = (<unsigned long long>value << 1) ^ <unsigned long long>(value >> 63)
    while rest >= 0x80:
        out[0] = <unsigned char>((rest & 0x7F) | 0x80)
        out += 1
        rest >>= 7
    out[0] = <unsigned char>rest
    return out + 1


cdef inline long long add_wrapping(long long left, long long right) noexcept nogil:
    """Wrap like a Java long; signed overflow is undefined in C."""
    return <long long>(<unsigned long long>left + <unsigned long long>right)


cdef inline long long big_endian(const unsigned char* data, int size) noexcept nogil:
    """A signed number of `size` bytes."""
    cdef unsigned long long value = 0
    cdef int at
    for at in range(size):
        value = (value << 8) | data[at]
    if size < 8 and data[0] & 0x80:
        value |= <unsigned long long>(-1) << (8 * size)
    return <long long>value


cdef inline Py_ssize_t skip_headers(
    const unsigned char* data, Py_ssize_t position, Py_ssize_t end, long long count
) noexcept nogil:
    """Where `count` headers end; -1 if they are malformed."""
    cdef long long length
    if count < 0 or count > end - position:
        return -1
    while count > 0:
        count -= 1
        length, position = varint(data, position, end)
        if position < 0 or length < 0 or length > end - position:
            return -1
        length, position = varint(data, position + length, end)
        if position < 0 or length > end - position:
            return -1
        if length > 0:
            position += length
    return position


cdef inline unsigned int murmur2_of(const unsigned char* data, Py_ssize_t size) noexcept nogil:
    """Kafka's 32-bit MurmurHash2 of a key."""
    cdef unsigned int m = 0x5BD1E995
    cdef unsigned int h = <unsigned int>2538058380 ^ <unsigned int>size
    cdef unsigned int k
    cdef Py_ssize_t at = 0
    while at + 4 <= size:
        k = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | <unsigned int>data[at + 3] << 24
        k = k * m
        k ^= k >> 24
        h = (h * m) ^ (k * m)
        at += 4
    if size - at >= 3:
        h ^= <unsigned int>data[at + 2] << 16
    if size - at >= 2:
        h ^= <unsigned int>data[at + 1] << 8
    if size - at >= 1:
        h = (h ^ data[at]) * m
    h ^= h >> 13
    h = h * m
    return h ^ (h >> 15)


cdef inline int int16_at(const unsigned char* data) noexcept nogil:
    """A signed big-endian number of two bytes."""
    return <short>(data[0] << 8 | data[1])


cdef inline int int32_at(const unsigned char* data) noexcept nogil:
    """A signed big-endian number of four bytes."""
    return <int>(<unsigned int>data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3])


cdef inline long long int64_at(const unsigned char* data) noexcept nogil:
    """A signed big-endian number of eight bytes."""
    return <long long>(<unsigned long long><unsigned int>int32_at(data) << 32 | <unsigned int>int32_at(data + 4))


cdef inline char* put(char* out, unsigned long long value, int size) noexcept nogil:
    """Write a big-endian number; return where it ends."""
    cdef int at
    for at in range(size):
        out[at] = <char>(value >> (8 * (size - 1 - at)) & 0xFF)
    return out + size
