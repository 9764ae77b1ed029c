// SPDX-License-Identifier: GPL-2.0
/*
 * Preserve devices while others rescan, remove, plug, bind and read what they can.
 *
 *	stress <seconds> <bdf>...
 *
 * All devices are bound to vfio-pci, and are so again afterwards. The first one has
 * virtual functions, the second is removed while it is preserved, the third is a
 * neighbour, the fourth isn't there: the host plugs it in and unplugs it. Then two
 * attempts to kexec have to be refused.
 *
 * Lines that begin with "VMM:" are for programs, see vmtest.py.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>

#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/vfio.h>

#include <libliveupdate.h>

#include "guest.h"

#define TOKEN	1

static const char *physfn, *removed, *neighbour, *hotplugged;
static int luo;
static int iommufd;

static bool is_there(const char *bdf, const char *what)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, what);
	return !access(path, F_OK);
}

static int try_attribute(const char *bdf, const char *name, const char *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	return try_write(path, text);
}

static int rescan_all(void)
{
	return try_write("/sys/bus/pci/rescan", "1") ?: 1;
}

/* Somebody else may find it, too, and it isn't complete when it is first seen. */
static bool try_restore(const char *bdf)
{
	rescan_all();
	try_attribute(bdf, "driver_override", "vfio-pci");
	try_write("/sys/bus/pci/drivers_probe", bdf);
	return is_there(bdf, "vfio-dev");
}

static void restore(const char *bdf)
{
	wait_for(10000, try_restore(bdf), "%s to be bound", bdf);
}

/* ---- what is done; returns how often, or -errno if it was refused ---- */

static int open_device(const char *bdf)
{
	char path[PATH_MAX];
	int fd, err;

	/* The cdev is seen a moment before it can be opened */
	get_cdev(bdf, path);
	while ((fd = open(path, O_RDWR)) < 0)
		if (errno != ENOENT && errno != ENXIO)
			die_errno(errno, "open %s", bdf);
	err = try_to_bind(fd, iommufd);
	if (!err)
		return fd;

	/* -EAGAIN: somebody holds the device's lock, so it can't be reset */
	close(fd);
	return err;
}

/* Returns the session. There is -EAGAIN while somebody rescans or removes. */
static int preserve(int fd, const char *bdf)
{
	int session = check_luo(luo_create_session(luo, bdf), "create session", bdf);
	__u64 end = now_ms() + 1000;
	int err;

	do {
		err = luo_session_preserve_fd(session, fd, TOKEN);
		if (!err)
			return session;
		usleep(1000);
	} while (err == -EAGAIN && now_ms() < end);

	close(session);
	return err;
}

static int num_vfs(void)
{
	char path[PATH_MAX];
	int number = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/sriov_numvfs", physfn);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%d", &number) != 1)
		die_errno(errno, "%s", path);
	fclose(file);
	return number;
}

static int preserve_physfn(void)
{
	int fd = open_device(physfn), done, session;

	if (fd < 0)
		return fd;
	for (done = 0; done < 100; done++) {
		session = preserve(fd, physfn);
		if (session < 0)
			break;
		if (num_vfs())
			die("%s is preserved and has virtual functions", physfn);
		close(session);
	}
	close(fd);
	return done ?: session;
}

/* The removal waits for us to give the device up. */
static int remove_preserved(void)
{
	int fd = open_device(removed), session;
	pid_t pid;

	if (fd < 0)
		return fd;
	session = preserve(fd, removed);
	if (session < 0) {
		close(fd);
		return session;
	}
	pid = check(fork(), "fork", removed);
	if (!pid) {
		close(session);
		close(fd);
		_exit(try_attribute(removed, "remove", "1") != 0);
	}
	usleep(rand() % 20000);
	close(session);
	close(fd);
	check(waitpid(pid, NULL, 0), "wait", removed);
	restore(removed);
	return 1;
}

static int remove_neighbour(void)
{
	int err = try_attribute(neighbour, "remove", "1");

	restore(neighbour);
	return err ?: 1;
}

static int unbind_neighbour(void)
{
	int err = try_attribute(neighbour, "driver/unbind", neighbour);

	restore(neighbour);
	return err ?: 1;
}

static int set_vfs(void)
{
	int err = try_attribute(physfn, "sriov_numvfs", "2");

	return err ?: try_attribute(physfn, "sriov_numvfs", "0") ?: 1;
}

static int read_all(void)
{
	static const char * const names[] = { "config", "resource", "driver_override", "uevent" };
	char path[PATH_MAX], data[4096];
	struct dirent *entry;
	DIR *dir = opendir("/sys/bus/pci/devices");

	while ((entry = readdir(dir))) {
		for (int i = 0; i < ARRAY_SIZE(names); i++) {
			int fd;

			snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s",
				 entry->d_name, names[i]);
			fd = open(path, O_RDONLY);
			if (fd < 0)
				continue;
			while (read(fd, data, sizeof(data)) > 0)
				;
			close(fd);
		}
	}
	closedir(dir);
	return 1;
}

static int hotplug(void)
{
	say("plug");
	/* The others may keep the lock for long */
	wait_for(100000, is_there(hotplugged, ""), "%s", hotplugged);
	say("unplug");
	wait_for(100000, !is_there(hotplugged, ""), "%s to go", hotplugged);
	/* The host learns a moment later that it is gone */
	usleep(500000);
	return 1;
}

/* ---- a kexec that is refused ---- */

/* The device that is frozen first, and then not, gives access again. */
static void refuse_kexec(int fd, int other_fd)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	prevent_freeze(fd, true, physfn);
	if (!reboot(RB_KEXEC) || errno != EINVAL)
		die_errno(errno, "kexec in spite of an ioeventfd");
	prevent_freeze(fd, false, physfn);
	check(ioctl(other_fd, VFIO_DEVICE_GET_INFO, &info), "get info", removed);
	say("refused");
}

static void refuse_kexecs(void)
{
	int other_fd = check_luo(open_device(removed), "open", removed);
	int fd = check_luo(open_device(physfn), "open", physfn);
	int other_session = check_luo(preserve(other_fd, removed), "preserve", removed);
	int session = check_luo(preserve(fd, physfn), "preserve", physfn);

	load_kernel("/kernel", "/initrd.img", "");
	refuse_kexec(fd, other_fd);
	close(session);
	close(other_session);
	close(fd);
	close(other_fd);
}

/* ---- all at once ---- */

static struct worker {
	const char *name;
	int (*work)(void);
	int pause;		/* so many times as long at most, to let others have the locks */
	int refusals[3];	/* that may happen */
} workers[] = {
	{ "preserve", preserve_physfn, 1, { EAGAIN, EINVAL } },
	{ "remove-preserved", remove_preserved, 16, { EAGAIN } },
	{ "remove-neighbour", remove_neighbour, 16, { ENOENT } },
	{ "unbind-neighbour", unbind_neighbour, 16, { ENOENT, ENODEV } },
	{ "set-vfs", set_vfs, 32, { EBUSY } },
	{ "rescan", rescan_all, 16, { } },
	{ "read", read_all, 1, { } },
	{ "hotplug", hotplug, 2, { } },
};

static struct count {
	int done;
	int refused;
} *counts;

static bool may_be_refused(struct worker *worker, int err)
{
	for (int i = 0; i < ARRAY_SIZE(worker->refusals); i++)
		if (err == -worker->refusals[i])
			return true;
	return false;
}

static bool all_done(void)
{
	for (int i = 0; i < ARRAY_SIZE(workers); i++)
		if (!READ_ONCE(counts[i].done))
			return false;
	return true;
}

/* On a slow machine until all have done something. What was refused has waited already. */
static void work(struct worker *worker, struct count *count, __u64 end, __u64 limit)
{
	while (now_ms() < end || (!all_done() && now_ms() < limit)) {
		__u64 start = now_ms();
		int done = worker->work();

		if (done > 0) {
			count->done += done;
			usleep(rand() % (worker->pause * (now_ms() - start + 1) * 1000));
		} else if (may_be_refused(worker, done)) {
			count->refused++;
			usleep(rand() % 20000);
		} else {
			die_errno(-done, "%s", worker->name);
		}
	}
}

int main(int argc, char *argv[])
{
	bool failed = false;
	__u64 start, length;
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc != 6)
		die("stress <seconds> <bdf of PF> <removed> <neighbour> <hotplugged>");
	physfn = argv[2];
	removed = argv[3];
	neighbour = argv[4];
	hotplugged = argv[5];
	luo = check(luo_open_device(), "open", LUO_DEVICE);
	iommufd = check(open("/dev/iommu", O_RDWR), "open", "/dev/iommu");
	counts = mmap(NULL, sizeof(*counts) * ARRAY_SIZE(workers), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (counts == MAP_FAILED)
		die_errno(errno, "mmap");

	allow_sriov();
	start = now_ms();
	length = atoi(argv[1]) * 1000;
	for (int i = 0; i < ARRAY_SIZE(workers); i++) {
		if (!check(fork(), "fork", workers[i].name)) {
			srand(i);
			work(&workers[i], &counts[i], start + length, start + 10 * length);
			return 0;
		}
	}
	while (wait(&status) > 0)
		failed |= !!status;
	if (failed)
		die("a worker has failed");

	check(try_attribute(physfn, "sriov_numvfs", "0"), "no more VFs", physfn);
	restore(removed);
	restore(neighbour);
	refuse_kexecs();
	for (int i = 0; i < ARRAY_SIZE(workers); i++)
		say("stress work=%s done=%d refused=%d", workers[i].name, counts[i].done,
		    counts[i].refused);
	return 0;
}
