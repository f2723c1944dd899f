/* A layer that tries to get out of its service VM. Each attempt is a line on the console: "attempt NAME: RESULT". It is root there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const char *attempt, const char *result) {
    printf("attempt %s: %s\n", attempt, result);
    fflush(stdout);
}

static const char *reached_or_error(int result) { return result >= 0 ? "reached" : strerrorname_np(errno); }

static uint8_t *map(const char *file, size_t *bytes) {
    struct stat status;
    int fd = open(file, O_RDWR);
    if (fd < 0 || fstat(fd, &status) != 0) return NULL;
    *bytes = (size_t)status.st_size;
    void *out = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return out == MAP_FAILED ? NULL : out;
}

static void write_to_guest(const char *file) {
    size_t bytes = 0;
    uint8_t *memory = map(file, &bytes);
    if (memory == NULL) return say("guest-memory", "not mapped");
    int changed = 0;
    for (size_t at = 0; at < bytes; at += 1 << 20) {
        uint8_t before = memory[at];
        ((volatile uint8_t *)memory)[at] = before ^ 0xff;
        changed += ((volatile uint8_t *)memory)[at] != before;
    }
    char result[64];
    snprintf(result, sizeof result, "%d of %zu pages changed", changed, bytes >> 20);
    say("guest-memory", result);
    munmap(memory, bytes);
}

static void map_beyond(const char *file) {
    struct stat status;
    int fd = open(file, O_RDWR);
    if (fd < 0 || fstat(fd, &status) != 0) return say("beyond-channel", "not opened");
    void *out = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, status.st_size);
    say("beyond-channel", out == MAP_FAILED ? strerrorname_np(errno) : "reached");
    close(fd);
}

static void list(const char *attempt, const char *folder, const char *but) {
    char found[512] = "";
    DIR *dir = opendir(folder);
    for (struct dirent *one; dir != NULL && (one = readdir(dir)) != NULL;) {
        if (one->d_name[0] == '.' || strcmp(one->d_name, but) == 0) continue;
        strncat(found, one->d_name, sizeof found - strlen(found) - 2);
        strcat(found, " ");
    }
    say(attempt, found[0] == 0 ? "nothing" : found);
}

/* What stands behind the buses: the class of each device that is neither a bridge of the board nor memory. */
static void list_devices(void) {
    char found[512] = "", path[300];
    DIR *dir = opendir("/sys/bus/pci/devices");
    for (struct dirent *one; dir != NULL && (one = readdir(dir)) != NULL;) {
        unsigned class = 0;
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/class", one->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL) continue;
        if (fscanf(file, "%x", &class) == 1 && class >> 16 != 6 && class >> 16 != 5) {
            snprintf(found + strlen(found), sizeof found - strlen(found), "%06x ", class);
        }
        fclose(file);
    }
    say("devices", found[0] == 0 ? "nothing" : found);
}

static void connect_out(void) {
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(22), .sin_addr = {htonl(0x0a370001)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    say("network", reached_or_error(fd < 0 ? -1 : connect(fd, (struct sockaddr *)&host, sizeof host)));
}

static void mount_host(void) {
    mkdir("/host", 0755);
    say("shared-folder", reached_or_error(mount("host", "/host", "9p", 0, "trans=virtio")));
}

/* Both ends of both rings. */
static void forge_ring(const char *file) {
    size_t bytes = 0;
    uint8_t *channel = map(file, &bytes);
    if (channel == NULL) return say("forged-ring", "not mapped");
    for (size_t at = 64; at < 4096; at += 8) memset(channel + at, 0xa5, 8);
    say("forged-ring", "done");
}

int main(int argc, char **argv) {
    const char *channel = NULL, *memory = NULL;
    for (int i = 1; i + 1 < argc; ++i) {
        if (strcmp(argv[i], "--channel") == 0) channel = argv[i + 1];
        if (strcmp(argv[i], "--memory") == 0) memory = argv[i + 1];
    }
    if (channel == NULL || memory == NULL) return 2;
    say("user", getuid() == 0 ? "root" : "another");
    char first[256];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(memory, "+"), memory);
    write_to_guest(first);
    map_beyond(channel);
    list_devices();
    list("disks", "/sys/block", "");
    list("interfaces", "/sys/class/net", "lo");
    connect_out();
    mount_host();
    say("host-file", reached_or_error(open("/usr/bin/qemu-system-x86_64", O_RDONLY)));
    forge_ring(channel);
    pause();
}
