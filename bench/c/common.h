/* What the three programs share: clock, sockets, growing buffers, a latency histogram, one-line JSON. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  exit(1);
}

static inline void raise_descriptor_limit(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

/* Begin a connection to a port of this machine. The source address rotates over 127.0.0.2 to .9, so that no
   number of reconnects runs out of ports. */
static inline int begin_connect(int port) {
  static unsigned turn;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %s", strerror(errno));
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002u + turn++ % 8)};
  if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind: %s", strerror(errno));
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
    die("connect to port %d: %s", port, strerror(errno));
  return fd;
}

static inline int connect_now(int port) {
  int fd = begin_connect(port);
  struct timeval limit = {.tv_sec = 5};
  fd_set writable;
  FD_ZERO(&writable);
  if (fd < FD_SETSIZE) FD_SET(fd, &writable);
  int failed = 1;
  socklen_t size = sizeof failed;
  if (select(fd + 1, NULL, &writable, NULL, &limit) == 1) getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
  if (failed) die("nobody listens on port %d", port);
  return fd;
}

/* A growing buffer of bytes not written yet. */
struct out {
  char *data;
  size_t start, end, room;
};

static inline void out_add(struct out *o, const void *data, size_t size) {
  if (o->end + size > o->room) {
    memmove(o->data, o->data + o->start, o->end - o->start);
    o->end -= o->start;
    o->start = 0;
    if (o->end + size > o->room) {
      o->room = (o->end + size) * 2;
      o->data = realloc(o->data, o->room);
      if (!o->data) die("out of memory");
    }
  }
  memcpy(o->data + o->end, data, size);
  o->end += size;
}

/* Write what the socket takes; return 0 when the connection is gone. */
static inline int out_flush(struct out *o, int fd) {
  while (o->start < o->end) {
    ssize_t wrote = send(fd, o->data + o->start, o->end - o->start, MSG_NOSIGNAL);
    if (wrote < 0) return errno == EAGAIN || errno == EINTR;
    o->start += (size_t)wrote;
  }
  o->start = o->end = 0;
  return 1;
}

/* Latencies in ns: 64 buckets an octave, so a percentile is exact to 1.6 %. */
enum { SUB = 64, OCTAVES = 40 };
struct histogram {
  uint64_t count[OCTAVES * SUB], total, sum, max;
};

static inline void record(struct histogram *h, uint64_t ns) {
  unsigned shift = 0;
  uint64_t value = ns;
  if (value >= SUB) shift = (unsigned)(63 - __builtin_clzll(value)) - 6;
  unsigned at = shift * SUB + (unsigned)(value >> shift);
  if (at >= OCTAVES * SUB) at = OCTAVES * SUB - 1;
  h->count[at]++;
  h->total++;
  h->sum += ns;
  if (ns > h->max) h->max = ns;
}

/* The upper edge of a bucket. */
static inline uint64_t edge(unsigned at) {
  unsigned shift = at / SUB;
  if (shift <= 1) return at + 1;
  return ((uint64_t)(at % SUB + SUB) + 1) << (shift - 1);
}

static inline uint64_t percentile(const struct histogram *h, double share) {
  uint64_t wanted = (uint64_t)(share * (double)h->total), seen = 0;
  for (unsigned at = 0; at < OCTAVES * SUB; at++) {
    seen += h->count[at];
    if (seen > wanted) return edge(at) < h->max ? edge(at) : h->max;
  }
  return h->max;
}

static inline void print_histogram(const char *name, const struct histogram *h) {
  printf("\"%s\":{\"count\":%" PRIu64 ",\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,"
         "\"p999_us\":%.1f,\"max_us\":%.1f,\"buckets\":[",
         name, h->total, h->total ? (double)h->sum / (double)h->total / 1e3 : 0.0,
         (double)percentile(h, .5) / 1e3, (double)percentile(h, .9) / 1e3, (double)percentile(h, .99) / 1e3,
         (double)percentile(h, .999) / 1e3, (double)h->max / 1e3);
  const char *comma = "";
  for (unsigned at = 0; at < OCTAVES * SUB; at++)
    if (h->count[at]) {
      printf("%s[%.1f,%" PRIu64 "]", comma, (double)edge(at) / 1e3, h->count[at]);
      comma = ",";
    }
  printf("]}");
}

static inline void watch(int epoll, int fd, uint32_t events, void *what, int add) {
  struct epoll_event event = {.events = events, .data.ptr = what};
  if (epoll_ctl(epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) < 0) die("epoll: %s", strerror(errno));
}

/* Read one line of commands; 0 at the end of the input. */
static inline int read_command(char *line, size_t size) {
  if (!fgets(line, (int)size, stdin)) return 0;
  line[strcspn(line, "\n")] = 0;
  return 1;
}
#endif
