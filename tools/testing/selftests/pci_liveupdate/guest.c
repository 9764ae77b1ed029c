// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/syscall.h>

#include <linux/iommufd.h>
#include <linux/kexec.h>
#include <linux/vfio.h>

#include "guest.h"

int check(int ret, const char *what, const char *where)
{
	if (ret < 0)
		die_errno(errno, "%s %s", where, what);
	return ret;
}

/* libliveupdate returns -errno */
int check_luo(int ret, const char *what, const char *where)
{
	if (ret < 0)
		die_errno(-ret, "%s %s", where, what);
	return ret;
}

void expect(int err, int expected, const char *what, const char *where)
{
	if (err != expected)
		die("%s %s: %s, not: %s", where, what, strerror(err), strerror(expected));
}

__u64 now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ULL + ts.tv_nsec / 1000;
}

__u64 now_ms(void)
{
	return now_us() / 1000;
}

/* Returns 0 or -errno. */
int try_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

void write_text(const char *path, const char *text)
{
	check_luo(try_write(path, text), text, path);
}

ssize_t read_config(const char *dir, __u8 *config, size_t size)
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

void find_path(const char *bdf, char path[PATH_MAX])
{
	char link[PATH_MAX];

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s", bdf);
	if (!realpath(link, path))
		die_errno(errno, "%s", link);
}

/* The device and all bridges above it, topmost first. */
void visit_path(const char *bdf, void (*visit)(const char *dir, const char *bdf))
{
	char path[PATH_MAX];
	char *end;

	find_path(bdf, path);
	/* /sys/devices/pci0000:00/0000:00:02.0/0000:01:00.0/... */
	end = strchr(path + strlen("/sys/devices/"), '/');
	while (end) {
		end = strchr(end + 1, '/');
		if (end)
			*end = '\0';
		visit(path, bdf);
		if (end)
			*end = '/';
	}
}

static void show_config(const char *dir, const char *bdf)
{
	__u8 config[4096];

	read_config(dir, config, sizeof(config));
}

/* Whoever follows the trace of accesses to config space sees what is there. */
void show_path(const char *bdf)
{
	visit_path(bdf, show_config);
}

/*
 * Shows in a trace of accesses to config space where we are: nothing else reads this
 * register of the host bridge by itself.
 */
void mark_trace(void)
{
	const char *path = "/sys/bus/pci/devices/0000:00:00.0/config";
	int fd = check(open(path, O_RDONLY), "open", path);
	__u8 byte;

	check(pread(fd, &byte, 1, 0xfc), "read", path);
	close(fd);
}

/* The VFIO character device; without an IOMMU it is called noiommu-vfio%d. */
bool find_cdev(const char *bdf, char path[PATH_MAX])
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

void get_cdev(const char *bdf, char path[PATH_MAX])
{
	if (!find_cdev(bdf, path))
		die("%s isn't bound to vfio-pci", bdf);
}

int open_cdev(const char *bdf)
{
	char path[PATH_MAX];

	get_cdev(bdf, path);
	return check(open(path, O_RDWR), path, bdf);
}

/* Returns -errno */
int try_to_bind(int fd, int iommufd)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = iommufd,
	};

	return ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind) ? -errno : 0;
}

void bind_device(int fd, int iommufd, const char *bdf)
{
	int ret;

	/* vfio can't reset a device as long as whoever has plugged it in holds its lock */
	wait_for(10000, (ret = try_to_bind(fd, iommufd)) != -EAGAIN, "%s", bdf);
	check_luo(ret, "bind iommufd", bdf);
}

__u32 alloc_ioas(int iommufd)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	check(ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc), "alloc", "ioas");
	return alloc.out_ioas_id;
}

/* Returns -errno */
int try_to_attach(int fd, __u32 ioas_id)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
		.pt_id = ioas_id,
	};

	return ioctl(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? -errno : 0;
}

void attach_device(int fd, __u32 ioas_id, const char *bdf)
{
	check_luo(try_to_attach(fd, ioas_id), "attach", bdf);
}

/* Freeze refuses a NIC that has an ioeventfd for its I/O ports. */
void prevent_freeze(int fd, bool on, const char *bdf)
{
	struct vfio_region_info bar = {
		.argsz = sizeof(bar),
		.index = VFIO_PCI_BAR2_REGION_INDEX,
	};
	struct vfio_device_ioeventfd ioeventfd = {
		.argsz = sizeof(ioeventfd),
		.flags = VFIO_DEVICE_IOEVENTFD_32,
		.fd = on ? eventfd(0, 0) : -1,
	};

	check(ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &bar), "region info", bdf);
	ioeventfd.offset = bar.offset;
	check(ioctl(fd, VFIO_DEVICE_IOEVENTFD, &ioeventfd), "ioeventfd", bdf);
}

/* flags: of struct vfio_irq_set; event: an eventfd, or -1 */
void set_irqs(int fd, __u32 index, __u32 flags, __u32 count, int event, const char *bdf)
{
	struct {
		struct vfio_irq_set set;
		__s32 event;
	} irq = {
		.set.argsz = event < 0 ? sizeof(irq.set) : sizeof(irq),
		.set.flags = flags,
		.set.index = index,
		.set.count = count,
		.event = event,
	};

	check(ioctl(fd, VFIO_DEVICE_SET_IRQS, &irq), "set interrupts", bdf);
}

/* Returns an eventfd for the first interrupt of a kind. */
int watch_irq(int fd, __u32 index, const char *bdf)
{
	int event = check(eventfd(0, 0), "eventfd", bdf);

	set_irqs(fd, index, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 1, event, bdf);
	return event;
}

/* flags: of kexec_file_load(). Returns the error number, or 0 */
int try_to_load(const char *kernel, const char *initrd, const char *cmdline, int flags)
{
	int kernel_fd = check(open(kernel, O_RDONLY), "open", kernel);
	int initrd_fd = check(open(initrd, O_RDONLY), "open", initrd);
	int err = syscall(SYS_kexec_file_load, kernel_fd, initrd_fd, strlen(cmdline) + 1,
			  cmdline, flags) ? errno : 0;

	close(kernel_fd);
	close(initrd_fd);
	return err;
}

static void load(const char *kernel, const char *initrd, const char *append, int flags)
{
	char old[1024] = "", cmdline[2048];
	int cmdline_fd = check(open("/proc/cmdline", O_RDONLY), "open", "/proc/cmdline");

	check(read(cmdline_fd, old, sizeof(old) - 1), "read", "/proc/cmdline");
	old[strcspn(old, "\n")] = '\0';
	snprintf(cmdline, sizeof(cmdline), "%s %s", old, append);
	expect(try_to_load(kernel, initrd, cmdline, flags), 0, "kexec_file_load", kernel);
	close(cmdline_fd);
}

/* With this one's command line and something appended. */
void load_kernel(const char *kernel, const char *initrd, const char *append)
{
	load(kernel, initrd, append, 0);
}

/* One for a panic. */
void load_crash_kernel(const char *kernel, const char *initrd, const char *append)
{
	load(kernel, initrd, append, KEXEC_FILE_ON_CRASH);
}

/* Returns the error number, or 0 */
int unload_module(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? errno : 0;
}

/* For devices of vfio-pci, which doesn't by itself. */
void allow_sriov(void)
{
	write_text("/sys/module/vfio_pci/parameters/enable_sriov", "1");
}

void run(const char *program)
{
	int status = system(program);

	if (status)
		die("%s: status %#x", program, status);
}

/* The one that was loaded */
void start_kernel(void)
{
	if (!access("/bin/gcov.sh", X_OK))
		run("gcov.sh");
	say("kexec");
	check(reboot(RB_KEXEC), "reboot", "kexec");
}
