/* The floor: the least a server can do for a published event, one write() for each open stream.
 *
 * usage: floor PORT [REDIS_PORT]
 *   GET  anything      a stream: head at once, then every published event as one chunk
 *   POST anything      an event: its body goes to all streams; answered 201
 *
 * With REDIS_PORT a stream's path ends in a number, /…-NUMBER, and what the gateway's script publishes to the
 * session of the path's last part goes to the one stream of that number.
 *
 * No history, no tokens, no limits: nothing that a product needs. It shows what the kernel's part costs, and so how
 * fast the load client can be fed.
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

enum { NUMBERS = 100000 };
static struct peer **streams;
static int count, room, listener, redis = -1;
static int stream_of[NUMBERS]; /* with Redis: descriptors by the number of the session */
static char pushed[1 << 20];
static size_t pushed_size;

static void drop(struct peer *p) {
  if (p->at >= 0) {
    streams[p->at] = streams[--count];
    streams[p->at]->at = p->at;
  }
  close(p->fd);
  free(p);
}

static int make_chunk(char *chunk, size_t room_for, const char *id, int id_size, const char *data, int size) {
  int inner = (int)strlen("id: \ndata: \n\n") + id_size + size;
  return snprintf(chunk, room_for, "%x\r\nid: %.*s\ndata: %.*s\n\n\r\n", inner, id_size, id, size, data);
}

static void put(int fd, const char *chunk, int size) {
  if (write(fd, chunk, (size_t)size) != size) fprintf(stderr, "a stream is behind\n");
}

static void publish(const char *body, size_t size) {
  static uint64_t number;
  char chunk[8192], id[40];
  int id_size = snprintf(id, sizeof id, "0123456789-%" PRIu64, ++number);
  int bytes = make_chunk(chunk, sizeof chunk, id, id_size, body, (int)size);
  for (int at = 0; at < count; at++) put(streams[at]->fd, chunk, bytes);
}

static unsigned number_at_end(const char *text, const char *end) {
  while (end > text && end[-1] >= '0' && end[-1] <= '9') end--;
  return (unsigned)strtoul(end, NULL, 10) % NUMBERS;
}

/* A bulk string of a RESP array: its start, and where it ends; NULL when it has not come whole. */
static char *bulk(char *at, char *end, char **after) {
  char *line_end = at < end ? memmem(at, (size_t)(end - at), "\r\n", 2) : NULL;
  if (!line_end) return NULL;
  *after = line_end + 2 + atoi(at + 1);
  return *after + 2 <= end ? line_end + 2 : NULL;
}

/* Pass on the messages that have come whole: arrays of "message", a channel and a payload. */
static void take_messages(void) {
  static const char MESSAGE[] = "*3\r\n$7\r\nmessage\r\n", SUBSCRIBED[] = "*3\r\n$9\r\nsubscribe\r\n";
  ssize_t got = read(redis, pushed + pushed_size, sizeof pushed - pushed_size);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) die("Redis closed the connection");
  char *at = pushed, *end = pushed + (pushed_size += (size_t)got), *channel, *channel_end, *payload, *payload_end;
  while (end - at > (long)sizeof SUBSCRIBED) {
    if (!memcmp(at, SUBSCRIBED, sizeof SUBSCRIBED - 1)) {
      if (!bulk(at + sizeof SUBSCRIBED - 1, end, &channel_end)) break;
      char *line_end = memmem(channel_end + 2, (size_t)(end - channel_end - 2), "\r\n", 2);
      if (!line_end) break;
      at = line_end + 2;
      continue;
    }
    if (!(channel = bulk(at + sizeof MESSAGE - 1, end, &channel_end))) break;
    if (!(payload = bulk(channel_end + 2, end, &payload_end))) break;
    char chunk[8192], *id = payload + strlen("{\"id\":\"");
    int id_size = (int)((char *)memchr(id, '"', (size_t)(payload_end - id)) - id);
    int bytes = make_chunk(chunk, sizeof chunk, id, id_size, payload, (int)(payload_end - payload));
    put(stream_of[number_at_end(channel, channel_end)], chunk, bytes);
    at = payload_end + 2;
  }
  memmove(pushed, at, pushed_size = (size_t)(end - at));
}

/* Subscribe to the session of a request line, `GET /…/SESSION HTTP/1.1`. */
static void follow(const char *request, int fd) {
  char command[512], channel[256];
  const char *end = strchr(request + 4, ' '), *start = end;
  while (start[-1] != '/') start--;
  int size = snprintf(channel, sizeof channel, "sse_events:%.*s", (int)(end - start), start);
  int bytes = snprintf(command, sizeof command, "*2\r\n$9\r\nSUBSCRIBE\r\n$%d\r\n%s\r\n", size, channel);
  stream_of[number_at_end(start, end)] = fd;
  put(redis, command, bytes);
}

/* Answer what has arrived whole; return 0 when the connection is to be dropped. */
static int requests(struct peer *p) {
  for (;;) {
    char *head_end = memmem(p->in, p->have, "\r\n\r\n", 4);
    if (!head_end) return p->have < sizeof p->in;
    size_t used = (size_t)(head_end + 4 - p->in);
    if (p->in[0] == 'G') {
      if (write(p->fd, HEAD, sizeof HEAD - 1) < 0) return 0;
      if (redis >= 0) follow(p->in, p->fd);
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
  if (argc != 2 && argc != 3) die("usage: floor PORT [REDIS_PORT]");
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
  if (argc == 3) watch(epoll, redis = connect_now(atoi(argv[2])), EPOLLIN, &redis, 1);
  for (;;) {
    struct epoll_event events[256];
    int found = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < found; i++) {
      struct peer *p = events[i].data.ptr;
      if (events[i].data.ptr == &redis) {
        take_messages();
        continue;
      }
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
