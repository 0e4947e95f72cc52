/* Answers permission requests at a rate, as browsers do, and waits for the decisions as an agent does.
 *
 * usage: answers HTTP_PORT REDIS_PORT REQUESTS_FILE
 *   REQUESTS_FILE  a line an open request, in the order of their numbers: path, header line, body, and the channel
 *                  on which its agent hears the decision, between tabs; its request id is q and 8 digits
 *
 * Command on standard input, answered by one line of JSON:
 *   answer RATE SECONDS   POST the next RATE * SECONDS answers, and wait until every agent has heard
 *
 * Open-loop: an answer is due at a fixed time, and goes out on the first of 64 kept connections that is free.
 */
#include "common.h"

enum { CONNECTIONS = 64, IN = 1 << 16 };
struct request {
  char *text;
  size_t size;
  uint64_t due;
  char heard;
};
struct browser {
  int fd;
  unsigned request, have;
  char in[8192];
};

static struct request *requests;
static struct browser browsers[CONNECTIONS], *idle[CONNECTIONS];
static unsigned request_count, idle_count, next_sent;
static int epoll, http_port, redis;
static char input[IN + 1];
static size_t carried;
static uint64_t heard, twice, answered, errors;
static struct histogram to_agent, to_browser;

static void send_answer(unsigned at) {
  struct browser *b = idle[--idle_count];
  b->request = at;
  b->have = 0;
  if (send(b->fd, requests[at].text, requests[at].size, MSG_NOSIGNAL) != (ssize_t)requests[at].size)
    die("a request could not be sent");
}

static void read_answer(struct browser *b) {
  ssize_t got = recv(b->fd, b->in + b->have, sizeof b->in - 1 - b->have, 0);
  if (got <= 0) die("the server closed a kept connection");
  b->have += (unsigned)got;
  b->in[b->have] = 0;
  char *head_end = strstr(b->in, "\r\n\r\n"), *length = strcasestr(b->in, "content-length: ");
  if (!head_end || !length || b->have < (size_t)(head_end + 4 - b->in) + strtoul(length + 16, NULL, 10)) return;
  record(&to_browser, now_ns() - requests[b->request].due);
  answered++;
  if (memcmp(b->in + 8, " 200", 4) && !errors++) fprintf(stderr, "refused: %s\n", b->in);
  idle[idle_count++] = b;
}

static void hear(void) {
  ssize_t got = recv(redis, input + carried, IN - carried, 0);
  if (got <= 0) die("the agent's connection was closed");
  uint64_t now = now_ns();
  char *at = input, *end = input + carried + got;
  /* Decisions are one member after the other in one line; a message's end is not needed. */
  for (char *found; (found = memmem(at, (size_t)(end - at), "\"request_id\":\"q", 15)); at = found + 15) {
    if (found + 24 > end) {
      at = found;
      break;
    }
    unsigned number = (unsigned)strtoul(found + 15, NULL, 10);
    if (number < request_count && requests[number].due && !requests[number].heard++) {
      heard++;
      record(&to_agent, now - requests[number].due);
    } else twice++;
  }
  carried = end - at > 40 && memcmp(at, "\"request_id\":\"q", 15) ? 40 : (size_t)(end - at);
  memmove(input, end - carried, carried);
}

static void turn(int milliseconds) {
  struct epoll_event events[64];
  int found = epoll_wait(epoll, events, 64, milliseconds);
  for (int i = 0; i < found; i++)
    if (events[i].data.ptr == NULL) hear();
    else read_answer(events[i].data.ptr);
}

static void answer(double rate, double seconds) {
  heard = twice = answered = errors = 0;
  memset(&to_agent, 0, sizeof to_agent);
  memset(&to_browser, 0, sizeof to_browser);
  uint64_t start = now_ns();
  unsigned total = (unsigned)(rate * seconds), due = 0, sent = 0, first = next_sent;
  if (first + total > request_count) die("there are not so many open requests");
  while (sent < total || answered < total || heard < total) {
    uint64_t now = now_ns();
    for (uint64_t when; due < total && (when = start + (uint64_t)(due * 1e9 / rate)) <= now; due++)
      requests[first + due].due = when;
    while (sent < due && idle_count) send_answer(first + sent++);
    if (now - start > (uint64_t)(seconds * 1e9) + 10000000000ull) break;
    turn(due < total ? 1 : 20);
  }
  next_sent += sent;
  printf("{\"seconds\":%.4f,\"wanted\":%u,\"answered\":%" PRIu64 ",\"heard\":%" PRIu64 ",\"twice\":%" PRIu64
         ",\"errors\":%" PRIu64 ",",
         (double)(now_ns() - start) / 1e9, total, answered, heard, twice, errors);
  print_histogram("to_agent", &to_agent);
  printf(",");
  print_histogram("to_browser", &to_browser);
  printf("}\n");
  fflush(stdout);
}

static void subscribe(const char *channel) {
  char command[512];
  int size = snprintf(command, sizeof command, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%s\r\n", strlen(channel), channel);
  if (send(redis, command, (size_t)size, MSG_NOSIGNAL) != size) die("SUBSCRIBE could not be sent");
}

static void read_requests(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) die("%s: %s", path, strerror(errno));
  char *line = NULL, last[256] = "", text[8192];
  size_t room = 0, have = 0;
  while (getline(&line, &room, file) > 0) {
    line[strcspn(line, "\n")] = 0;
    char *rest = line, *at = strsep(&rest, "\t"), *header = strsep(&rest, "\t"), *body = strsep(&rest, "\t");
    if (!rest) die("a line of %s has too few fields", path);
    if (request_count == have) requests = realloc(requests, (have = have * 2 + 64) * sizeof *requests);
    struct request *r = &requests[request_count++];
    memset(r, 0, sizeof *r);
    r->size = (size_t)snprintf(text, sizeof text,
                               "POST %s HTTP/1.1\r\nHost: b\r\n%s\r\nContent-Type: application/json\r\n"
                               "Content-Length: %zu\r\n\r\n%s",
                               at, header, strlen(body), body);
    r->text = strdup(text);
    if (strcmp(rest, last)) subscribe(rest);
    snprintf(last, sizeof last, "%s", rest);
  }
  fclose(file);
}

int main(int argc, char **argv) {
  if (argc != 4) die("usage: answers HTTP_PORT REDIS_PORT REQUESTS_FILE");
  signal(SIGPIPE, SIG_IGN);
  http_port = atoi(argv[1]);
  epoll = epoll_create1(0);
  redis = connect_now(atoi(argv[2]));
  read_requests(argv[3]);
  watch(epoll, redis, EPOLLIN, NULL, 1);
  for (int at = 0; at < CONNECTIONS; at++) {
    browsers[at].fd = connect_now(http_port);
    watch(epoll, browsers[at].fd, EPOLLIN, &browsers[at], 1);
    idle[idle_count++] = &browsers[at];
  }
  char line[256];
  while (read_command(line, sizeof line)) {
    double rate, seconds;
    if (sscanf(line, "answer %lf %lf", &rate, &seconds) != 2) die("what is %s?", line);
    answer(rate, seconds);
  }
}
