/* The floor: the least a server can do for a published event, one write() for each open stream.
 *
 * usage: floor PORT
 *   GET  anything      a stream: head at once, then every published event as one chunk
 *   POST anything      an event: its body goes to all streams; answered 201
 *
 * No sessions, no history, no tokens, no limits: nothing that a product needs. It shows what the kernel's part
 * costs, and so how fast the load client can be fed.
 */
#include "common.h"

static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    "d\r\nretry: 3000\n\n\r\n";
static const char CREATED[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

struct peer {
  int fd, at; /* `at`: place among the streams, -1 for none */
  size_t have;
  char in[4096];
};

static struct peer **streams;
static int count, room, listener;

static void drop(struct peer *p) {
  if (p->at >= 0) {
    streams[p->at] = streams[--count];
    streams[p->at]->at = p->at;
  }
  close(p->fd);
  free(p);
}

static void publish(const char *body, size_t size) {
  static uint64_t id;
  char frame[8192], inner[8192];
  int length = snprintf(inner, sizeof inner, "id: 0123456789-%" PRIu64 "\ndata: %.*s\n\n", ++id, (int)size, body);
  int bytes = snprintf(frame, sizeof frame, "%x\r\n%s\r\n", length, inner);
  for (int at = 0; at < count; at++)
    if (write(streams[at]->fd, frame, (size_t)bytes) != bytes) fprintf(stderr, "a stream is behind\n");
}

/* Answer what has arrived whole; return 0 when the connection is to be dropped. */
static int requests(struct peer *p) {
  for (;;) {
    char *head_end = memmem(p->in, p->have, "\r\n\r\n", 4);
    if (!head_end) return p->have < sizeof p->in;
    size_t used = (size_t)(head_end + 4 - p->in);
    if (p->in[0] == 'G') {
      if (write(p->fd, HEAD, sizeof HEAD - 1) < 0) return 0;
      if (count == room) streams = realloc(streams, (size_t)(room = room * 2 + 64) * sizeof *streams);
      p->at = count;
      streams[count++] = p;
    } else {
      char *length = memmem(p->in, used, "Content-Length: ", 16);
      size_t size = length ? strtoul(length + 16, NULL, 10) : 0;
      if (used + size > sizeof p->in) return 0;
      if (p->have < used + size) return 1;
      publish(p->in + used, size);
      if (write(p->fd, CREATED, sizeof CREATED - 1) < 0) return 0;
      used += size;
    }
    memmove(p->in, p->in + used, p->have - used);
    p->have -= used;
  }
}

int main(int argc, char **argv) {
  if (argc != 2) die("usage: floor PORT");
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  int epoll = epoll_create1(0), one = 1;
  listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in here = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 4096) < 0)
    die("listen: %s", strerror(errno));
  watch(epoll, listener, EPOLLIN, NULL, 1);
  for (;;) {
    struct epoll_event events[256];
    int found = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < found; i++) {
      struct peer *p = events[i].data.ptr;
      if (!p) {
        for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          p = calloc(1, sizeof *p);
          p->fd = fd;
          p->at = -1;
          watch(epoll, fd, EPOLLIN, p, 1);
        }
        continue;
      }
      ssize_t got = read(p->fd, p->in + p->have, sizeof p->in - p->have);
      if (got < 0 && errno == EAGAIN) continue;
      if (got > 0) p->have += (size_t)got;
      if (got <= 0 || !requests(p)) drop(p);
    }
  }
}
