/* The load client: holds streams, publishes at a rate, and checks every event that comes back.
 *
 * usage: load STREAM_PORT PUBLISH_PORT KIND STREAMS_FILE [READY]
 *   KIND          fcall (the gateway's script), publish (plain PUBLISH), or http (POST)
 *   STREAMS_FILE  a line a stream: session number, path, header line or "-", and where to publish for the
 *                 session (session id, channel or path), between tabs
 *   READY         text that shows that a stream is live; without it the head of the answer is enough
 *
 * Commands on standard input, each answered by one line of JSON:
 *   connect N AT_ONCE SECONDS          open streams until N are live
 *   publish RATE SECONDS SESSIONS TYPE publish to the sessions in turn, and wait until all has come
 *   missed EACH SESSIONS TYPE          publish EACH events to every session, closed streams or not
 *   hold SECONDS                       only read
 *   drop                               close all streams (they keep their place and their last event id)
 *
 * A payload holds "b":"<number in its session> <when it was due>". A number that is not the next one of its
 * stream is a gap or a duplicate. The rate is open-loop: events are due at fixed times whatever the server does,
 * and latency counts from when an event was due, so that a stall is seen by all events that it delays.
 */
#include "common.h"

enum { PAYLOAD = 330, IN = 1 << 18, NAP_NS = 200000, OFTEN_NS = 150000, MOST_EVENTS = 256 };
static const char MARK[] = "\"b\":\"";

enum state { IDLE, CONNECTING, WAITING, LIVE, ENDED };
struct stream {
  enum state state;
  int fd;
  unsigned session, next, carried;
  char *path, *header, *carry;
  char last_id[40];
};
struct session {
  unsigned published;
  char *name;
};
struct publisher {
  struct out out;
  int fd;
  unsigned skip; /* the rest of a bulk reply */
  char tail[16];
  unsigned have;
};

static struct stream *streams;
static struct session *sessions;
static struct publisher publishers[64];
static int stream_count, session_count, publisher_count, epoll, stream_port, timer_fd;
static enum { FCALL, PUBLISH, HTTP } kind;
static const char *ready = "";
static char input[IN];

static int live, opening;
static uint64_t received, gaps, duplicates, heartbeats, ended, refused, bytes_in, published, replied, publish_errors;
static uint64_t last_live;
static struct histogram latency, connecting;
static uint64_t *began;

/* -- streams ----------------------------------------------------------------------------------- */

static void begin_stream(struct stream *s) {
  s->fd = begin_connect(stream_port);
  s->state = CONNECTING;
  s->carried = 0;
  opening++;
  began[s - streams] = now_ns();
  watch(epoll, s->fd, EPOLLOUT, s, 1);
}

static void end_stream(struct stream *s, int by_server) {
  if (by_server) ended++;
  if (s->state == LIVE) live--;
  else opening--;
  close(s->fd);
  s->state = by_server ? ENDED : IDLE;
}

static void send_request(struct stream *s) {
  char request[4096];
  int size = snprintf(request, sizeof request,
                      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n%s%s%s%s%s\r\n", s->path,
                      stream_port, s->header, *s->header ? "\r\n" : "", *s->last_id ? "Last-Event-ID: " : "",
                      s->last_id, *s->last_id ? "\r\n" : "");
  if (send(s->fd, request, (size_t)size, MSG_NOSIGNAL) != size) {
    end_stream(s, 1);
    return;
  }
  s->state = WAITING;
  watch(epoll, s->fd, EPOLLIN, s, 0);
}

static void went_live(struct stream *s) {
  s->state = LIVE;
  opening--;
  live++;
  last_live = now_ns();
  record(&connecting, last_live - began[s - streams]);
}

static void take_frame(struct stream *s, const char *frame, size_t size, uint64_t now) {
  const char *id = memmem(frame, size < 64 ? size : 64, "id: ", 4);
  if (!id && size > 64) id = memmem(frame, size, "\nid: ", 5) ? (const char *)memmem(frame, size, "\nid: ", 5) + 1 : NULL;
  if (id) {
    id += 4;
    const char *end = memchr(id, '\n', (size_t)(frame + size - id));
    size_t length = end ? (size_t)(end - id) : 0;
    if (length && length < sizeof s->last_id) {
      memcpy(s->last_id, id, length);
      s->last_id[length] = 0;
    }
  }
  const char *mark = memmem(frame, size, MARK, sizeof MARK - 1);
  if (mark) {
    unsigned number = (unsigned)strtoul(mark + sizeof MARK - 1, NULL, 10);
    uint64_t due = strtoull(mark + sizeof MARK + 10, NULL, 10);
    received++;
    record(&latency, now > due ? now - due : 0);
    if (number == s->next) s->next++;
    else if (number > s->next) {
      gaps += number - s->next;
      s->next = number + 1;
    } else duplicates++;
  } else if (memmem(frame, size, "\"heartbeat\"", 11)) heartbeats++;
  if (s->state == WAITING && *ready && memmem(frame, size, ready, strlen(ready))) went_live(s);
}

static void read_stream(struct stream *s) {
  size_t carried = s->carried;
  if (carried) memcpy(input, s->carry, carried);
  ssize_t got = recv(s->fd, input + carried, IN - carried, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    end_stream(s, 1);
    return;
  }
  uint64_t now = now_ns();
  bytes_in += (uint64_t)got;
  char *at = input, *end = input + carried + (size_t)got;
  if (s->state == WAITING && !memcmp(at, "HTTP/1.", 7)) {
    char *head_end = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    if (head_end) {
      if (memcmp(at + 8, " 200", 4)) {
        refused++;
        if (refused == 1) fprintf(stderr, "refused: %.*s\n", (int)(end - at < 600 ? end - at : 600), at);
        end_stream(s, 1);
        return;
      }
      at = head_end + 4;
      if (!*ready) went_live(s);
    }
  }
  for (char *frame_end; (frame_end = memmem(at, (size_t)(end - at), "\n\n", 2)); at = frame_end + 2)
    take_frame(s, at, (size_t)(frame_end - at), now);
  s->carried = (unsigned)(end - at);
  if (s->carried) {
    /* Between frames at most a chunk's end is left; more belongs to a frame that came in parts. */
    s->carry = realloc(s->carry, s->carried);
    memcpy(s->carry, at, s->carried);
  }
}

static void stream_event(struct stream *s, uint32_t events) {
  if (s->state == CONNECTING) {
    int failed = 0;
    socklen_t size = sizeof failed;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed) {
      fprintf(stderr, "a connection failed: %s\n", strerror(failed));
      end_stream(s, 1);
    } else send_request(s);
  } else if (events) read_stream(s);
}

/* -- publishing -------------------------------------------------------------------------------- */

/* An envelope as agents publish it, complete, of exactly PAYLOAD bytes. */
static void make_payload(char *payload, const char *session, const char *type, unsigned number, uint64_t due) {
  const char *colon = kind == PUBLISH ? strchr(session, ':') : kind == HTTP ? strrchr(session, '/') : NULL;
  int size = snprintf(payload, PAYLOAD,
                      "{\"session_id\":\"%s\",\"type\":\"%s\",\"timestamp\":\"2026-01-01T00:00:00.000Z\","
                      "\"data\":{\"tool_name\":\"bash\",\"b\":\"%010u %019" PRIu64 "\",\"text\":\"",
                      colon ? colon + 1 : session, type, number, due);
  memset(payload + size, 'x', (size_t)(PAYLOAD - size - 3));
  memcpy(payload + PAYLOAD - 3, "\"}}", 3);
}

static void publish_one(unsigned at, const char *type, uint64_t due) {
  struct session *session = &sessions[at];
  struct publisher *p = &publishers[at % (unsigned)publisher_count];
  char command[PAYLOAD + 512], payload[PAYLOAD + 1];
  make_payload(payload, session->name, type, ++session->published, due);
  int size;
  if (kind == HTTP)
    size = snprintf(command, sizeof command,
                    "POST %s HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
                    session->name, PAYLOAD);
  else if (kind == FCALL)
    size = snprintf(command, sizeof command,
                    "*5\r\n$5\r\nFCALL\r\n$11\r\nsse_publish\r\n$1\r\n1\r\n$%zu\r\n%s\r\n$%d\r\n",
                    strlen(session->name), session->name, PAYLOAD);
  else
    size = snprintf(command, sizeof command, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%d\r\n", strlen(session->name),
                    session->name, PAYLOAD);
  memcpy(command + size, payload, PAYLOAD);
  size += PAYLOAD;
  if (kind != HTTP) {
    memcpy(command + size, "\r\n", 2);
    size += 2;
  }
  out_add(&p->out, command, (size_t)size);
  published++;
}

static void flush_publishers(void) {
  for (int at = 0; at < publisher_count; at++) {
    struct publisher *p = &publishers[at];
    if (p->out.start == p->out.end) continue;
    if (!out_flush(&p->out, p->fd)) die("the publishing connection was closed");
    if (p->out.start < p->out.end) watch(epoll, p->fd, EPOLLIN | EPOLLOUT, p, 0);
  }
}

static void count_http(struct publisher *p, char *at, size_t size) {
  char *end = at + size;
  char *found;
  while ((found = memmem(at, (size_t)(end - at), "HTTP/1.1 ", 9)) && found + 10 <= end) {
    replied++;
    if (found[9] != '2') {
      if (!publish_errors++) fprintf(stderr, "refused: %.*s\n", (int)(end - found < 300 ? end - found : 300), found);
    }
    at = found + 10;
  }
  size_t rest = (size_t)(end - at);
  p->have = rest < 9 ? (unsigned)rest : 9;
  memcpy(p->tail, end - p->have, p->have);
}

static void count_redis(struct publisher *p, char *at, size_t size) {
  char *end = at + size;
  while (at < end) {
    if (p->skip) {
      unsigned step = (size_t)(end - at) < p->skip ? (unsigned)(end - at) : p->skip;
      at += step;
      p->skip -= step;
      continue;
    }
    char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
    if (!line_end) break;
    replied++;
    if (*at == '-' && !publish_errors++) fprintf(stderr, "refused: %.*s\n", (int)(line_end - at), at);
    if (*at == '$') p->skip = (unsigned)atoi(at + 1) + 2;
    at = line_end + 2;
  }
  p->have = (unsigned)(end - at) < sizeof p->tail ? (unsigned)(end - at) : 0;
  memcpy(p->tail, at, p->have);
}

static void publisher_event(struct publisher *p, uint32_t events) {
  if (events & EPOLLOUT) {
    if (!out_flush(&p->out, p->fd)) die("the publishing connection was closed");
    if (p->out.start == p->out.end) watch(epoll, p->fd, EPOLLIN, p, 0);
  }
  if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
  memcpy(input, p->tail, p->have);
  ssize_t got = recv(p->fd, input + p->have, IN - p->have, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) die("the publishing connection was closed");
  (kind == HTTP ? count_http : count_redis)(p, input, p->have + (size_t)got);
}

/* -- one turn, and the commands ---------------------------------------------------------------- */

static int turn(int milliseconds) {
  struct epoll_event events[MOST_EVENTS];
  int found = epoll_wait(epoll, events, MOST_EVENTS, milliseconds);
  for (int i = 0; i < found; i++) {
    char *what = events[i].data.ptr;
    if (what == (char *)&timer_fd) {
      uint64_t ticks;
      if (read(timer_fd, &ticks, sizeof ticks) < 0) continue;
    } else if (what >= (char *)publishers && what < (char *)(publishers + 64))
      publisher_event((struct publisher *)what, events[i].events);
    else stream_event((struct stream *)what, events[i].events);
  }
  return found;
}

static void forget(void) {
  received = gaps = duplicates = heartbeats = ended = refused = bytes_in = published = replied = publish_errors = 0;
  memset(&latency, 0, sizeof latency);
  memset(&connecting, 0, sizeof connecting);
}

static void report(double seconds, uint64_t wanted, double publishing_seconds) {
  printf("{\"seconds\":%.4f,\"publishing_seconds\":%.4f,\"live\":%d,\"published\":%" PRIu64 ",\"replied\":%" PRIu64
         ",\"publish_errors\":%" PRIu64 ",\"wanted\":%" PRIu64 ",\"received\":%" PRIu64 ",\"gaps\":%" PRIu64
         ",\"duplicates\":%" PRIu64 ",\"heartbeats\":%" PRIu64 ",\"ended\":%" PRIu64 ",\"refused\":%" PRIu64
         ",\"bytes\":%" PRIu64 ",",
         seconds, publishing_seconds, live, published, replied, publish_errors, wanted, received, gaps, duplicates,
         heartbeats, ended, refused, bytes_in);
  print_histogram("latency", &latency);
  printf(",");
  print_histogram("connecting", &connecting);
  printf("}\n");
  fflush(stdout);
}

/* How many events of the sessions' latest the live streams have still to get. */
static uint64_t outstanding(void) {
  uint64_t left = 0;
  for (int at = 0; at < stream_count; at++)
    if (streams[at].state == LIVE) left += sessions[streams[at].session].published + 1 - streams[at].next;
  return left;
}

static void connect_streams(int count, int at_once, double seconds) {
  forget();
  uint64_t start = now_ns(), limit = start + (uint64_t)(seconds * 1e9), wanted = 0;
  int next = 0;
  for (int at = 0; at < count; at++) {
    struct stream *s = &streams[at];
    if (!*s->last_id) s->next = sessions[s->session].published + 1;
    if (s->state == IDLE) wanted += sessions[s->session].published + 1 - s->next;
  }
  while (now_ns() < limit) {
    for (; next < count && opening < at_once; next++)
      if (streams[next].state == IDLE) begin_stream(&streams[next]);
    if (next == count && !opening && received >= wanted) break;
    turn(100);
  }
  report((double)(last_live - start) / 1e9, wanted, 0);
}

static void publish_events(double rate, double seconds, unsigned count, const char *type) {
  forget();
  uint64_t start = now_ns(), wanted = 0, sent = 0, total = (uint64_t)(rate * seconds);
  double each = 1e9 / rate;
  for (int at = 0; at < stream_count; at++)
    if (streams[at].state == LIVE && streams[at].session < count) wanted += total / count + (streams[at].session < total % count);
  unsigned offset = 0;
  while (sent < total) {
    uint64_t now = now_ns();
    for (uint64_t due; sent < total && (due = start + (uint64_t)((double)sent * each)) <= now; sent++) {
      publish_one(offset, type, due);
      if (++offset == count) offset = 0;
    }
    flush_publishers();
    if (each < OFTEN_NS) {
      /* Waking for each event would take the core from Redis, which shares it. What is read later counts as late. */
      struct timespec nap = {0, NAP_NS};
      nanosleep(&nap, NULL);
      while (turn(0) == MOST_EVENTS) {}
    } else {
      uint64_t next = start + (uint64_t)((double)sent * each), wait = next > now ? next - now : 1;
      struct itimerspec due = {{0, 0}, {(time_t)(wait / 1000000000), (long)(wait % 1000000000)}};
      timerfd_settime(timer_fd, 0, &due, NULL);
      turn(100);
    }
  }
  double publishing = (double)(now_ns() - start) / 1e9;
  uint64_t until = now_ns() + 5000000000ull, done = now_ns();
  while (now_ns() < until && (received + gaps < wanted || replied < published)) {
    turn(50);
    done = now_ns();
  }
  gaps += received + gaps < wanted ? wanted - received - gaps : 0;
  report((double)(done - start) / 1e9, wanted, publishing);
}

static void publish_missed(unsigned each, unsigned count, const char *type) {
  forget();
  uint64_t start = now_ns();
  for (unsigned turn_number = 0; turn_number < each; turn_number++)
    for (unsigned at = 0; at < count; at++) {
      publish_one(at, type, now_ns());
      if (at % 256 == 255 || at + 1 == count) {
        flush_publishers();
        while (published - replied > 2000) turn(10);
      }
    }
  uint64_t limit = now_ns() + 30000000000ull;
  while (replied < published && now_ns() < limit) turn(10);
  report((double)(now_ns() - start) / 1e9, 0, 0);
}

static void hold(double seconds) {
  forget();
  uint64_t start = now_ns(), until = start + (uint64_t)(seconds * 1e9);
  while (now_ns() < until) turn(100);
  report((double)(now_ns() - start) / 1e9, 0, 0);
}

static void drop(void) {
  forget();
  for (int at = 0; at < stream_count; at++)
    if (streams[at].state != IDLE && streams[at].state != ENDED) end_stream(&streams[at], 0);
  report(0, 0, 0);
}

static void read_streams(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) die("%s: %s", path, strerror(errno));
  char *line = NULL;
  size_t room = 0, have = 0;
  while (getline(&line, &room, file) > 0) {
    line[strcspn(line, "\n")] = 0;
    char *rest = line, *number = strsep(&rest, "\t"), *at = strsep(&rest, "\t"), *header = strsep(&rest, "\t");
    if (!rest) die("a line of %s has too few fields", path);
    if ((size_t)stream_count == have) streams = realloc(streams, (have = have * 2 + 64) * sizeof *streams);
    struct stream *s = &streams[stream_count++];
    memset(s, 0, sizeof *s);
    s->session = (unsigned)atoi(number);
    s->path = strdup(at);
    s->header = strdup(strcmp(header, "-") ? header : "");
    while (session_count <= (int)s->session) {
      sessions = realloc(sessions, (size_t)(session_count + 1) * sizeof *sessions);
      memset(&sessions[session_count++], 0, sizeof *sessions);
    }
    if (!sessions[s->session].name) sessions[s->session].name = strdup(rest);
  }
  free(line);
  fclose(file);
  began = calloc((size_t)stream_count, sizeof *began);
}

int main(int argc, char **argv) {
  if (argc < 5) die("usage: load STREAM_PORT PUBLISH_PORT KIND STREAMS_FILE [READY]");
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  stream_port = atoi(argv[1]);
  kind = !strcmp(argv[3], "fcall") ? FCALL : !strcmp(argv[3], "publish") ? PUBLISH : HTTP;
  if (argc > 5) ready = argv[5];
  epoll = epoll_create1(0);
  timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  watch(epoll, timer_fd, EPOLLIN, &timer_fd, 1);
  /* Over HTTP an answer may take a while, and the next request on its connection waits for it. */
  publisher_count = kind == HTTP ? 64 : 1;
  for (int at = 0; at < publisher_count; at++) {
    publishers[at].fd = connect_now(atoi(argv[2]));
    watch(epoll, publishers[at].fd, EPOLLIN, &publishers[at], 1);
  }
  read_streams(argv[4]);
  char line[256], type[64] = "tool_output";
  while (read_command(line, sizeof line)) {
    double a = 0, b = 0, c = 0;
    if (sscanf(line, "connect %lf %lf %lf", &a, &b, &c) == 3) connect_streams((int)a, (int)b, c);
    else if (sscanf(line, "publish %lf %lf %lf %63s", &a, &b, &c, type) == 4) publish_events(a, b, (unsigned)c, type);
    else if (sscanf(line, "missed %lf %lf %63s", &a, &b, type) == 3) publish_missed((unsigned)a, (unsigned)b, type);
    else if (sscanf(line, "hold %lf", &a) == 1) hold(a);
    else if (!strcmp(line, "drop")) drop();
    else if (!strcmp(line, "left")) printf("{\"left\":%" PRIu64 "}\n", outstanding()), fflush(stdout);
    else die("what is %s?", line);
  }
}
