// SPDX-License-Identifier: GPL-2.0
/*
 * A program whose edu devices go on computing while the kernel is replaced.
 *
 *	edu --stage 1 [options] <bdf> [<bdf>...]	use, preserve, kexec
 *	edu --stage 2 [options] <bdf> [<bdf>...]	take back, check, finish, use
 *
 * The devices' driver is samples/liveupdate/edu_liveupdate.c. Each is left with a
 * factorial to compute, one pattern in its own buffer and another in the one that it
 * shares with us. Lines that begin with "VMM:" are for programs, see vmtest.py.
 */
#include <fcntl.h>
#include <getopt.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>

#include <linux/io.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libliveupdate.h>

#include "guest.h"
#include "edu_liveupdate.h"

#define SESSION		"edu"
#define MODULE		"edu_liveupdate"
#define MAX_DEVICES	8

/* Those of the edu devices are their numbers */
#define MEMORY_TOKEN	MAX_DEVICES
#define VFIO_TOKEN	(MAX_DEVICES + 1)
#define UNUSED_TOKEN	(MAX_DEVICES + 2)

/* The first is still being computed when the kernel is replaced */
#define LONG_FACTORIAL	0xffffffffU
#define SHORT_FACTORIAL	12

struct device {
	const char *bdf;
	int fd;
	__u8 *buffer;
};

/* What stage 2 must know, in a memfd. */
struct memory {
	struct {
		__u32 number;
		__u32 liveness;
	} device[MAX_DEVICES];
};

static struct {
	const char *append;
	const char *module;
	const char *remove;
	const char *vfio;
	bool abort;
	bool outlive;
	bool replace;
	bool rebind;
	bool forget;
	int iommu;
} options = {
	.append = "",
	.remove = "",
};

static const char *const old_session[] = { "old-closed", "old-kept" };
static struct device devices[MAX_DEVICES];
static int nr_devices;
static struct memory *memory;
static int luo, session, memfd, vfio;

#define for_each_device(dev) \
	for (struct device *dev = devices; dev < devices + nr_devices; dev++)

static void must_refuse(int err, int expected, const char *what, const char *where)
{
	expect(err, expected, what, where);
	say("refused bdf=%s what=%s", where, what);
}

/* ---- the driver ---- */

static void load_module(void)
{
	int fd;

	if (!options.module)
		return;
	fd = check(open(options.module, O_RDONLY), "open", options.module);
	check(syscall(SYS_finit_module, fd, "", 0), "load", options.module);
	close(fd);
}

static void unload_must_fail(void)
{
	if (options.module)
		must_refuse(unload_module(MODULE), EWOULDBLOCK, "unload", options.module);
}

static void bind_driver(struct device *dev)
{
	write_text("/sys/bus/pci/drivers/edu_liveupdate/bind", dev->bdf);
}

static void rebind(struct device *dev)
{
	write_text("/sys/bus/pci/drivers/edu_liveupdate/unbind", dev->bdf);
	bind_driver(dev);
}

/* The last device is removed, or loses its driver, at one of several times */
static void remove_last(const char *when, const char *attribute)
{
	struct device *dev = &devices[nr_devices - 1];
	char path[PATH_MAX];

	if (strcmp(options.remove, when))
		return;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", dev->bdf, attribute);
	write_text(path, strcmp(attribute, "remove") ? dev->bdf : "1");
	if (dev->buffer)
		must_refuse(ioctl(dev->fd, EDU_DMA_TO_DEVICE) ? errno : 0, ENODEV, "DMA", dev->bdf);
	say("removed bdf=%s", dev->bdf);
}

static bool is_last(struct device *dev)
{
	return dev == &devices[nr_devices - 1];
}

static bool has(struct device *dev, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", dev->bdf, name);
	return !access(path, F_OK);
}

/* Or has no driver */
static bool is_removed(struct device *dev)
{
	return !has(dev, "driver");
}

/* ---- a device ---- */

/* Removed by the first kernel: for the second it is like any other */
static bool is_lost(struct device *dev)
{
	return is_last(dev) && (!strcmp(options.remove, "preserved") ||
				!strcmp(options.remove, "unbound"));
}

static bool is_damaged(struct device *dev)
{
	return is_last(dev) && !strcmp(options.remove, "damaged");
}

/* Behind the driver's back */
static void *map_registers(struct device *dev)
{
	char path[PATH_MAX];
	void *regs;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", dev->bdf);
	fd = check(open(path, O_RDWR | O_SYNC), "open", path);
	regs = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (regs == MAP_FAILED)
		die_errno(errno, "map %s", path);
	close(fd);
	return regs;
}

/* As if it had been reset: the driver doesn't find in it what it had left there */
static void damage(struct device *dev)
{
	void *regs = map_registers(dev);

	writel(0, regs + 4);	/* liveness */
	munmap(regs, getpagesize());
}

/* Since it was frozen it may raise no interrupt */
static void check_quiet(struct device *dev)
{
	void *regs = map_registers(dev);

	if (readl(regs + 0x20) & 0x80)
		die("%s has its interrupt on", dev->bdf);
	munmap(regs, getpagesize());
}

static int try_open(struct device *dev)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/dev/edu-%s", dev->bdf);
	return open(path, O_RDWR);
}

static void map_buffer(struct device *dev)
{
	dev->buffer = mmap(NULL, EDU_BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			   dev->fd, 0);
	if (dev->buffer == MAP_FAILED)
		die("%s map buffer: %s", dev->bdf, strerror(errno));
}

static void open_device(struct device *dev)
{
	dev->fd = check(try_open(dev), "open", dev->bdf);
	map_buffer(dev);
}

static void close_device(struct device *dev)
{
	munmap(dev->buffer, EDU_BUFFER_SIZE);
	close(dev->fd);
}

static __u8 pattern(__u8 seed, int i)
{
	return seed + i + (i >> 8);
}

static void fill(struct device *dev, __u8 seed)
{
	for (int i = 0; i < EDU_BUFFER_SIZE; i++)
		dev->buffer[i] = pattern(seed, i);
}

static void check_buffer(struct device *dev, __u8 seed, const char *what)
{
	for (int i = 0; i < EDU_BUFFER_SIZE; i++)
		if (dev->buffer[i] != pattern(seed, i))
			die("%s %s is damaged at %d", dev->bdf, what, i);
}

static void dma(struct device *dev, unsigned long direction)
{
	check(ioctl(dev->fd, direction), "DMA", dev->bdf);
}

static __u32 liveness(struct device *dev)
{
	__u32 value;

	check(ioctl(dev->fd, EDU_GET_LIVENESS, &value), "liveness", dev->bdf);
	return value;
}

static void start(struct device *dev, __u32 number)
{
	check(write(dev->fd, &number, sizeof(number)), "start", dev->bdf);
}

static bool is_computing(struct device *dev)
{
	__u32 result;
	bool computing;

	fcntl(dev->fd, F_SETFL, O_RDWR | O_NONBLOCK);
	computing = read(dev->fd, &result, sizeof(result)) < 0;
	if (computing && errno != EAGAIN)
		die("%s read: %s", dev->bdf, strerror(errno));
	fcntl(dev->fd, F_SETFL, O_RDWR);
	return computing;
}

static __u32 factorial(__u32 number)
{
	__u32 result = 1;

	/* From 34 on all of the lower 32 bits are 0 */
	for (__u32 i = 2; i <= number && result; i++)
		result *= i;
	return result;
}

static void check_factorial(struct device *dev, __u32 number)
{
	__u32 result;

	check(read(dev->fd, &result, sizeof(result)), "read", dev->bdf);
	if (result != factorial(number))
		die("%s computes %u! = %u, not %u", dev->bdf, number, result,
		    factorial(number));
}

/* Everything that it can. What it was computing for nobody has to end first. */
static void use(struct device *dev, const char *when)
{
	__u32 result;

	check(read(dev->fd, &result, sizeof(result)), "read", dev->bdf);
	start(dev, 5);
	check_factorial(dev, 5);
	fill(dev, 1);
	dma(dev, EDU_DMA_TO_DEVICE);
	fill(dev, 2);
	dma(dev, EDU_DMA_FROM_DEVICE);
	check_buffer(dev, 1, "DMA");
	say("works bdf=%s when=%s", dev->bdf, when);
}

/* ---- a device that has its driver in user space ---- */

static void vfio_open(void)
{
	vfio = open_cdev(options.vfio);
}

static void vfio_attach(void)
{
	int iommufd = check(open("/dev/iommu", O_RDWR), "open", "/dev/iommu");

	bind_device(vfio, iommufd, options.vfio);
	attach_device(vfio, alloc_ioas(iommufd), options.vfio);
}

/* The kernel has it as it was, and with DMA enabled: see the trace */
static void vfio_enable_dma(void)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	__u16 command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

	check(ioctl(vfio, VFIO_DEVICE_GET_REGION_INFO, &config), "region info", options.vfio);
	check(pwrite(vfio, &command, sizeof(command), config.offset + PCI_COMMAND),
	      "write command register", options.vfio);
}

static void vfio_check_dma(void)
{
	__u8 config[PCI_COMMAND + 2];
	char path[PATH_MAX];

	find_path(options.vfio, path);
	read_config(path, config, sizeof(config));
	if (!(config[PCI_COMMAND] & PCI_COMMAND_MASTER))
		die("%s has lost its bus mastering", options.vfio);
}

/* vfio-pci refuses to be frozen: those that were frozen before must be unfrozen */
static void fail_to_kexec(void)
{
	prevent_freeze(vfio, true, options.vfio);
	must_refuse(reboot(RB_KEXEC) ? errno : 0, EINVAL, "kexec", options.vfio);
	prevent_freeze(vfio, false, options.vfio);
}

/* Says so here and in the trace, where everything that matters is seen before. */
static void mark(const char *what)
{
	for_each_device(dev)
		if (!is_removed(dev))
			show_path(dev->bdf);
	if (options.vfio)
		show_path(options.vfio);
	mark_trace();
	say("%s", what);
}

/* ---- stage 1 ---- */

static void preserve(void)
{
	session = check_luo(luo_create_session(luo, SESSION), "create session", SESSION);
	check_luo(luo_session_preserve_fd(session, memfd, MEMORY_TOKEN), "preserve", "memory");
	for_each_device(dev)
		check_luo(luo_session_preserve_fd(session, dev->fd, dev - devices),
			  "preserve", dev->bdf);
	if (options.vfio)
		check_luo(luo_session_preserve_fd(session, vfio, VFIO_TOKEN), "preserve",
			  options.vfio);
}

static void create_memory(void)
{
	memfd = check(memfd_create(SESSION, 0), "memfd", SESSION);
	check(ftruncate(memfd, sizeof(*memory)), "memfd size", SESSION);
}

static void map_memory(void)
{
	memory = mmap(NULL, sizeof(*memory), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (memory == MAP_FAILED)
		die("map memory: %s", strerror(errno));
}

/* Removed and found again, the device is another one. */
static void replace(struct device *dev)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/remove", dev->bdf);
	write_text(path, "1");
	write_text("/sys/bus/pci/rescan", "1");
	if (!has(dev, "driver"))
		die("%s wasn't found again", dev->bdf);
}

/*
 * A file outlives the binding of its device, which then isn't its to unpreserve, nor
 * in the next kernel to retrieve or to wait for
 */
static void preserve_outlived(struct device *dev)
{
	int sessions[2];

	for (int i = 0; i < 2; i++) {
		sessions[i] = check_luo(luo_create_session(luo, old_session[i]),
					"create session", old_session[i]);
		check_luo(luo_session_preserve_fd(sessions[i], dev->fd, 0), "preserve",
			  dev->bdf);
		if (options.replace)
			replace(dev);
		else
			rebind(dev);
		close_device(dev);
		open_device(dev);
	}
	preserve();
	close(sessions[0]);
}

/* A device has one state, however many files */
static void preserve_twice_must_fail(struct device *dev)
{
	int fd = check(try_open(dev), "open", dev->bdf);

	must_refuse(-luo_session_preserve_fd(session, fd, UNUSED_TOKEN), EBUSY,
		    "preserve-twice", dev->bdf);
	close(fd);
}

static void leave_computing(struct device *dev)
{
	__u32 number = dev == devices ? LONG_FACTORIAL : SHORT_FACTORIAL;

	memory->device[dev - devices].number = number;
	memory->device[dev - devices].liveness = liveness(dev);
	fill(dev, 3);
	dma(dev, EDU_DMA_TO_DEVICE);
	fill(dev, 4);
	start(dev, number);
}

/* Behind an IOMMU */
static void refuse(void)
{
	session = check_luo(luo_create_session(luo, SESSION), "create session", SESSION);
	for_each_device(dev) {
		must_refuse(-luo_session_preserve_fd(session, dev->fd, dev - devices), EOPNOTSUPP,
			    "preserve", dev->bdf);
		use(dev, "refused");
	}
	say("done");
}

static void stage1(void)
{
	load_module();
	luo = check(luo_open_device(), "open", LUO_DEVICE);
	create_memory();
	map_memory();
	for_each_device(dev) {
		open_device(dev);
		use(dev, "first");
	}
	if (options.vfio) {
		vfio_open();
		vfio_attach();
		vfio_enable_dma();
	}
	load_kernel("/kernel", "/initrd.img", options.append);

	mark("preserving");
	if (options.iommu == 1) {
		refuse();
		return;
	}
	if (options.outlive)
		preserve_outlived(&devices[nr_devices - 1]);
	else
		preserve();
	if (options.abort) {
		close(session);
		for_each_device(dev)
			use(dev, "aborted");
		preserve();
	}
	preserve_twice_must_fail(devices);
	for_each_device(dev) {
		use(dev, "preserved");
		leave_computing(dev);
	}
	if (options.vfio)
		fail_to_kexec();
	remove_last("preserved", "remove");
	remove_last("unbound", "driver/unbind");
	for_each_device(dev)
		if (!is_removed(dev))
			say("left bdf=%s computing=%d", dev->bdf, is_computing(dev));

	/* LUO has them */
	for_each_device(dev)
		close_device(dev);
	unload_must_fail();
	start_kernel();
}

/* ---- stage 2 ---- */

static void check_as_left(struct device *dev)
{
	__u32 number = memory->device[dev - devices].number;

	if (liveness(dev) != memory->device[dev - devices].liveness)
		die("%s was set up anew", dev->bdf);
	say("found bdf=%s computing=%d", dev->bdf, is_computing(dev));
	check_buffer(dev, 4, "the buffer");
	check_factorial(dev, number);
	dma(dev, EDU_DMA_FROM_DEVICE);
	check_buffer(dev, 3, "what the device has kept");
	say("intact bdf=%s", dev->bdf);
}

static void take_back(struct device *dev)
{
	int fd = luo_session_retrieve_fd(session, dev - devices);
	int err = fd < 0 ? -fd : 0;

	if (is_removed(dev) || is_lost(dev)) {
		/* An incoming device may get its driver back */
		must_refuse(err, strcmp(options.remove, "forsaken") ? ENODEV : EAGAIN, "retrieve",
			    dev->bdf);
		return;
	}
	if (is_damaged(dev)) {
		must_refuse(err, EIO, "retrieve", dev->bdf);
		return;
	}
	if (options.iommu) {
		must_refuse(err, EOPNOTSUPP, "retrieve", dev->bdf);
		return;
	}
	dev->fd = check_luo(fd, "retrieve", dev->bdf);
	map_buffer(dev);
	check_as_left(dev);
}

static void open_must_fail(struct device *dev)
{
	if (!is_removed(dev) && !is_lost(dev))
		must_refuse(try_open(dev) < 0 ? errno : 0, EBUSY, "open", dev->bdf);
}

static void retrieve_session(void)
{
	session = check_luo(luo_retrieve_session(luo, SESSION), "retrieve session", SESSION);
}

static void finish_outlived(void)
{
	const char *name = old_session[1];
	int old = check_luo(luo_retrieve_session(luo, name), "retrieve session", name);

	must_refuse(-luo_session_retrieve_fd(old, 0), ENODEV, "retrieve", name);
	check_luo(luo_session_finish(old), "finish session", name);
	close(old);
}

static void finish_devices(void)
{
	check_luo(luo_session_finish(session), "finish session", SESSION);
	close(session);
	mark("finished");
}

/* As any other device */
static void check_ordinary(struct device *dev, const char *when)
{
	open_device(dev);
	use(dev, when);
	close_device(dev);
}

static void stage2(void)
{
	load_module();
	if (options.rebind) {
		for_each_device(dev)
			if (!is_removed(dev))
				rebind(dev);
		if (options.module)
			expect(unload_module(MODULE), 0, "unload", options.module);
		load_module();
	}
	remove_last("incoming", "remove");

	luo = check(luo_open_device(), "open", LUO_DEVICE);
	retrieve_session();
	memfd = check_luo(luo_session_retrieve_fd(session, MEMORY_TOKEN), "retrieve", "memory");
	map_memory();
	unload_must_fail();
	for_each_device(dev) {
		open_must_fail(dev);
		if (!is_removed(dev) && !is_lost(dev))
			check_quiet(dev);
	}
	for_each_device(dev)
		if (is_damaged(dev))
			damage(dev);
	remove_last("forsaken", "driver/unbind");
	mark("retrieving");
	if (options.outlive)
		finish_outlived();
	if (!options.forget)
		for_each_device(dev)
			take_back(dev);
	if (options.vfio) {
		vfio = check_luo(luo_session_retrieve_fd(session, VFIO_TOKEN), "retrieve",
				 options.vfio);
		vfio_attach();
		vfio_check_dma();
	}
	remove_last("retrieved", "remove");
	remove_last("used", "driver/unbind");
	finish_devices();

	for_each_device(dev) {
		if (dev->buffer && !is_removed(dev))
			use(dev, "finished");
		if (dev->buffer)
			close_device(dev);
		if (!has(dev, "config"))
			continue;
		if (is_removed(dev))
			bind_driver(dev);
		check_ordinary(dev, "reopened");
		rebind(dev);
		check_ordinary(dev, "rebound");
	}
	if (options.module)
		expect(unload_module(MODULE), 0, "unload", options.module);
	say("done");
}

static void usage(void)
{
	fprintf(stderr,
		"edu --stage 1|2 [options] <bdf> [<bdf>...]\n"
		"  --append TEXT   for the end of the next kernel's command line\n"
		"  --module FILE   the driver, if it isn't built in\n"
		"  --abort         in stage 1 preserve, cancel, preserve\n"
		"  --outlive       in stage 1 preserve, rebind, preserve, cancel the first\n"
		"  --replace       with --outlive: remove and find again, not only rebind\n"
		"  --rebind        in stage 2 unbind, unload and load the driver first\n"
		"  --iommu STAGE   there is one from this stage on: preserve or retrieve fails\n"
		"  --vfio BDF      preserve this one too, it is bound to vfio-pci; and fail once\n"
		"  --forget        in stage 2 finish, and retrieve no device\n"
		"  --remove WHEN   remove the last device when it is: preserved, incoming, retrieved;\n"
		"                  or unbind it when it is preserved: unbound, incoming: forsaken,\n"
		"                  retrieved: used; or write to a register when it is incoming:\n"
		"                  damaged\n");
	exit(2);
}

static int parse_options(int argc, char *argv[])
{
	static const struct option names[] = {
		{ "stage", required_argument, NULL, 's' },
		{ "append", required_argument, NULL, 'c' },
		{ "module", required_argument, NULL, 'm' },
		{ "abort", no_argument, NULL, 'a' },
		{ "outlive", no_argument, NULL, 'l' },
		{ "replace", no_argument, NULL, 'p' },
		{ "rebind", no_argument, NULL, 'b' },
		{ "forget", no_argument, NULL, 'f' },
		{ "iommu", required_argument, NULL, 'o' },
		{ "vfio", required_argument, NULL, 'v' },
		{ "remove", required_argument, NULL, 'r' },
		{ }
	};
	int stage = 0, opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (opt) {
		case 's':
			stage = atoi(optarg);
			break;
		case 'c':
			options.append = optarg;
			break;
		case 'm':
			options.module = optarg;
			break;
		case 'a':
			options.abort = true;
			break;
		case 'l':
			options.outlive = true;
			break;
		case 'p':
			options.replace = true;
			break;
		case 'b':
			options.rebind = true;
			break;
		case 'f':
			options.forget = true;
			break;
		case 'o':
			options.iommu = atoi(optarg);
			break;
		case 'v':
			options.vfio = optarg;
			break;
		case 'r':
			options.remove = optarg;
			break;
		default:
			usage();
		}
	}
	return stage;
}

int main(int argc, char *argv[])
{
	int stage = parse_options(argc, argv);

	setvbuf(stdout, NULL, _IOLBF, 0);
	nr_devices = argc - optind;
	if (stage < 1 || stage > 2 || nr_devices < 1 || nr_devices > MAX_DEVICES)
		usage();
	for (int i = 0; i < nr_devices; i++)
		devices[i].bdf = argv[optind + i];

	say("stage %d", stage);
	if (stage == 1)
		stage1();
	else
		stage2();
	return 0;
}
