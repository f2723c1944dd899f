// Guest program of the benchmarks: ordinary work, counted, so that what a service costs the guest can be told from outside.
// A line server on TCP port 7001: one of the words below or "off" chooses the work, "count" answers "ok UNITS" done so far.
//
//   compile  tcc translates the source of the xxHash library again and again; a unit is one translation
//   redis    a table of 65,536 values of 400 bytes: nine of ten requests read, one writes; a unit is 1,000 requests
//   idle     wakes up every 10 ms and computes for a moment; a unit is one wake-up
//   fsync    overwrites /dev/vdb: 4 KiB at a random place, past the page cache, and fdatasync; a unit is one write.
//            Without such a disk the units stand still
//   direct   the same without fdatasync
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7001, VALUES = 65536, VALUE_BYTES = 400, REQUESTS = 1000, BLOCK_BYTES = 4096, LINE_MAX_BYTES = 64 };
enum kind { OFF, COMPILE, REDIS, IDLE, FSYNC, DIRECT };

static _Atomic enum kind wanted = OFF;
static sem_t chosen;
static atomic_ullong units;
static atomic_ullong read_sum;  // so that the reads are not optimised away
static char table[VALUES][VALUE_BYTES];

static void pause_ms(long ms) { nanosleep(&(struct timespec){0, ms * 1000000}, NULL); }

static uint64_t next_random(uint64_t *x) {
  *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
  return *x;
}

static int compile(void) {
  pid_t child = fork();
  if (child == 0) {
    execl("/bin/tcc", "tcc", "-c", "/root/xxhash.i", "-o", "/tmp/xxhash.o", (char *)NULL);
    _exit(127);
  }
  int status;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void requests(uint64_t *random) {
  for (int i = 0; i < REQUESTS; i++) {
    uint64_t r = next_random(random);
    char *value = table[r % VALUES];
    if (r >> 32 & 7 || r >> 40 & 1) {
      uint64_t sum = 0;
      for (int at = 0; at < VALUE_BYTES; at += 8) sum += *(uint64_t *)(value + at);
      atomic_store(&read_sum, sum);
    } else {
      memset(value, (int)(r >> 16), VALUE_BYTES);
    }
  }
}

// The content does not compress, and no two blocks are the same.
static int write_block(uint64_t *random, int sync) {
  static _Alignas(BLOCK_BYTES) uint64_t block[BLOCK_BYTES / sizeof(uint64_t)];
  static int disk = -1;
  static off_t blocks;
  if (disk < 0) {
    disk = open("/dev/vdb", O_RDWR | O_DIRECT | O_CLOEXEC);
    blocks = lseek(disk, 0, SEEK_END) / BLOCK_BYTES;
    for (size_t i = 0; i < sizeof block / sizeof *block; i++) block[i] = next_random(random);
  }
  if (disk < 0 || blocks == 0) return 0;
  block[0] = next_random(random);
  off_t at = (off_t)(next_random(random) % (uint64_t)blocks) * BLOCK_BYTES;
  return pwrite(disk, block, sizeof block, at) == BLOCK_BYTES && (!sync || fdatasync(disk) == 0);
}

static void *work(void *unused) {
  (void)unused;
  uint64_t random = 88172645463325252u;
  for (;;) {
    int done = 1;
    switch (wanted) {
      case COMPILE: done = compile(); break;
      case REDIS: requests(&random); break;
      case IDLE:
        pause_ms(10);
        for (int i = 0; i < 10000; i++) next_random(&random);
        break;
      case FSYNC: done = write_block(&random, 1); break;
      case DIRECT: done = write_block(&random, 0); break;
      case OFF: sem_wait(&chosen); continue;
    }
    if (done) {
      atomic_fetch_add(&units, 1);
    } else {
      pause_ms(100);
    }
  }
  return NULL;
}

static void answer(int link, char *line) {
  static const char *const names[] = {[OFF] = "off",   [COMPILE] = "compile", [REDIS] = "redis",
                                      [IDLE] = "idle", [FSYNC] = "fsync",     [DIRECT] = "direct"};
  line[strcspn(line, "\r\n")] = 0;
  for (int kind = OFF; kind <= DIRECT; kind++) {
    if (!strcmp(line, names[kind])) {
      wanted = (enum kind)kind;
      sem_post(&chosen);
      dprintf(link, "ok\n");
      return;
    }
  }
  if (!strcmp(line, "count")) {
    dprintf(link, "ok %llu\n", (unsigned long long)units);
  } else {
    dprintf(link, "error commands: compile redis idle fsync direct off count\n");
  }
}

int main(void) {
  int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  pthread_t worker;
  sem_init(&chosen, 0, 0);
  if (bind(server, (struct sockaddr *)&at, sizeof at) || listen(server, 4) || pthread_create(&worker, NULL, work, NULL)) return 1;
  for (;;) {
    int link = accept4(server, NULL, NULL, SOCK_CLOEXEC);
    if (link < 0) continue;
    setsockopt(link, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    char line[LINE_MAX_BYTES];
    ssize_t n = recv(link, line, sizeof line - 1, 0);
    if (n > 0) {
      line[n] = 0;
      answer(link, line);
    }
    close(link);
  }
}
