// Guest program of the tests: RAM and disk that check themselves, and a line server on TCP port 7000.
//
// RAM: every 4 KiB page holds  magic | index | generation | seed | 507 words derived from them | checksum  (all u64).
//   A table beside the pages holds the generation each page must have, so that a page which comes back from another
//   moment is found although it is whole by itself. One worker thread a CPU rewrites random pages of its stripe
//   (page % workers) and verifies the others in turn.
// Disk: /dev/vda is used only when its first block starts with DISK_MAGIC. At 1 MiB stands a journal of 256 blocks
//   that one thread rewrites and reads back (O_DIRECT); the generation of each is mirrored in RAM. At 3 MiB stand 64
//   blocks, one a key: `set` writes RAM and disk, `check` compares them.
// Locks: a worker's lock guards its stripe; disk_lock guards the journal; only the server thread touches the keys.
//   Order: workers by number, then disk_lock.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = 512, PORT = 7000, WORKERS_MAX = 4, CLIENTS_MAX = 16, LINE_MAX_BYTES = 1024 };
enum { JOURNAL_BLOCKS = 256, KEYS = 64, KEY_BYTES = 64, VALUE_BYTES = 512 };
#define DISK_MAGIC "MHV-SELFCHECK-DISK\n"
static const off_t journal_at = 1 << 20, keys_at = 3 << 20;
static const uint64_t page_magic = 0x31454741504d4856, block_magic = 0x314b53494456484d;  // "VHMPAGE1", "MHVDISK1"

typedef uint64_t Page[WORDS];
struct worker { pthread_mutex_t lock; uint64_t random; };
struct key { uint64_t magic, used; char name[KEY_BYTES], value[VALUE_BYTES]; uint64_t sum; };

static Page *pages;
static uint32_t *expected;  // generation of each page
static size_t pages_max;
static atomic_size_t page_count;
static int workers;
static struct worker worker[WORKERS_MAX];
static uint64_t seed;
static atomic_ullong written, verified, bad_pages, bad_blocks;
static atomic_uint write_rate = 100, verify_rate = 2000, disk_rate = 5;  // a second, all workers together

static int disk = -1;
static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t journal[JOURNAL_BLOCKS];  // generation on the disk; 0: never written
static struct key keys[KEYS];

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
static uint64_t next_random(uint64_t *state) { return mix(*state += 0x9e3779b97f4a7c15); }

static int64_t now_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void pause_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static void say(const char *format, ...) {
  char text[256];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (n > 0 && write(1, text, n < (int)sizeof text ? n : (int)sizeof text - 1) < 0) return;
}

// ---------------------------------------------------------------- one self-checking block of 4 KiB
static uint64_t step(uint64_t *x) {
  *x += 0x9e3779b97f4a7c15;
  return *x ^ (*x >> 29);
}
static void build(uint64_t *word, uint64_t magic, uint64_t index, uint64_t generation, uint64_t with) {
  uint64_t x = mix(with ^ index * 0x9e3779b97f4a7c15 ^ generation << 17), sum = 0;
  word[0] = magic, word[1] = index, word[2] = generation, word[3] = with;
  for (int i = 4; i < WORDS - 1; i++) word[i] = step(&x);
  for (int i = 0; i < WORDS - 1; i++) sum = (sum ^ word[i]) * 0x100000001b3 + (sum >> 47);
  word[WORDS - 1] = sum;
}
static int right(const uint64_t *word, uint64_t magic, uint64_t index, uint64_t generation, uint64_t with) {
  uint64_t x = mix(with ^ index * 0x9e3779b97f4a7c15 ^ generation << 17), sum = 0, wrong = 0;
  wrong |= (word[0] ^ magic) | (word[1] ^ index) | (word[2] ^ generation) | (word[3] ^ with);
  for (int i = 4; i < WORDS - 1; i++) wrong |= word[i] ^ step(&x);
  for (int i = 0; i < WORDS - 1; i++) sum = (sum ^ word[i]) * 0x100000001b3 + (sum >> 47);
  return !(wrong | (word[WORDS - 1] ^ sum));
}

// ---------------------------------------------------------------- RAM
static void write_page(size_t p) {
  build(pages[p], page_magic, p, ++expected[p], seed);
  atomic_fetch_add(&written, 1);
}
static void verify_page(size_t p) {
  atomic_fetch_add(&verified, 1);
  if (right(pages[p], page_magic, p, expected[p], seed)) return;
  if (atomic_fetch_add(&bad_pages, 1) < 20)
    say("MHV: BAD page=%zu expected_gen=%u gen=%llu index=%llu\n", p, expected[p], (unsigned long long)pages[p][2],
        (unsigned long long)pages[p][1]);
}

static void *work(void *arg) {
  size_t me = (size_t)arg, turn = 0;
  double writes = 0, checks = 0;
  int64_t last = now_ns(CLOCK_MONOTONIC);
  for (;;) {
    pause_ms(10);
    int64_t now = now_ns(CLOCK_MONOTONIC);
    double s = (now - last) / 1e9;
    last = now;
    if (s < 0 || s > 0.1) s = 0.1;  // the clock may jump in a restore
    writes += s * atomic_load(&write_rate) / workers;
    checks += s * atomic_load(&verify_rate) / workers;
    size_t mine = atomic_load(&page_count) / workers;
    pthread_mutex_lock(&worker[me].lock);
    for (; mine && writes >= 1; writes--) write_page(next_random(&worker[me].random) % mine * workers + me);
    for (; mine && checks >= 1; checks--) verify_page(turn++ % mine * workers + me);
    pthread_mutex_unlock(&worker[me].lock);
  }
  return NULL;
}

static void lock_all(void) {
  for (int i = 0; i < workers; i++) pthread_mutex_lock(&worker[i].lock);
  pthread_mutex_lock(&disk_lock);
}
static void unlock_all(void) {
  pthread_mutex_unlock(&disk_lock);
  for (int i = workers; i-- > 0;) pthread_mutex_unlock(&worker[i].lock);
}

// Grows the checked RAM to `mib`; false when that is more than the guest has room for.
static int grow(size_t mib) {
  size_t want = mib * 256 / workers * workers, have = atomic_load(&page_count);
  if (want > pages_max) return 0;
  for (size_t p = have; p < want; p++) write_page(p);  // no worker touches it before page_count says so
  if (want > have) atomic_store(&page_count, want);
  return 1;
}

static uint64_t fingerprint(void) {
  uint64_t all = 0;
  lock_all();
  size_t n = atomic_load(&page_count);
  for (size_t p = 0; p < n; p++)
    for (int i = 0; i < WORDS; i++) all = (all ^ pages[p][i]) * 0x100000001b3 + (all >> 47);
  unlock_all();
  return all;
}

// ---------------------------------------------------------------- disk
static int transfer(int writing, void *block, off_t at) {
  ssize_t n = writing ? pwrite(disk, block, PAGE, at) : pread(disk, block, PAGE, at);
  return n == PAGE;
}
static void bad_block(const char *what, size_t slot, uint64_t want, uint64_t have) {
  if (atomic_fetch_add(&bad_blocks, 1) < 20)
    say("MHV: BAD disk %s=%zu expected_gen=%llu gen=%llu\n", what, slot, (unsigned long long)want, (unsigned long long)have);
}
static void verify_block(size_t slot, uint64_t *block) {
  if (!journal[slot]) return;
  if (!transfer(0, block, journal_at + slot * PAGE))
    bad_block("unreadable block", slot, journal[slot], 0);
  else if (!right(block, block_magic, slot, journal[slot], block[3]))
    bad_block("block", slot, journal[slot], block[2]);
}
static void write_block(size_t slot, uint64_t *block) {
  build(block, block_magic, slot, journal[slot] + 1, seed);
  if (transfer(1, block, journal_at + slot * PAGE))
    journal[slot]++;
  else
    bad_block("unwritable block", slot, journal[slot] + 1, 0);
}
static void *aligned_block(void) {
  void *block;
  if (posix_memalign(&block, PAGE, PAGE)) abort();
  return memset(block, 0, PAGE);
}

static void *disk_work(void *unused) {
  (void)unused;
  uint64_t random = seed ^ 0xd15c, *block = aligned_block();
  for (double budget = 0;;) {
    pause_ms(100);
    budget += atomic_load(&disk_rate) * 0.1;
    for (; budget >= 1; budget--) {
      pthread_mutex_lock(&disk_lock);
      write_block(next_random(&random) % JOURNAL_BLOCKS, block);
      verify_block(next_random(&random) % JOURNAL_BLOCKS, block);
      pthread_mutex_unlock(&disk_lock);
    }
  }
  return NULL;
}

static uint64_t key_sum(const struct key *k) {
  const unsigned char *bytes = (const unsigned char *)k;
  uint64_t sum = 14695981039346656037u;
  for (size_t i = 0; i < offsetof(struct key, sum); i++) sum = (sum ^ bytes[i]) * 0x100000001b3;
  return sum;
}
static int store_key(size_t slot) {
  keys[slot].magic = block_magic;
  keys[slot].sum = key_sum(&keys[slot]);
  if (disk < 0) return 1;
  static uint64_t *block;
  if (!block) block = aligned_block();
  memcpy(block, &keys[slot], sizeof keys[slot]);
  return transfer(1, block, keys_at + slot * PAGE);
}
static int read_key(size_t slot, struct key *out) {
  static uint64_t *block;
  if (!block) block = aligned_block();
  if (!transfer(0, block, keys_at + slot * PAGE)) return 0;
  memcpy(out, block, sizeof *out);
  return out->magic == 0 || (out->magic == block_magic && out->sum == key_sum(out));
}

// Opens the disk, and takes over what an earlier boot left on it.
static void open_disk(const char *path) {
  uint64_t *block = aligned_block();
  int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return;
  disk = fd;
  if (!transfer(0, block, 0) || memcmp(block, DISK_MAGIC, strlen(DISK_MAGIC))) {
    close(fd);
    disk = -1;
    return;
  }
  for (size_t i = 0; i < JOURNAL_BLOCKS; i++) {
    if (!transfer(0, block, journal_at + i * PAGE) || block[0] != block_magic) continue;
    if (right(block, block_magic, i, block[2], block[3])) journal[i] = block[2];
    else bad_block("block at start", i, 0, block[2]);
  }
  for (size_t i = 0; i < KEYS; i++)
    if (!read_key(i, &keys[i])) {
      bad_block("key at start", i, 0, 0);
      memset(&keys[i], 0, sizeof keys[i]);
    }
}

// Everything, now: all pages, all journal blocks, all keys against the disk.
static void check_all(void) {
  uint64_t *block = aligned_block();
  lock_all();
  size_t n = atomic_load(&page_count);
  for (size_t p = 0; p < n; p++) verify_page(p);
  for (size_t i = 0; disk >= 0 && i < JOURNAL_BLOCKS; i++) verify_block(i, block);
  unlock_all();
  free(block);
  for (size_t i = 0; disk >= 0 && i < KEYS; i++) {
    struct key there;
    if (!read_key(i, &there) || there.used != keys[i].used || (there.used && memcmp(&there, &keys[i], sizeof there)))
      bad_block("key", i, keys[i].used, there.used);
  }
}

// ---------------------------------------------------------------- the line server
static struct key *find_key(const char *name, int make) {
  struct key *room = NULL;
  for (size_t i = 0; i < KEYS; i++) {
    if (keys[i].used && !strcmp(keys[i].name, name)) return &keys[i];
    if (!keys[i].used && !room) room = &keys[i];
  }
  return make ? room : NULL;
}

static void status(char *out, size_t size) {
  unsigned long long blocks = atomic_load(&bad_blocks);
  size_t used = 0;
  for (size_t i = 0; i < KEYS; i++) used += keys[i].used;
  snprintf(out, size, "ok gen=%llu pages=%zu bad=%llu disk=%s checked=%llu rate=%u keys=%zu boot=%016llx", (unsigned long long)written,
           (size_t)page_count, (unsigned long long)bad_pages, disk < 0 ? "none" : blocks ? "bad" : "ok", (unsigned long long)verified,
           (unsigned)write_rate, used, (unsigned long long)seed);
}

static void set_key(const char *name, const char *value, char *out, size_t size) {
  struct key *k = find_key(name, 1);
  if (!*name || strlen(name) >= KEY_BYTES || strlen(value) >= VALUE_BYTES) {
    snprintf(out, size, "error a key has 1 to %d bytes, a value at most %d", KEY_BYTES - 1, VALUE_BYTES - 1);
  } else if (!k) {
    snprintf(out, size, "error all %d keys are in use", KEYS);
  } else {
    memset(k, 0, sizeof *k);
    k->used = 1;
    strcpy(k->name, name);
    strcpy(k->value, value);
    snprintf(out, size, store_key(k - keys) ? "ok" : "error the disk refused the write");
  }
}
static void del_key(const char *name, char *out, size_t size) {
  struct key *k = find_key(name, 0);
  if (!k) {
    snprintf(out, size, "error no such key");
    return;
  }
  memset(k, 0, sizeof *k);
  snprintf(out, size, store_key(k - keys) ? "ok" : "error the disk refused the write");
}

static void set_rate(atomic_uint *rate, const char *text, char *out, size_t size) {
  char *end;
  unsigned long n = strtoul(text, &end, 10);
  if (end == text || *end || n > 10000000) {
    snprintf(out, size, "error a rate is a number from 0 to 10000000");
    return;
  }
  atomic_store(rate, n);
  snprintf(out, size, "ok");
}

static void answer(char *line, char *out, size_t size) {
  char *save = NULL, *verb = strtok_r(line, " \r", &save), *a = strtok_r(NULL, " \r", &save), *rest = strtok_r(NULL, "\r", &save);
  if (!verb) verb = "";
  if (!a) a = "";
  if (!strcmp(verb, "status")) {
    status(out, size);
  } else if (!strcmp(verb, "check")) {
    check_all();
    status(out, size);
  } else if (!strcmp(verb, "set")) {
    set_key(a, rest ? rest : "", out, size);
  } else if (!strcmp(verb, "get")) {
    struct key *k = find_key(a, 0);
    if (k) snprintf(out, size, "ok %s", k->value);
    else snprintf(out, size, "error no such key");
  } else if (!strcmp(verb, "del")) {
    del_key(a, out, size);
  } else if (!strcmp(verb, "fill")) {
    if (grow(strtoul(a, NULL, 10))) snprintf(out, size, "ok pages=%zu", (size_t)page_count);
    else snprintf(out, size, "error only %zu pages fit", pages_max);
  } else if (!strcmp(verb, "rate")) {
    set_rate(&write_rate, a, out, size);
  } else if (!strcmp(verb, "verify")) {
    set_rate(&verify_rate, a, out, size);
  } else if (!strcmp(verb, "disk-rate")) {
    set_rate(&disk_rate, a, out, size);
  } else if (!strcmp(verb, "clock")) {
    snprintf(out, size, "ok monotonic_ns=%lld realtime_ns=%lld", (long long)now_ns(CLOCK_MONOTONIC), (long long)now_ns(CLOCK_REALTIME));
  } else if (!strcmp(verb, "mem-fingerprint")) {
    snprintf(out, size, "ok %016llx", (unsigned long long)fingerprint());
  } else {
    snprintf(out, size, "error commands: status check set get del fill rate verify disk-rate clock mem-fingerprint");
  }
}

struct client { int fd; size_t have; char line[LINE_MAX_BYTES]; };

// Answers every whole line in the buffer; false when the client is to be dropped.
static int serve(struct client *c) {
  ssize_t n = recv(c->fd, c->line + c->have, sizeof c->line - c->have, MSG_DONTWAIT);
  if (n <= 0) return n < 0 && errno == EAGAIN;
  c->have += n;
  for (char *end; (end = memchr(c->line, '\n', c->have));) {
    char out[VALUE_BYTES + 64];
    *end = 0;
    size_t used = end + 1 - c->line;
    answer(c->line, out, sizeof out - 1);
    strcat(out, "\n");
    if (send(c->fd, out, strlen(out), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return 0;
    memmove(c->line, end + 1, c->have -= used);
  }
  return c->have < sizeof c->line;
}

static void take_client(int listener, struct client *clients, size_t *oldest) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), slot = -1;
  if (fd < 0) return;
  for (int i = 0; i < CLIENTS_MAX; i++)
    if (clients[i].fd < 0) slot = i;
  if (slot < 0) {  // connections of before a restore may linger for ever: the next ones push them out
    slot = (*oldest)++ % CLIENTS_MAX;
    close(clients[slot].fd);
  }
  clients[slot].fd = fd;
  clients[slot].have = 0;
}

static void serve_forever(int listener) {
  static struct client clients[CLIENTS_MAX];
  size_t oldest = 0;
  for (int i = 0; i < CLIENTS_MAX; i++) clients[i].fd = -1;
  for (int64_t told = 0;;) {
    struct pollfd fds[CLIENTS_MAX + 1] = {{.fd = listener, .events = POLLIN}};
    for (int i = 0; i < CLIENTS_MAX; i++) fds[i + 1] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    poll(fds, CLIENTS_MAX + 1, 1000);
    for (int i = 0; i < CLIENTS_MAX; i++)
      if (fds[i + 1].revents && !serve(&clients[i])) {
        close(clients[i].fd);
        clients[i].fd = -1;
      }
    if (fds[0].revents) take_client(listener, clients, &oldest);
    int64_t now = now_ns(CLOCK_MONOTONIC);
    if (now - told > 10000000000LL || now < told) {
      told = now;
      say("MHV: ok gen=%llu checked=%llu bad=%llu disk_bad=%llu\n", (unsigned long long)written, (unsigned long long)verified,
          (unsigned long long)bad_pages, (unsigned long long)bad_blocks);
    }
  }
}

// ---------------------------------------------------------------- power button (virsh shutdown, a soft stop by Nova)
static void *watch_button(void *arg) {
  int input = (int)(intptr_t)arg;
  for (struct input_event event; read(input, &event, sizeof event) == sizeof event;) {
    if (event.type != EV_KEY || event.code != KEY_POWER || event.value != 1) continue;
    say("MHV: power button\n");
    pthread_mutex_lock(&disk_lock);  // for ever: the disk ends before this program does
    sync();
    reboot(RB_POWER_OFF);
  }
  return NULL;
}
static void open_buttons(void) {
  char path[32];
  pthread_t thread;
  for (int i = 0; i < 8; i++) {
    snprintf(path, sizeof path, "/dev/input/event%d", i);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) pthread_create(&thread, NULL, watch_button, (void *)(intptr_t)fd);
  }
}

// ---------------------------------------------------------------- start
static long number_in(const char *path, const char *name, long otherwise) {
  char text[4096] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return otherwise;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  char *at = n > 0 ? strstr(text, name) : NULL;
  return at ? atol(at + strlen(name)) : otherwise;
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) seed = mix(now_ns(CLOCK_REALTIME) ^ now_ns(CLOCK_MONOTONIC));
  long free_mib = number_in("/proc/meminfo", "MemAvailable:", 64 << 10) >> 10;
  long room_mib = free_mib > 40 ? free_mib - 24 : free_mib * 4 / 10;
  long mib = number_in("/proc/cmdline", "mhv.mib=", room_mib < 128 ? room_mib : 128);
  write_rate = number_in("/proc/cmdline", "mhv.rate=", write_rate);
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  workers = cpus < 1 ? 1 : cpus > WORKERS_MAX ? WORKERS_MAX : (int)cpus;
  pages_max = (size_t)room_mib * 256;
  pages = mmap(NULL, pages_max * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  expected = calloc(pages_max, sizeof *expected);
  if (pages == MAP_FAILED || !expected) return perror("MHV: no memory"), 1;
  madvise(pages, pages_max * PAGE, MADV_NOHUGEPAGE);
  open_disk("/dev/vda");
  if (!grow(mib < room_mib ? mib : room_mib)) return say("MHV: no room\n"), 1;
  pthread_t thread;
  for (long i = 0; i < workers; i++) {
    pthread_mutex_init(&worker[i].lock, NULL);
    worker[i].random = seed + i;
    pthread_create(&thread, NULL, work, (void *)i);
  }
  if (disk >= 0) pthread_create(&thread, NULL, disk_work, NULL);
  open_buttons();

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 32)) return perror("MHV: no port"), 1;
  say("MHV: selfcheck up pages=%zu disk=%s\n", (size_t)page_count, disk < 0 ? "none" : "ok");
  serve_forever(listener);
}
