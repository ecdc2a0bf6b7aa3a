/*
 * load ATTACK...: loads the watcher module once for each attack, as root. Installed setuid root on the scenario's disk: the deliberate
 * weakness that the attacks begin with. Refuses to act where the marker is not.
 */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words)
{
	struct utsname system;
	char module[512], parameter[128];
	int i, status, failed = 0;

	if (access("/opt/scenario/MARKER", F_OK)) {
		fprintf(stderr, "refused: not in a LAVA micro-VM\n");
		return 64;
	}
	if (uname(&system) || setgid(0) || setuid(0)) {
		perror("load");
		return 1;
	}
	snprintf(module, sizeof(module), "/opt/scenario/%s/watcher.ko", system.release);
	for (i = 1; i < count; i++) {
		snprintf(parameter, sizeof(parameter), "attack=%s", words[i]);
		pid_t child = fork();
		if (child == 0) {
			execl("/sbin/insmod", "insmod", module, parameter, (char *)NULL);
			_exit(127);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0) {
			perror("load");
			return 1;
		}
		if (WIFSIGNALED(status))
			printf("load: %s: insmod was killed by signal %d\n", words[i], WTERMSIG(status));
		else
			printf("load: %s: insmod ended with %d\n", words[i], WEXITSTATUS(status));
		fflush(stdout);
		failed |= !WIFEXITED(status) || WEXITSTATUS(status) == 127;
	}
	return failed;
}
