// Setuid root in the scenario's disk image: runs a command as root. Tasks are an ordinary user's; some ground truth (a package's
// installation, auditd) needs more. It refuses where the disk with its marker is not mounted.
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 2 || access("/opt/scenario/KNOWN-COUNT", F_OK) || setgid(0) || setuid(0)) {
        fprintf(stderr, "as-root: refused\n");
        return 126;
    }
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 127;
}
