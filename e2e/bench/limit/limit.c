// limit: about the least that a program can do on Linux to record the end of a command, and to stop another command
// then. It has neither the checks nor the messages that a pod needs: it is what the other programs are measured
// against.
//
//	limit record DIR COMMAND...  holds a lock on DIR/main-running until COMMAND ends, then renames it to main-terminated
//	limit watch DIR COMMAND...   sends SIGTERM to COMMAND when main has ended, or its lock is gone
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t child;

static void fail(const char *what)
{
	perror(what);
	exit(125);
}

static void stop(int number)
{
	(void)number;
	if (child > 0)
		kill(child, SIGTERM);
}

static void start(char **argv)
{
	sigaction(SIGTERM, &(struct sigaction){.sa_handler = stop, .sa_flags = SA_RESTART}, NULL);
	pid_t pid = vfork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(argv[0], argv);
		_exit(127);
	}
	if (pid < 0)
		fail("vfork");
	child = pid;
}

static int code_of_child(void)
{
	int status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			fail("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void record(char **argv)
{
	int fd = open(".main", O_CREAT | O_RDWR | O_CLOEXEC, 0644);
	if (fd < 0)
		fail(".main");
	if (fcntl(fd, F_OFD_SETLK, &(struct flock){.l_type = F_WRLCK}) || rename(".main", "main-running"))
		fail("main-running");
	start(argv);
	int code = code_of_child();
	dprintf(fd, "%d\n", code);
	if (rename("main-running", "main-terminated"))
		fail("main-terminated");
	_exit(code);
}

static void *wait_for_lock(void *unused)
{
	int fd;
	while ((fd = open("main-running", O_RDONLY | O_CLOEXEC)) < 0)
		usleep(10000); // only if there was no inotify instance left
	while (fcntl(fd, F_OFD_SETLKW, &(struct flock){.l_type = F_RDLCK}))
		if (errno != EINTR)
			fail("main-running");
	stop(SIGTERM);
	return unused;
}

static void *wait_for_child(void *unused)
{
	(void)unused;
	_exit(code_of_child());
}

static void in_thread(void *(*body)(void *))
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, body, NULL))
		fail("pthread_create");
}

static void watch(char **argv)
{
	char events[sizeof(struct inotify_event) + NAME_MAX + 1] __attribute__((aligned(8)));
	struct inotify_event *event = (struct inotify_event *)events;
	int fd = inotify_init1(IN_CLOEXEC);
	if (fd >= 0 && inotify_add_watch(fd, ".", IN_MOVED_TO) < 0)
		fail("inotify_add_watch");
	start(argv);
	in_thread(wait_for_child);
	if (fd < 0) // no instance is left
		wait_for_lock(NULL);
	for (;;) {
		ssize_t n = read(fd, events, sizeof events);
		for (ssize_t at = 0; at < n; at += sizeof *event + event->len) {
			event = (struct inotify_event *)(events + at);
			if (strcmp(event->name, "main-terminated") == 0)
				stop(SIGTERM);
			else if (strcmp(event->name, "main-running") == 0)
				in_thread(wait_for_lock);
		}
		if (n < 0)
			pause();
	}
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: limit record|watch DIR COMMAND...\n");
		return 125;
	}
	if (chdir(argv[2]))
		fail(argv[2]);
	if (strcmp(argv[1], "record") == 0)
		record(argv + 3);
	else
		watch(argv + 3);
}
