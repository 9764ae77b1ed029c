/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs that run in the guest have in common.
 */
#ifndef SELFTESTS_PCI_LIVEUPDATE_GUEST_H
#define SELFTESTS_PCI_LIVEUPDATE_GUEST_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <linux/types.h>
#include <linux/vfio.h>

#define say(fmt, ...) printf("VMM: " fmt "\n", ##__VA_ARGS__)

#define die(fmt, ...) do { \
	say("FAIL " fmt, ##__VA_ARGS__); \
	exit(1); \
} while (0)

#define die_errno(err, fmt, ...) die(fmt ": %s", ##__VA_ARGS__, strerror(err))

static inline int check(int ret, const char *what, const char *bdf)
{
	if (ret < 0)
		die_errno(errno, "%s %s", bdf, what);
	return ret;
}

/* libliveupdate returns -errno */
static inline int check_luo(int ret, const char *what, const char *bdf)
{
	if (ret < 0)
		die_errno(-ret, "%s %s", bdf, what);
	return ret;
}

static inline __u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

/* Call until() every millisecond until it is true. */
#define wait_for(limit_ms, until, fmt, ...) do { \
	__u64 end = now_ms() + (limit_ms); \
	while (!(until)) { \
		if (now_ms() > end) \
			die("gave up waiting for " fmt, ##__VA_ARGS__); \
		usleep(1000); \
	} \
} while (0)

static inline ssize_t read_config(const char *dir, __u8 *config, size_t size)
{
	char path[PATH_MAX + 8];
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "%s/config", dir);
	fd = check(open(path, O_RDONLY), "open", path);
	length = check(read(fd, config, size), "read", path);
	close(fd);
	return length;
}

static inline void write_text(const char *path, const char *text)
{
	int fd = check(open(path, O_WRONLY), "open", path);

	check(write(fd, text, strlen(text)), text, path);
	close(fd);
}

/* The VFIO character device; without an IOMMU it is called noiommu-vfio%d. */
static inline bool find_cdev(const char *bdf, char path[PATH_MAX])
{
	struct dirent *entry;
	DIR *dir;

	snprintf(path, PATH_MAX, "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	dir = opendir(path);
	if (!dir)
		return false;
	do {
		entry = readdir(dir);
	} while (entry && !strstr(entry->d_name, "vfio"));
	if (entry)
		snprintf(path, PATH_MAX, "/dev/vfio/devices/%s", entry->d_name);
	closedir(dir);
	return entry;
}

static inline void bind_device(int fd, int iommufd, const char *bdf)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = iommufd,
	};

	check(ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind), "bind iommufd", bdf);
}

/* With this one's command line and something appended. */
static inline void load_kernel(const char *kernel, const char *initrd,
			       const char *append)
{
	char old[1024] = "", cmdline[2048];
	int cmdline_fd = check(open("/proc/cmdline", O_RDONLY), "open", "/proc/cmdline");
	int kernel_fd = check(open(kernel, O_RDONLY), "open", kernel);
	int initrd_fd = check(open(initrd, O_RDONLY), "open", initrd);

	check(read(cmdline_fd, old, sizeof(old) - 1), "read", "/proc/cmdline");
	old[strcspn(old, "\n")] = '\0';
	snprintf(cmdline, sizeof(cmdline), "%s %s", old, append);
	check(syscall(SYS_kexec_file_load, kernel_fd, initrd_fd, strlen(cmdline) + 1,
		      cmdline, 0), "kexec_file_load", kernel);
	close(cmdline_fd);
	close(kernel_fd);
	close(initrd_fd);
}

#endif /* SELFTESTS_PCI_LIVEUPDATE_GUEST_H */
