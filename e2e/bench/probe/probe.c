// probe: the commands that the measured programs wrap. They start in no time and read the clock themselves, so that
// the measurement is not in the figures.
//
//	probe STAMPS SLOT start              ends at once
//	probe STAMPS SLOT main MILLISECONDS  sleeps, then ends: main
//	probe STAMPS SLOT sidecar            ends when SIGTERM arrives
//	probe STAMPS SLOT exec COMMAND...    executes COMMAND
//	probe STAMPS SLOT churn DIR FILES    creates files in DIR, starts, and replaces one after the other
//
// STAMPS is a file of struct stamps, which bench maps as well. A probe dies with its parent.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

// The same as stamps in stamps.go. Times are CLOCK_MONOTONIC in nanoseconds, 0 is not yet.
struct stamps {
	int64_t pid;
	int64_t executed; // just before COMMAND was executed
	int64_t started;  // the first instruction, for churn when all files are there
	int64_t ended;    // the last instruction of main
	int64_t signaled; // the arrival of SIGTERM
	int64_t cpu;      // nanoseconds of processor time that main or the sidecar has used
};

static volatile struct stamps *slot;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int64_t cpu(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	_exit(125);
}

static void on_term(int number)
{
	(void)number;
	slot->signaled = now();
	slot->cpu = cpu();
	_exit(0);
}

static void churn(const char *dir, int files)
{
	char name[32];
	if (chdir(dir))
		fail(dir);
	for (unsigned step = 0;; step++) {
		snprintf(name, sizeof name, "churn-%u", step % files);
		unlink(name);
		int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		if (fd < 0)
			fail(name);
		close(fd);
		if (step + 1 < (unsigned)files)
			continue;
		if (!slot->started)
			slot->started = now();
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL); // some thousand files a second
	}
}

int main(int argc, char **argv)
{
	int64_t started = now();
	if (argc < 4) {
		fprintf(stderr, "usage: probe STAMPS SLOT start|main|sidecar|exec|churn [ARG...]\n");
		return 125;
	}
	if (strcmp(argv[3], "exec") != 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);

	int fd = open(argv[1], O_RDWR | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (size < 0)
		fail(argv[1]);
	struct stamps *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (all == MAP_FAILED)
		fail("mmap");
	slot = all + atoi(argv[2]);
	slot->pid = getpid();

	if (strcmp(argv[3], "exec") == 0) {
		slot->executed = now();
		execv(argv[4], argv + 4);
		fail(argv[4]);
	}
	if (strcmp(argv[3], "main") == 0) {
		int64_t ms = atoi(argv[4]);
		slot->started = started;
		nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
		slot->cpu = cpu();
		slot->ended = now();
		_exit(0);
	}
	if (strcmp(argv[3], "sidecar") == 0) {
		sigset_t unblocked;
		sigemptyset(&unblocked);
		sigprocmask(SIG_SETMASK, &unblocked, NULL);
		signal(SIGINT, SIG_IGN); // Prow's entrypoint sends SIGINT before SIGTERM
		sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_term}, NULL);
		slot->started = started;
		for (;;)
			pause();
	}
	if (strcmp(argv[3], "churn") == 0)
		churn(argv[4], atoi(argv[5]));
	slot->started = started;
	return 0;
}
