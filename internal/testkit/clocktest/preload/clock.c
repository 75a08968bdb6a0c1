/* Preloaded into a server, it shifts the wall clock by the nanoseconds that the file named by FRESHET_TEST_CLOCK holds,
   as they are at that moment. Clocks that only count time are left alone, as they are by whoever sets a machine's clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void begin(void) {
	const char *path = getenv("FRESHET_TEST_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	void *page = mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		shift = page;
	close(fd);
}

static int64_t now(clockid_t id, struct timespec *t) {
	long failed = syscall(SYS_clock_gettime, id, t);
	if (!failed && shift && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
		int64_t n = t->tv_sec * INT64_C(1000000000) + t->tv_nsec + *shift;
		t->tv_sec = n / 1000000000;
		t->tv_nsec = n % 1000000000;
	}
	return failed;
}

int clock_gettime(clockid_t id, struct timespec *t) { return now(id, t); }

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
	struct timespec t;
	(void)zone;
	if (now(CLOCK_REALTIME, &t))
		return -1;
	tv->tv_sec = t.tv_sec;
	tv->tv_usec = t.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *out) {
	struct timespec t;
	now(CLOCK_REALTIME, &t);
	if (out)
		*out = t.tv_sec;
	return t.tv_sec;
}
