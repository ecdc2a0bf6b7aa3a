// As many events as the guest can make: stress SECONDS DIRECTORY
//
// Four threads make, rename and remove files as fast as they can; one in sixteen rounds forks a process, which ends at once. The
// exact totals are printed as one line of JSON. Every thread works in a directory of its own, so that nothing fails.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4 };
static atomic_int stop;
struct counts {
    long number, created, renamed, unlinked, forked, failed;
};

static void *work(void *argument) {
    struct counts *counts = argument;
    char from[64], to[64];
    for (long i = 0; !atomic_load(&stop); i++) {
        snprintf(from, sizeof from, "%ld/f.%ld", counts->number, i);
        snprintf(to, sizeof to, "%ld/g.%ld", counts->number, i);
        int fd = open(from, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd >= 0) {
            counts->created++;
            close(fd);
        } else {
            counts->failed++;
        }
        if (rename(from, to) == 0) counts->renamed++; else counts->failed++;
        if (unlink(to) == 0) counts->unlinked++; else counts->failed++;
        if (i % 16 == 0) {
            pid_t child = fork();
            if (child == 0) _exit(0);
            if (child > 0 && waitpid(child, NULL, 0) == child) counts->forked++; else counts->failed++;
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    static struct counts counts[THREADS];
    pthread_t threads[THREADS];
    int seconds = argc == 3 ? atoi(argv[1]) : 0;
    if (seconds < 1 || mkdir(argv[2], 0755) || chdir(argv[2])) {
        fprintf(stderr, "usage: stress SECONDS NEW-DIRECTORY\n");
        return 2;
    }
    for (long i = 0; i < THREADS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%ld", i);
        counts[i].number = i;
        if (mkdir(name, 0755) || pthread_create(&threads[i], NULL, work, &counts[i])) return 2;
    }
    sleep((unsigned)seconds);
    atomic_store(&stop, 1);
    struct counts sum = {0};
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum.created += counts[i].created;
        sum.renamed += counts[i].renamed;
        sum.unlinked += counts[i].unlinked;
        sum.forked += counts[i].forked;
        sum.failed += counts[i].failed;
    }
    printf("{\"created\":%ld,\"renamed\":%ld,\"unlinked\":%ld,\"forked\":%ld,\"failed\":%ld}\n", sum.created, sum.renamed,
           sum.unlinked, sum.forked, sum.failed);
    return sum.failed != 0;
}
