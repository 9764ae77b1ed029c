// SPDX-License-Identifier: GPL-2.0
/*
 * Fail every memory allocation of a live update in turn.
 *
 *	faults --stage 1 [--append TEXT] <bdf>...	preserve, kexec
 *	faults --stage 2 <bdf>...			take back, finish
 *
 * Each device is bound to vfio-pci. It has a session of its own, as it can be retrieved, bound
 * and finished only once: there must be more devices than allocations.
 *
 * Lines that begin with "VMM:" are for programs, see vmtest.py.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/iommufd.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libliveupdate.h>

#include "guest.h"

#define MAX_DEVICES	248
#define TOKEN		1
#define ROUNDS		100
#define MEMORY_SESSION	"faults"
#define MEMORY_SIZE	4096

struct call {
	const char *name;
	int nth;		/* allocation that fails next */
	int failed;		/* the call returned an error */
	int again;		/* and worked the second time */
	int survived;		/* it did without that memory */
	bool complete;		/* it makes no more allocations */
};

static struct call preserve = { .name = "preserve" };
static struct call unpreserve = { .name = "unpreserve" };
static struct call retrieve = { .name = "retrieve" };
static struct call bind_iommufd = { .name = "bind" };
static struct call attach = { .name = "attach" };
static struct call finish = { .name = "finish" };

struct device {
	const char *bdf;
	char session_name[16];
	int session;
	int fd;
};

static struct device devices[MAX_DEVICES];
static int nr_devices;
static int luo;
static int iommufd;
static __u32 ioas_id;
static int fail_nth;

#define for_each_device(dev) \
	for (struct device *dev = devices; dev < devices + nr_devices; dev++)

/* ---- faults ---- */

static const char * const faults[] = { "failslab", "fail_page_alloc" };

static void set_debugfs(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", dir, name);
	write_text(path, text);
}

/* kmemleak makes one allocation of its own for each, and can do without */
static void spare_kmemleak(void)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char start[32] = "0x", end[32] = "0x", name[128];

	while (fscanf(file, "%29s %*c %127s%*[^\n]", start + 2, name) == 2) {
		if (strcmp(name, "__alloc_object"))
			continue;
		if (fscanf(file, "%29s", end + 2) != 1)
			die("__alloc_object has no end");
		for (int i = 0; i < ARRAY_SIZE(faults); i++) {
			set_debugfs(faults[i], "reject-start", start);
			set_debugfs(faults[i], "reject-end", end);
		}
	}
	fclose(file);
}

static void set_up_faults(void)
{
	for (int i = 0; i < ARRAY_SIZE(faults); i++) {
		set_debugfs(faults[i], "verbose", "0");
		set_debugfs(faults[i], "ignore-gfp-wait", "N");
	}
	set_debugfs("fail_page_alloc", "ignore-gfp-highmem", "N");
	set_debugfs("fail_page_alloc", "min-order", "0");
	spare_kmemleak();
	fail_nth = check(open("/proc/thread-self/fail-nth", O_RDWR), "open", "fail-nth");
}

static void set_fault(int nth)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", nth);
	check(pwrite(fail_nth, text, strlen(text), 0), "write", "fail-nth");
}

static void arm(struct call *call)
{
	if (!call->complete)
		set_fault(++call->nth);
}

/* What came of it; returns err, 0 or less. */
static int disarm(struct call *call, int err, const char *bdf)
{
	char text[16] = "";

	if (call->complete)
		return check_luo(err, call->name, bdf);

	check(pread(fail_nth, text, sizeof(text) - 1, 0), "read", "fail-nth");
	set_fault(0);
	if (atoi(text))
		call->complete = true;
	else if (err < 0)
		call->failed++;
	else
		call->survived++;
	/* LUO says that it can be tried again */
	if (call == &retrieve && err == -EAGAIN)
		return err;
	if (err < 0 && (call->complete || err != -ENOMEM))
		die_errno(-err, "%s %s, allocation %d", bdf, call->name, call->nth);
	return err;
}

static void report(struct call *call)
{
	say("allocations call=%s failed=%d again=%d survived=%d complete=%d", call->name,
	    call->failed, call->again, call->survived, call->complete);
}

/* ---- what the kernel has in use ---- */

static long read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	long number;

	if (!file || fscanf(file, "%ld", &number) != 1)
		die_errno(errno, "%s", path);
	fclose(file);
	return number;
}

/* Runtime PM references on the device and all bridges above it */
static long path_usage(const char *bdf)
{
	char path[PATH_MAX], name[PATH_MAX + 32];
	long usage = 0;

	find_path(bdf, path);
	while (strstr(path, "/0000:")) {
		snprintf(name, sizeof(name), "%s/power/runtime_usage", path);
		usage += read_number(name);
		*strrchr(path, '/') = '\0';
	}
	return usage;
}

/* Sum of the numbers behind these names, each at the start of a line */
static long sum_numbers(const char *path, const char * const *names)
{
	char line[256], name[32];
	FILE *file = fopen(path, "r");
	long number, sum = 0;

	if (!file)
		die_errno(errno, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " %31s %ld", name, &number) != 2)
			continue;
		for (int i = 0; names[i]; i++)
			if (!strcmp(name, names[i]))
				sum += number;
	}
	fclose(file);
	return sum;
}

/* Pages that the kernel's own statistics don't mention: KHO's are among these */
static long unknown_pages(void)
{
	static const char * const total[] = { "MemTotal:", NULL };
	static const char * const known[] = {
		"MemFree:", "Buffers:", "Cached:", "AnonPages:", "Slab:", "KernelStack:",
		"PageTables:", "Percpu:", NULL
	};
	/* Free, but kept by a CPU */
	static const char * const kept[] = { "count:", NULL };

	return (sum_numbers("/proc/meminfo", total) - sum_numbers("/proc/meminfo", known)) / 4 -
	       sum_numbers("/proc/zoneinfo", kept);
}

static bool is_bus_master(struct device *dev)
{
	__u8 config[PCI_STD_HEADER_SIZEOF];
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", dev->bdf);
	if (read_config(path, config, sizeof(config)) != sizeof(config))
		die("%s has no config space", path);
	return config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

static void check_bus_master(struct device *dev, struct call *call, bool expected)
{
	if (is_bus_master(dev) != expected)
		die("%s after %s, allocation %d: bus mastering is %s", dev->bdf, call->name,
		    call->nth, expected ? "off" : "on");
}

/* ---- stage 1 ---- */

/* All devices reach it, if an IOMMU lets them. */
static void preserve_memory(void)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas_id,
		.length = MEMORY_SIZE,
	};
	int session = check_luo(luo_create_session(luo, MEMORY_SESSION), "create session",
				MEMORY_SESSION);
	int memfd = check(memfd_create("memory", 0), "memfd", "memory");
	void *memory;

	check(ftruncate(memfd, MEMORY_SIZE), "size", "memory");
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (memory == MAP_FAILED)
		die_errno(errno, "mmap");
	map.user_va = (uintptr_t)memory;
	check(ioctl(iommufd, IOMMU_IOAS_MAP, &map), "map", "memory");
	check_luo(luo_session_preserve_fd(session, memfd, TOKEN), "preserve", "memory");
}

static __u64 command_offset(struct device *dev)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};

	check(ioctl(dev->fd, VFIO_DEVICE_GET_REGION_INFO, &info), "region info", dev->bdf);
	return info.offset + PCI_COMMAND;
}

/* Also tells whether the file gives access */
static void enable_dma(struct device *dev)
{
	__u16 command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	check(pwrite(dev->fd, &command, sizeof(command), command_offset(dev)),
	      "write command register", dev->bdf);
}

static void set_up(struct device *dev)
{
	dev->fd = open_cdev(dev->bdf);
	bind_device(dev->fd, iommufd, dev->bdf);
	attach_device(dev->fd, ioas_id, dev->bdf);
	enable_dma(dev);
}

static void create_session(struct device *dev)
{
	dev->session = check_luo(luo_create_session(luo, dev->session_name),
				 "create session", dev->session_name);
}

static void preserve_once(struct device *dev)
{
	long usage = path_usage(dev->bdf);
	int err;

	create_session(dev);
	arm(&preserve);
	err = luo_session_preserve_fd(dev->session, dev->fd, TOKEN);
	if (disarm(&preserve, err, dev->bdf)) {
		if (path_usage(dev->bdf) != usage)
			die("%s preserve, allocation %d: still in use", dev->bdf, preserve.nth);
		check_luo(luo_session_preserve_fd(dev->session, dev->fd, TOKEN), "preserve",
			  dev->bdf);
		preserve.again++;
	}
	if (path_usage(dev->bdf) == usage)
		die("%s preserve, allocation %d: not in use", dev->bdf, preserve.nth);

	arm(&unpreserve);
	err = close(dev->session);
	disarm(&unpreserve, err ? -errno : 0, dev->bdf);
	if (path_usage(dev->bdf) != usage)
		die("%s unpreserve, allocation %d: still in use", dev->bdf, unpreserve.nth);
}

static void preserve_with_faults(struct device *dev)
{
	preserve.complete = false;
	unpreserve.complete = false;
	preserve.nth = 0;
	unpreserve.nth = 0;
	do {
		preserve_once(dev);
	} while (!preserve.complete || !unpreserve.complete);
}

/*
 * After a first round, which fills caches. Other users of memory have some 30 pages more or
 * less each time, so there are enough rounds for one page in each to stand out.
 */
static void look_for_lost_pages(struct device *dev)
{
	long before, lost;

	preserve_with_faults(dev);
	before = unknown_pages();
	for (int i = 0; i < ROUNDS; i++)
		preserve_with_faults(dev);
	wait_for(5000, (lost = unknown_pages() - before) < ROUNDS / 2, "%ld lost pages", lost);
	say("lost pages=%ld rounds=%d", lost, ROUNDS);
}

static void stage1(const char *append)
{
	preserve_memory();
	for_each_device(dev)
		set_up(dev);
	look_for_lost_pages(devices);
	for_each_device(dev) {
		preserve_with_faults(dev);
		create_session(dev);
		check_luo(luo_session_preserve_fd(dev->session, dev->fd, TOKEN), "preserve",
			  dev->bdf);
	}
	report(&preserve);
	report(&unpreserve);

	run("leaks.sh");
	load_kernel("/kernel", "/initrd.img", append);
	/* Freezing the files allocates nothing: the first who does is ACPI, after that */
	start_kernel();
}

/* ---- stage 2 ---- */

static void try_retrieve(struct device *dev)
{
	arm(&retrieve);
	dev->fd = luo_session_retrieve_fd(dev->session, TOKEN);
	if (disarm(&retrieve, dev->fd < 0 ? dev->fd : 0, dev->bdf)) {
		dev->fd = luo_session_retrieve_fd(dev->session, TOKEN);
		check_luo(dev->fd, "retrieve", dev->bdf);
		retrieve.again++;
	}
	check_bus_master(dev, &retrieve, true);
}

/* What isn't attached pauses at finish, or goes on as it was. */
static void try_attach(struct device *dev)
{
	arm(&attach);
	if (disarm(&attach, try_to_attach(dev->fd, ioas_id), dev->bdf)) {
		check_luo(try_to_attach(dev->fd, ioas_id), "attach", dev->bdf);
		attach.again++;
	}
	check_bus_master(dev, &attach, true);
}

static void try_bind(struct device *dev)
{
	int err;

	arm(&bind_iommufd);
	err = disarm(&bind_iommufd, try_to_bind(dev->fd, iommufd), dev->bdf);
	if (err) {
		err = try_to_bind(dev->fd, iommufd);
		bind_iommufd.again += !err;
	}
	check_bus_master(dev, &bind_iommufd, !err);
	if (!err)
		try_attach(dev);
}

/* It is open when the kernel can't tell, so is closed again, and given up. */
static void bind_half_way(struct device *dev)
{
	struct vfio_device_bind_iommufd *bind;
	int err;

	bind = mmap(NULL, sizeof(*bind), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	if (bind == MAP_FAILED)
		die_errno(errno, "mmap");
	bind->argsz = sizeof(*bind);
	bind->iommufd = iommufd;
	check(mprotect(bind, sizeof(*bind), PROT_READ), "mprotect", dev->bdf);
	if (!ioctl(dev->fd, VFIO_DEVICE_BIND_IOMMUFD, bind) || errno != EFAULT)
		die_errno(errno, "%s bind half-way", dev->bdf);
	munmap(bind, sizeof(*bind));

	check_bus_master(dev, &bind_iommufd, false);
	err = try_to_bind(dev->fd, iommufd);
	if (err != -EIO)
		die_errno(-err, "%s bind after it was given up", dev->bdf);
}

static void try_finish(struct device *dev)
{
	bool running = is_bus_master(dev);

	arm(&finish);
	if (disarm(&finish, luo_session_finish(dev->session), dev->bdf)) {
		check_luo(luo_session_finish(dev->session), "finish", dev->bdf);
		finish.again++;
	}
	check_bus_master(dev, &finish, running);
}

/* Waits until nobody uses the device any more */
static void give_up(struct device *dev)
{
	char path[PATH_MAX];

	close(dev->session);
	close(dev->fd);
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver/unbind", dev->bdf);
	write_text(path, dev->bdf);
}

static void take_back(struct device *dev)
{
	dev->session = check_luo(luo_retrieve_session(luo, dev->session_name),
				 "retrieve session", dev->session_name);
	try_retrieve(dev);
	if (dev == &devices[nr_devices - 1])
		bind_half_way(dev);
	else
		try_bind(dev);
	try_finish(dev);
	give_up(dev);
}

static void stage2(void)
{
	int session = check_luo(luo_retrieve_session(luo, MEMORY_SESSION), "retrieve session",
				MEMORY_SESSION);

	for_each_device(dev)
		take_back(dev);
	check_luo(luo_session_finish(session), "finish", "memory");
	report(&retrieve);
	report(&bind_iommufd);
	report(&attach);
	report(&finish);
	say("done");
}

int main(int argc, char *argv[])
{
	static const struct option names[] = {
		{ "stage", required_argument, NULL, 's' },
		{ "append", required_argument, NULL, 'a' },
		{ "preserve", required_argument, NULL, 'p' },
		{ }
	};
	const char *append = "";
	int stage = 0, opt;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (opt == 's')
			stage = atoi(optarg);
		else if (opt == 'a')
			append = optarg;
	}
	nr_devices = argc - optind;
	if (stage < 1 || stage > 2 || nr_devices < 1 || nr_devices > MAX_DEVICES)
		die("faults --stage 1|2 [--append TEXT] <bdf>...");
	for (int i = 0; i < nr_devices; i++) {
		devices[i].bdf = argv[optind + i];
		snprintf(devices[i].session_name, sizeof(devices[i].session_name), "faults%d", i);
	}

	luo = check(luo_open_device(), "open", LUO_DEVICE);
	iommufd = check(open("/dev/iommu", O_RDWR), "open", "/dev/iommu");
	ioas_id = alloc_ioas(iommufd);
	set_up_faults();
	if (stage == 1)
		stage1(append);
	else
		stage2();
	return 0;
}
