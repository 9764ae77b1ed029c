// SPDX-License-Identifier: GPL-2.0
/*
 * What a VMM can rely on, and what can go wrong for it.
 *
 *	vfio --stage 1 --test NAME --preserve N <bdf>...	use, preserve, kexec
 *	vfio --stage N --test NAME --preserve N <bdf>...	take back, check, finish
 *
 * Devices are bound to vfio-pci, most are behind an IOMMU; the first N are preserved.
 * Those for which libvfio has a driver copy memory by DMA. In later stages they do so with
 * what stage 1 has written to their registers.
 *
 * Lines that begin with "VMM:" are for programs, see vmtest.py.
 */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/wait.h>

#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libliveupdate.h>
#include <libvfio.h>

#include "guest.h"

#define MAX_DEVICES	8
#define MEMORY_TOKEN	MAX_DEVICES
#define UNUSED_TOKEN	(MAX_DEVICES + 1)
#define IOVA_BASE	0x100000000ULL
#define COPY_SIZE	SZ_4K
/* For what may take long on a kernel with all checks */
#define LIMIT_MS	120000
#define CONFIG_SIZE	256
/* Of 80 bytes each, behind a header of 16 bytes: see linux/kho/abi/luo.h and block.h */
#define SESSIONS_OF_PAGE ((4096 - 16) / 80)

/* Registers of an e1000, and of an igb: reading ICR clears it, writing ICS sets bits of it */
#define E1000_ICR		0x00c0
#define E1000_ICS		0x00c8
#define E1000_IMS		0x00d0
#define E1000_IMC		0x00d8
#define E1000_LINK_CHANGE	0x04
#define IGB_GPIE		0x1514

#define VF_TOKEN	"14d63f20-8445-11ea-8900-1f9ce7d5650d"

/* What the user writes to registers that vfio only keeps for it */
#define VIRTUAL_LINE	0x5a
#define VIRTUAL_BAR	0x5a000000

/* What a device and its user share, in a memfd. */
struct memory {
	__u8 region[SZ_1M];		/* libvfio's driver's */
	__u8 source[COPY_SIZE];
	__u8 target[COPY_SIZE];
	__u8 config[CONFIG_SIZE];	/* as it is to be again */
	__u32 virtual_bar;
	__u8 pad[SZ_4K - CONFIG_SIZE - sizeof(__u32)];
};

struct device {
	const char *bdf;
	struct memory *memory;
	struct vfio_pci_device *vfio;
};

static struct {
	const char *test;
	const char *append;
	int preserve;
	bool again;
} options = {
	.append = "",
};

static struct device devices[MAX_DEVICES];
static int nr_devices;
static int luo, memfd;
static struct iommu *iommu;

#define for_each_device(dev) \
	for (struct device *dev = devices; dev < devices + nr_devices; dev++)
#define for_each_preserved(dev) \
	for (struct device *dev = devices; dev < devices + options.preserve; dev++)

static int token(struct device *dev)
{
	return dev - devices;
}

/* ---- sysfs ---- */

/* Returns the error number, or 0 */
static int try_attribute(struct device *dev, const char *name, const char *text)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", dev->bdf, name);
	return -try_write(path, text);
}

static bool has_entry(struct device *dev, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", dev->bdf, name);
	return !access(path, F_OK);
}

static bool is_there(struct device *dev)
{
	return has_entry(dev, "");
}

static bool is_bound(struct device *dev)
{
	return has_entry(dev, "driver");
}

static bool has_cdev(struct device *dev)
{
	char path[PATH_MAX];

	return find_cdev(dev->bdf, path);
}

static void allow_suspend(struct device *dev, const char *control)
{
	expect(try_attribute(dev, "power/control", control), 0, "suspend", dev->bdf);
}

static bool is_master(struct device *dev)
{
	char path[PATH_MAX];
	__u8 config[PCI_COMMAND + 1];

	find_path(dev->bdf, path);
	read_config(path, config, sizeof(config));
	return config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* Sooner or later vfio-pci suspends a device that nobody has open: not now. */
static void read_all_config(struct device *dev, __u8 *config)
{
	char path[PATH_MAX];

	find_path(dev->bdf, path);
	memset(config, 0, CONFIG_SIZE);
	allow_suspend(dev, "on");
	read_config(path, config, CONFIG_SIZE);
	allow_suspend(dev, "auto");
}

/* ---- the driver, if it is a module ---- */

static void unload_must_fail(const char *when)
{
	if (!access("/sys/module/vfio_pci/initstate", F_OK))
		expect(unload_module("vfio_pci"), EWOULDBLOCK, "unload", when);
}

/* ---- a device and its memory ---- */

static void map_memory(void)
{
	struct memory *memory = mmap(NULL, MAX_DEVICES * sizeof(*memory),
				     PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (memory == MAP_FAILED)
		die_errno(errno, "map memory");
	for (int i = 0; i < MAX_DEVICES; i++)
		devices[i].memory = &memory[i];
}

static void create_memory(void)
{
	memfd = check(memfd_create("memory", 0), "memfd", "create");
	check(ftruncate(memfd, MAX_DEVICES * sizeof(struct memory)), "memfd", "size");
	map_memory();
}

static void create_iommu(void)
{
	static struct dma_region region;

	iommu = iommu_init(MODE_IOMMUFD);
	region = (struct dma_region){
		.vaddr = devices[0].memory,
		.iova = IOVA_BASE,
		.size = MAX_DEVICES * sizeof(struct memory),
	};
	iommu_map(iommu, &region);
}

static bool has_driver(struct device *dev)
{
	return dev->vfio->driver.ops;
}

static void set_region(struct device *dev)
{
	dev->vfio->driver.region = (struct dma_region){
		.vaddr = dev->memory->region,
		.iova = to_iova(dev->vfio, dev->memory->region),
		.size = sizeof(dev->memory->region),
	};
}

static void open_device(struct device *dev)
{
	dev->vfio = vfio_pci_device_init(dev->bdf, iommu);
	set_region(dev);
	if (has_driver(dev))
		vfio_pci_driver_init(dev->vfio);
	else
		vfio_pci_cmd_set(dev->vfio, PCI_COMMAND_MASTER);
}

static void adopt_device(struct device *dev, int fd)
{
	dev->vfio = vfio_pci_device_init_from_fd(dev->bdf, iommu, fd);
	set_region(dev);
	if (has_driver(dev))
		vfio_pci_driver_adopt(dev->vfio);
}

static void close_device(struct device *dev)
{
	/* Leave it to the kernel to stop it */
	dev->vfio->driver.initialized = false;
	vfio_pci_device_cleanup(dev->vfio);
	dev->vfio = NULL;
}

/* The driver has enabled it. */
static void disable_interrupt(struct device *dev)
{
	if (has_driver(dev))
		vfio_pci_msix_disable(dev->vfio);
}

static void check_dma(struct device *dev, const char *when)
{
	struct memory *memory = dev->memory;
	static __u8 seed;

	if (!has_driver(dev)) {
		if (!(vfio_pci_config_readw(dev->vfio, PCI_COMMAND) & PCI_COMMAND_MASTER))
			die("%s may not do DMA when %s", dev->bdf, when);
		return;
	}
	seed++;
	for (int i = 0; i < COPY_SIZE; i++)
		memory->source[i] = seed + i + (i >> 8);
	memset(memory->target, 0, COPY_SIZE);
	if (vfio_pci_driver_memcpy(dev->vfio, to_iova(dev->vfio, memory->source),
				   to_iova(dev->vfio, memory->target), COPY_SIZE))
		die("%s doesn't copy when %s", dev->bdf, when);
	if (memcmp(memory->source, memory->target, COPY_SIZE))
		die("%s copies wrong data when %s", dev->bdf, when);
	say("copies bdf=%s when=%s", dev->bdf, when);
}

static bool wait_for_event(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	__u64 count;

	return poll(&poll_fd, 1, LIMIT_MS) == 1 && read(fd, &count, sizeof(count)) == sizeof(count);
}

/* Interrupts that libvfio doesn't know: INTx, and the request to give the device back. */
static int watch(struct device *dev, __u32 index)
{
	return watch_irq(dev->vfio->fd, index, dev->bdf);
}

static void check_interrupt(struct device *dev, const char *when)
{
	int fd = dev->vfio->msi_eventfds[dev->vfio->driver.msi];

	if (!has_driver(dev))
		return;
	vfio_pci_driver_send_msi(dev->vfio);
	if (!wait_for_event(fd))
		die("%s raises no interrupt when %s", dev->bdf, when);
}

/* The guest may have missed one: the kernel signals once. */
static void check_spurious_interrupt(struct device *dev)
{
	int vector = dev->vfio->driver.msi;

	if (!has_driver(dev))
		return;
	vfio_pci_msix_enable(dev->vfio, vector, 1);
	if (!wait_for_event(dev->vfio->msi_eventfds[vector]))
		die("%s: no interrupt when it is armed", dev->bdf);
	check_interrupt(dev, "armed");
}

static void write_virtual_config(struct device *dev)
{
	vfio_pci_config_writeb(dev->vfio, PCI_INTERRUPT_LINE, VIRTUAL_LINE);
	vfio_pci_config_writel(dev->vfio, PCI_BASE_ADDRESS_0, VIRTUAL_BAR);
	dev->memory->virtual_bar = vfio_pci_config_readl(dev->vfio, PCI_BASE_ADDRESS_0);
}

static void check_virtual_config(struct device *dev)
{
	__u8 line = vfio_pci_config_readb(dev->vfio, PCI_INTERRUPT_LINE);
	__u32 bar = vfio_pci_config_readl(dev->vfio, PCI_BASE_ADDRESS_0);

	if (line != VIRTUAL_LINE || bar != dev->memory->virtual_bar)
		die("%s has interrupt line %#x and BAR %#x, not %#x and %#x", dev->bdf, line, bar,
		    VIRTUAL_LINE, dev->memory->virtual_bar);
}

/* But for what freeze sets, and whoever arms INTx clears */
static void read_fixed_config(struct device *dev, __u8 *config)
{
	read_all_config(dev, config);
	config[PCI_COMMAND + 1] &= ~(PCI_COMMAND_INTX_DISABLE >> 8);
}

static void note_config(struct device *dev)
{
	read_fixed_config(dev, dev->memory->config);
}

/* Closing a device resets it to what it was before. */
static void note_pristine(struct device *dev)
{
	dev->vfio = vfio_pci_device_init(dev->bdf, iommu);
	close_device(dev);
	note_config(dev);
}

static void check_config(struct device *dev)
{
	__u8 config[CONFIG_SIZE];

	read_fixed_config(dev, config);
	for (int i = 0; i < CONFIG_SIZE; i++)
		if (config[i] != dev->memory->config[i])
			die("%s isn't what it was at first: byte %#x is %#x, not %#x", dev->bdf, i,
			    config[i], dev->memory->config[i]);
}

/* As any other device */
static void check_ordinary(struct device *dev)
{
	open_device(dev);
	check_dma(dev, "reopened");
	close_device(dev);
}

static void open_devices(void)
{
	for_each_device(dev) {
		open_device(dev);
		check_dma(dev, "opened");
		disable_interrupt(dev);
	}
}

static void open_all(void)
{
	create_iommu();
	open_devices();
}

/* ---- sessions ---- */

static int create_session(const char *name)
{
	return check_luo(luo_create_session(luo, name), "create session", name);
}

static void preserve_memory(int session)
{
	check_luo(luo_session_preserve_fd(session, memfd, MEMORY_TOKEN), "preserve", "memory");
}

/* While some device is being removed, or found, there is no place for another. */
static void preserve(int session, struct device *dev)
{
	int err;

	wait_for(LIMIT_MS, (err = luo_session_preserve_fd(session, dev->vfio->fd, token(dev))) !=
		 -EAGAIN, "%s", dev->bdf);
	check_luo(err, "preserve", dev->bdf);
}

static int preserve_all(void)
{
	int session = create_session("vmm");

	preserve_memory(session);
	for_each_preserved(dev)
		preserve(session, dev);
	return session;
}

static void open_and_preserve(void)
{
	open_all();
	preserve_all();
}

static void must_not_preserve(int fd, int err, const char *what)
{
	int session = create_session("refused");

	expect(-luo_session_preserve_fd(session, fd, 0), err, "preserve", what);
	close(session);
	say("refused what=%s", what);
}

static int retrieve_session(const char *name)
{
	return check_luo(luo_retrieve_session(luo, name), "retrieve session", name);
}

static int retrieve(int session, struct device *dev)
{
	return check_luo(luo_session_retrieve_fd(session, token(dev)), "retrieve", dev->bdf);
}

static void retrieve_memory(int session)
{
	memfd = check_luo(luo_session_retrieve_fd(session, MEMORY_TOKEN), "retrieve", "memory");
	map_memory();
}

static void retrieve_device(int session, struct device *dev)
{
	adopt_device(dev, retrieve(session, dev));
	check_dma(dev, "retrieved");
}

static void finish(int session)
{
	check_luo(luo_session_finish(session), "finish", "session");
	close(session);
}

/* ---- tests: a VMM as it should be ---- */

/* For tests that begin as it is usual */
static void usual_1(void)
{
	open_and_preserve();
	start_kernel();
}

static void kexec_must_fail(const char *when)
{
	expect(reboot(RB_KEXEC) ? errno : 0, EINVAL, "kexec", when);
}

/* Fails because of the last device: all must go on, with the interrupts that are on. */
static void fail_to_start_kernel(void)
{
	struct device *last = &devices[nr_devices - 1];

	prevent_freeze(last->vfio->fd, true, last->bdf);
	kexec_must_fail("with an ioeventfd");
	prevent_freeze(last->vfio->fd, false, last->bdf);
	for_each_device(dev) {
		check_dma(dev, "unfrozen");
		vfio_pci_config_readl(dev->vfio, PCI_VENDOR_ID);
	}
}

/* The last device isn't preserved, but a neighbour of the one before. */
static void waiting_1(void)
{
	int other;

	create_iommu();
	for_each_device(dev)
		note_pristine(dev);
	open_devices();
	for_each_preserved(dev)
		write_virtual_config(dev);
	preserve_all();
	other = create_session("other");
	preserve(other, &devices[nr_devices - 1]);
	fail_to_start_kernel();
	close(other);
	unload_must_fail("preserved");
	start_kernel();
}

static void open_must_fail(struct device *dev)
{
	struct iommu *container = iommu_init(MODE_VFIO_TYPE1V2_IOMMU);
	struct vfio_pci_device *group = vfio_pci_device_alloc(dev->bdf, container);
	char path[PATH_MAX];

	get_cdev(dev->bdf, path);
	expect(open(path, O_RDWR) < 0 ? errno : 0, EBUSY, "open", dev->bdf);

	vfio_pci_group_setup(group, dev->bdf);
	vfio_container_set_iommu(group);
	__vfio_pci_group_get_device_fd(group, dev->bdf, NULL);
	expect(group->fd < 0 ? errno : 0, EBUSY, "open by its group", dev->bdf);
	close(group->group_fd);
	iommu_cleanup(container);
	vfio_pci_device_free(group);
}

static void override(struct device *dev, const char *driver)
{
	expect(try_attribute(dev, "driver_override", driver), 0, "override", dev->bdf);
}

static void probe(struct device *dev)
{
	write_text("/sys/bus/pci/drivers_probe", dev->bdf);
}

static void bind_driver(struct device *dev)
{
	override(dev, "vfio-pci");
	probe(dev);
	wait_for(LIMIT_MS, has_cdev(dev), "%s to be bound", dev->bdf);
}

/* Whatever the administrator tries */
static void disturb(struct device *dev)
{
	expect(try_attribute(dev, "reset", "1"), EBUSY, "reset", dev->bdf);
	expect(try_attribute(dev, "../reset_subordinate", "1"), ENOTTY, "reset bus", dev->bdf);
	allow_suspend(dev, "auto");
	/* No other driver gets it, but what is set is kept */
	override(dev, "pcieport");
	expect(try_attribute(dev, "driver/unbind", dev->bdf), 0, "unbind", dev->bdf);
	probe(dev);
	wait_for(LIMIT_MS, has_cdev(dev), "%s to be bound", dev->bdf);
}

static void check_override(struct device *dev, const char *expected)
{
	char path[PATH_MAX], text[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", dev->bdf);
	fd = check(open(path, O_RDONLY), "open", path);
	check(read(fd, text, sizeof(text) - 1), "read", path);
	close(fd);
	text[strcspn(text, "\n")] = '\0';
	if (strcmp(text, expected))
		die("%s has %s for its driver_override, not %s", dev->bdf, text, expected);
}

/* A reset of the slot is what its close would lead to, too */
static void reset_neighbour(struct device *dev)
{
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };

	dev->vfio = vfio_pci_device_init(dev->bdf, iommu);
	expect(ioctl(dev->vfio->fd, VFIO_DEVICE_PCI_HOT_RESET, &reset) ? errno : 0, ENODEV,
	       "hot reset", dev->bdf);
	close_device(dev);
}

static void waiting_2(void)
{
	struct device *dev = &devices[0];
	int session = retrieve_session("vmm"), fd;

	retrieve_memory(session);
	create_iommu();
	open_must_fail(dev);
	unload_must_fail("waiting");
	disturb(dev);
	/* Now that of its neighbour, which is not preserved, in this slot */
	reset_neighbour(&devices[nr_devices - 1]);
	say("neighbour is closed");

	expect(-luo_session_retrieve_fd(session, UNUSED_TOKEN), ENOENT, "retrieve", "wrong token");
	fd = retrieve(session, dev);
	open_must_fail(dev);
	/* The same file once more */
	close(retrieve(session, dev));

	adopt_device(dev, fd);
	check_dma(dev, "retrieved");
	check_virtual_config(dev);
	expect(-__vfio_pci_device_reset(dev->vfio), EBUSY, "reset", dev->bdf);
	check_spurious_interrupt(dev);
	check_dma(dev, "armed");
	finish(session);
	check_dma(dev, "finished");
	close_device(dev);
	check_config(dev);
	check_override(dev, "pcieport");
	check_ordinary(dev);
}

static void must_be_stopped(struct device *dev, const char *when)
{
	if (is_master(dev))
		die("%s may do DMA when %s", dev->bdf, when);
	check_ordinary(dev);
}

/* It is as before finish, except that its session is gone. */
static void close_bound(struct device *dev, int fd)
{
	int session = create_session("again");

	bind_device(fd, iommu->iommufd, dev->bdf);
	expect(ioctl(fd, VFIO_DEVICE_RESET) ? errno : 0, EBUSY, "reset", dev->bdf);
	expect(-luo_session_preserve_fd(session, fd, token(dev)), EINVAL, "preserve", dev->bdf);
	close(session);
	close(fd);
}

/* By a process that waits until its user has let go */
static void wait_until_removed(struct device *dev, pid_t pid)
{
	int status;

	check(waitpid(pid, &status, 0), "wait", "removal");
	if (status || is_there(dev))
		die("%s isn't removed: status %#x", dev->bdf, status);
}

/* The host wants it back, and its user closes it some time. */
static void close_removed(struct device *dev, int fd)
{
	pid_t pid = check(fork(), "fork", "removal");

	if (!pid) {
		close(fd);
		exit(try_attribute(dev, "remove", "1"));
	}
	wait_for(LIMIT_MS, !has_cdev(dev), "%s to be removed", dev->bdf);
	if (!is_master(dev))
		die("%s is stopped before it is closed", dev->bdf);
	close(fd);
	wait_until_removed(dev, pid);
	write_text("/sys/bus/pci/rescan", "1");
	bind_driver(dev);
	check_ordinary(dev);
}

/* Once it is attached, it can be preserved again. */
static void take_late(struct device *dev, int fd)
{
	open_must_fail(dev);
	adopt_device(dev, fd);
	check_dma(dev, "attached");
	close(preserve_all());
	close_device(dev);
	check_ordinary(dev);
}

/*
 * An agent finishes its session at once, without the last device. All others go on for the users
 * that it hands their files to. Of these users the second and the fourth one are gone before they
 * have bound their devices, and the third one before it has attached it.
 */
static void late_2(void)
{
	int session = retrieve_session("vmm"), fds[MAX_DEVICES];

	retrieve_memory(session);
	for (int i = 0; i < nr_devices - 1; i++)
		fds[i] = retrieve(session, &devices[i]);
	finish(session);
	create_iommu();
	for (int i = 0; i < nr_devices - 1; i++)
		if (!is_master(&devices[i]))
			die("%s may not do DMA when it is finished", devices[i].bdf);
	must_be_stopped(&devices[nr_devices - 1], "nobody has retrieved it");

	close(fds[1]);
	must_be_stopped(&devices[1], "it is closed");
	close_removed(&devices[3], fds[3]);
	close_bound(&devices[2], fds[2]);
	must_be_stopped(&devices[2], "it is closed before it was attached");
	options.preserve = 1;
	take_late(&devices[0], fds[0]);
}

/* ---- tests: a VMM that is killed ---- */

static void killed(void (*work)(void))
{
	pid_t pid = check(fork(), "fork", "VMM");
	int status;

	if (!pid) {
		work();
		raise(SIGKILL);
	}
	check(waitpid(pid, &status, 0), "wait", "VMM");
	if (!WIFSIGNALED(status))
		exit(1);
}

/* The last two are in sessions of their own, and have names by what happens to these. */
static const char * const own_sessions[] = { "used", "unused" };
static int agent_session;

/* Whatever LUO does to make room for a session that it then refuses, it must be able to read. */
static void fill_page(void)
{
	char name[16];

	for (int i = 0; i < SESSIONS_OF_PAGE - 1 - ARRAY_SIZE(own_sessions); i++) {
		snprintf(name, sizeof(name), "fill %d", i);
		create_session(name);
	}
	expect(-luo_create_session(luo, name), EEXIST, "create session", name);
}

static void killed_1(void)
{
	killed(open_all);
	killed(open_and_preserve);
	open_all();
	options.preserve -= ARRAY_SIZE(own_sessions);
	preserve_all();
	for (int i = 0; i < ARRAY_SIZE(own_sessions); i++)
		preserve(create_session(own_sessions[i]), &devices[options.preserve + i]);
	fill_page();
	start_kernel();
}

static void take_files(void)
{
	for_each_preserved(dev)
		retrieve(agent_session, dev);
}

static void take_first(void)
{
	retrieve_memory(agent_session);
	create_iommu();
	retrieve_device(agent_session, &devices[0]);
}

static void take_used(void)
{
	struct device *dev = &devices[options.preserve];

	create_memory();
	create_iommu();
	adopt_device(dev, retrieve(retrieve_session("used"), dev));
}

static void take_unused(void)
{
	retrieve_session("unused");
}

/*
 * LUO finishes the session of a VMM that is killed, and the kernel closes the VMM's files. What
 * an agent has the session of isn't lost; a device that was bound can only be finished.
 */
static void killed_2(void)
{
	int fd;

	options.preserve -= ARRAY_SIZE(own_sessions);
	killed(take_used);
	killed(take_unused);
	for (int i = 0; i < ARRAY_SIZE(own_sessions); i++) {
		expect(-luo_retrieve_session(luo, own_sessions[i]), ENOENT, "retrieve session",
		       own_sessions[i]);
		if (is_master(&devices[options.preserve + i]))
			die("%s may do DMA for nobody", devices[options.preserve + i].bdf);
	}
	agent_session = retrieve_session("vmm");
	killed(take_files);
	killed(take_first);

	retrieve_memory(agent_session);
	create_iommu();
	fd = retrieve(agent_session, &devices[0]);
	expect(-__vfio_device_bind_iommufd(fd, iommu->iommufd, NULL), EINVAL, "bind twice",
	       devices[0].bdf);
	retrieve_device(agent_session, &devices[1]);
	finish(agent_session);
	close(fd);
	close_device(&devices[1]);
	for_each_device(dev)
		check_ordinary(dev);
}

/* ---- tests: several VMMs, several live updates ---- */

/* Two VMMs have half of the devices each. */
static const char * const vmms[] = { "first", "second" };

static bool is_of(struct device *dev, int vmm)
{
	return (dev - devices) * ARRAY_SIZE(vmms) / options.preserve == vmm;
}

static void several_preserve(void)
{
	int session;

	for (int i = 0; i < ARRAY_SIZE(vmms); i++) {
		session = create_session(vmms[i]);
		if (!i)
			preserve_memory(session);
		for_each_preserved(dev)
			if (is_of(dev, i))
				preserve(session, dev);
	}
}

static void several_1(void)
{
	open_all();
	several_preserve();
	start_kernel();
}

static void several_2(void)
{
	int sessions[ARRAY_SIZE(vmms)];

	for (int i = 0; i < ARRAY_SIZE(vmms); i++) {
		sessions[i] = retrieve_session(vmms[i]);
		if (!i) {
			retrieve_memory(sessions[i]);
			create_iommu();
		}
		for_each_preserved(dev)
			if (is_of(dev, i))
				retrieve_device(sessions[i], dev);
			else
				expect(-luo_session_retrieve_fd(sessions[i], token(dev)), ENOENT,
				       "retrieve of the other VMM's", dev->bdf);
	}
	for (int i = 0; i < ARRAY_SIZE(vmms); i++) {
		finish(sessions[i]);
		for_each_preserved(dev)
			check_dma(dev, i ? "finished" : "half-finished");
	}
	if (options.again) {
		load_kernel("/kernel", "/initrd.img", options.append);
		several_preserve();
		start_kernel();
	}
	for_each_preserved(dev) {
		close_device(dev);
		check_ordinary(dev);
	}
}

/* ---- tests: a device that goes away ---- */

/*
 * The last one is wanted back by the host while it is preserved, or was pulled: the kernel
 * removes it, and waits for its user. The session has to go.
 */
static void pulled_1(void)
{
	struct device *last = &devices[nr_devices - 1];
	int session, fd;

	open_all();
	fd = watch(last, VFIO_PCI_REQ_IRQ_INDEX);
	session = preserve_all();
	say("unplug");
	if (!wait_for_event(fd))
		die("nobody has asked for %s", last->bdf);
	expect(reboot(RB_KEXEC) ? errno : 0, EBUSY, "kexec", "during removal");
	close(session);
	close_device(last);
	wait_for(LIMIT_MS, !is_there(last), "%s to go", last->bdf);
	options.preserve--;
	preserve_all();
	say("pulled");
	start_kernel();
}

/*
 * A neighbour that isn't preserved is being removed, and its user keeps it. That must not be the
 * end of the host.
 */
static void pending_1(void)
{
	struct device *other = &devices[options.preserve];
	int fd, start[2];
	pid_t pid;
	char go;

	/* Before there are mappings of the device, which the process would inherit */
	check(pipe(start), "pipe", "removal");
	pid = check(fork(), "fork", "removal");
	if (!pid)
		exit(read(start[0], &go, 1) == 1 ? try_attribute(other, "remove", "1") : 1);

	open_all();
	fd = watch(other, VFIO_PCI_REQ_IRQ_INDEX);
	preserve_all();
	check(write(start[1], "", 1), "start", "removal");
	if (!wait_for_event(fd))
		die("nobody has asked for %s", other->bdf);
	expect(reboot(RB_KEXEC) ? errno : 0, EBUSY, "kexec", "during removal");
	for_each_preserved(dev)
		check_dma(dev, "unfrozen");
	close_device(other);
	wait_until_removed(other, pid);
	for_each_preserved(dev)
		check_dma(dev, "left alone");
	start_kernel();
}

static void take_back_2(void)
{
	int session = retrieve_session("vmm");

	retrieve_memory(session);
	create_iommu();
	for_each_preserved(dev)
		retrieve_device(session, dev);
	finish(session);
}

static void pending_2(void)
{
	take_back_2();
	for_each_preserved(dev)
		close_device(dev);
}

/* Nobody has come for the last one yet, and the next live update begins. */
static void left_1(void)
{
	open_all();
	options.preserve--;
	preserve_all();
	preserve(create_session("other"), &devices[options.preserve]);
	start_kernel();
}

static void left_2(void)
{
	struct device *left = &devices[--options.preserve];

	take_back_2();
	if (!options.again) {
		bind_driver(left);
		return;
	}
	load_kernel("/kernel", "/initrd.img", options.append);
	preserve_all();
	expect(reboot(RB_KEXEC) ? errno : 0, EBUSY, "kexec", "without its user");
	check_dma(&devices[0], "unfrozen");
	expect(try_attribute(left, "remove", "1"), 0, "remove", left->bdf);
	start_kernel();
}

/* The last ones aren't to be had. */
static void retrieve_without(int missing, int err)
{
	int session = retrieve_session("vmm");

	retrieve_memory(session);
	create_iommu();
	for_each_device(dev)
		retrieve_device(session, dev);
	for (int i = 0; i < missing; i++)
		expect(-luo_session_retrieve_fd(session, nr_devices + i), err, "retrieve", "last");
	finish(session);
	for_each_device(dev)
		close_device(dev);
}

static void pulled_2(void)
{
	retrieve_without(1, ENOENT);
}

static bool has_vanished(struct device *dev)
{
	char path[PATH_MAX];
	__u16 vendor;

	find_path(dev->bdf, path);
	read_config(path, (__u8 *)&vendor, sizeof(vendor));
	return vendor == 0xffff;
}

/* The last one is gone without a word, and nobody has told the kernel either. */
static void vanished_1(void)
{
	struct device *last = &devices[nr_devices - 1];

	open_all();
	preserve_all();
	say("pull");
	wait_for(LIMIT_MS, has_vanished(last), "%s to vanish", last->bdf);
	start_kernel();
}

/*
 * The removal of the first one begins when it is frozen, so nobody can refuse the kexec any more;
 * LUO has its file, so the removal never ends. The other ones, which nobody has open, are resumed
 * before they are shut down, which takes a while.
 */
static void remove_when_frozen(struct device *dev)
{
	pid_t pid = check(fork(), "fork", dev->bdf);
	__u16 vendor;

	if (pid)
		return;
	while (pread(dev->vfio->fd, &vendor, sizeof(vendor),
		     dev->vfio->config_space.offset) > 0)
		;
	expect(errno, EBUSY, "read", dev->bdf);
	say("removing");
	try_attribute(dev, "remove", "1");
	_exit(1);
}

static void removed_1(void)
{
	create_iommu();
	open_device(&devices[0]);
	preserve_all();
	remove_when_frozen(&devices[0]);
	start_kernel();
}

static void removed_2(void)
{
	nr_devices = options.preserve;
	retrieve_without(0, 0);
}

static void missing_2(void)
{
	retrieve_without(1, ENODEV);
}

/*
 * The last one was pulled between the kernels, and somebody removes the one before while it
 * waits. Found again, that one is as any other.
 */
static void gone_2(void)
{
	struct device *removed = &devices[--nr_devices];

	expect(try_attribute(removed, "remove", "1"), 0, "remove", removed->bdf);
	retrieve_without(2, ENODEV);
	write_text("/sys/bus/pci/rescan", "1");
	bind_driver(removed);
	check_ordinary(removed);
}

/* ---- tests: a neighbour in the IOMMU group ---- */

/* Not preserved. Its native driver is a module. */
static struct device sibling = { .bdf = "0000:01:02.0" };

static void sibling_2(void)
{
	int session = retrieve_session("vmm");

	run("insmod /edu.ko");
	if (is_bound(&sibling))
		die("%s has a driver", sibling.bdf);
	retrieve_memory(session);
	create_iommu();
	for_each_device(dev)
		retrieve_device(session, dev);
	finish(session);
	for_each_device(dev)
		close_device(dev);
	probe(&sibling);
	wait_for(LIMIT_MS, is_bound(&sibling), "%s to be bound", sibling.bdf);
	expect(unload_module("edu_liveupdate"), 0, "unload", "edu");
}

/* ---- tests: a panic ---- */

#define VMCORE "/proc/vmcore"

static bool is_crash_kernel(void)
{
	return !access(VMCORE, F_OK);
}

static void crash_kernel(void)
{
	load_crash_kernel("/kernel", "/initrd.img", options.append);
	say("panic");
	write_text("/proc/sysrq-trigger", "c");
	die("there was no panic");
}

/* The dump is there, nothing was handed over, and the device can be used. */
static void check_crash_kernel(void)
{
	static char buffer[SZ_1M];
	int fd = check(open(VMCORE, O_RDONLY), "open", VMCORE);
	ssize_t length, total = 0;

	while (total < SZ_64M && (length = check(read(fd, buffer, sizeof(buffer)), "read", VMCORE)))
		if (!total && memcmp(buffer, "\177ELF", 4))
			die("%s is no dump", VMCORE);
		else
			total += length;
	close(fd);
	if (total < SZ_64M)
		die("%s has %zd bytes", VMCORE, total);
	if (luo >= 0)
		expect(-luo_retrieve_session(luo, "vmm"), ENOENT, "retrieve session", "vmm");
	for_each_preserved(dev)
		bind_driver(dev);
	say("dump");
}

static void panic_1(void)
{
	open_and_preserve();
	crash_kernel();
}

static void panic_2(void)
{
	if (is_crash_kernel())
		check_crash_kernel();
	else
		crash_kernel();
}

/* ---- tests: kinds of devices ---- */

static void set_intx(struct device *dev, __u32 action, __u32 count)
{
	set_irqs(dev->vfio->fd, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE | action, count,
		 -1, dev->bdf);
}

static void raise_cause(struct device *dev)
{
	void *bar = dev->vfio->bars[0].vaddr;

	readl(bar + E1000_ICR);
	writel(E1000_LINK_CHANGE, bar + E1000_IMS);
	writel(E1000_LINK_CHANGE, bar + E1000_ICS);
}

/* vfio masks it when it comes. */
static void wait_for_intx(struct device *dev, int fd)
{
	if (!wait_for_event(fd))
		die("%s raises no INTx", dev->bdf);
	readl(dev->vfio->bars[0].vaddr + E1000_ICR);
	set_intx(dev, VFIO_IRQ_SET_ACTION_UNMASK, 1);
}

static void use_intx(struct device *dev, int fd, int count)
{
	for (int i = 0; i < count; i++) {
		raise_cause(dev);
		wait_for_intx(dev, fd);
	}
}

/* An e1000 has no other interrupt. */
static void check_intx(struct device *dev)
{
	int fd = watch(dev, VFIO_PCI_INTX_IRQ_INDEX);

	use_intx(dev, fd, 2);
	writel(~0U, dev->vfio->bars[0].vaddr + E1000_IMC);
	set_intx(dev, VFIO_IRQ_SET_ACTION_TRIGGER, 0);
	close(fd);
}

/* ---- tests: interrupts ---- */

/* One with MSI-X, MSI, INTx, MSI that has mask bits each: the first one and the last are igbs */
enum { MSIX, MSI, INTX, MASKED_MSI, NR_KINDS };

static int irq_fds[NR_KINDS];

static void raise_irq(int kind)
{
	if (kind == MSIX)
		vfio_pci_driver_send_msi(devices[kind].vfio);
	else
		raise_cause(&devices[kind]);
}

static void arm(int kind)
{
	struct vfio_pci_device *vfio = devices[kind].vfio;

	if (kind == MSIX) {
		vfio_pci_msix_enable(vfio, vfio->driver.msi, 1);
		irq_fds[kind] = vfio->msi_eventfds[vfio->driver.msi];
	} else {
		irq_fds[kind] = watch(&devices[kind], kind == INTX ? VFIO_PCI_INTX_IRQ_INDEX :
								    VFIO_PCI_MSI_IRQ_INDEX);
	}
}

/* All that have come within a while */
static __u64 nr_interrupts(int kind)
{
	__u64 count = 0;

	usleep(300000);
	check(fcntl(irq_fds[kind], F_SETFL, O_NONBLOCK), "fcntl", devices[kind].bdf);
	if (read(irq_fds[kind], &count, sizeof(count)) < 0)
		count = 0;
	if (kind == INTX) {
		readl(devices[kind].vfio->bars[0].vaddr + E1000_ICR);
		set_intx(&devices[kind], VFIO_IRQ_SET_ACTION_UNMASK, 1);
	}
	return count;
}

/* Or more: an e1000e has other causes, too */
static void expect_interrupts(int kind, __u64 nr, const char *when)
{
	__u64 found = nr_interrupts(kind);

	if (found < nr)
		die("%s: %llu interrupts when %s, not %llu", devices[kind].bdf,
		    (unsigned long long)found, when, (unsigned long long)nr);
}

static void check_irqs(const char *when)
{
	for (int kind = 0; kind < NR_KINDS; kind++) {
		raise_irq(kind);
		expect_interrupts(kind, 1, when);
	}
}

/* A VMM that turns nothing off. A kexec that is refused may signal once too often. */
static void interrupts_1(void)
{
	create_iommu();
	for_each_device(dev)
		open_device(dev);
	disable_interrupt(&devices[MSIX]);
	disable_interrupt(&devices[MASKED_MSI]);
	/* libvfio's driver has told it to use MSI-X */
	writel(0, devices[MASKED_MSI].vfio->bars[0].vaddr + IGB_GPIE);
	for (int kind = 0; kind < NR_KINDS; kind++)
		arm(kind);
	check_irqs("armed");
	preserve_all();
	fail_to_start_kernel();
	for (int kind = 0; kind < NR_KINDS; kind++)
		nr_interrupts(kind);
	check_irqs("unfrozen");
	start_kernel();
}

/*
 * One is raised before anybody listens. It isn't lost, but with MSI without mask bits; MSI and
 * MSI-X come once more, as the kernel signals each vector once. QEMU's I/O APIC forgets a line
 * that is asserted before the entry of the line is set up.
 */
static void interrupts_2(void)
{
	static const int numbers[] = { [MSIX] = 2, [MSI] = 1, [INTX] = 1, [MASKED_MSI] = 2 };
	int session = retrieve_session("vmm");

	retrieve_memory(session);
	create_iommu();
	for_each_preserved(dev)
		retrieve_device(session, dev);
	for (int kind = 0; kind < NR_KINDS; kind++) {
		if (kind != INTX)
			raise_irq(kind);
		arm(kind);
		if (kind == INTX)
			raise_irq(kind);
		expect_interrupts(kind, numbers[kind], "armed again");
	}
	check_irqs("retrieved");
	finish(session);
	check_irqs("finished");
	for_each_preserved(dev) {
		close_device(dev);
		check_ordinary(dev);
	}
}

static void rebind_without_mask(struct device *dev)
{
	expect(try_attribute(dev, "driver/unbind", dev->bdf), 0, "unbind", dev->bdf);
	bind_driver(dev);
}

/*
 * To vfio-pci, none can disable INTx. The second one, which isn't preserved, has nothing else, and
 * the last one can't mask its MSI.
 */
static void no_intx_mask_1(void)
{
	struct device *dev = &devices[0];
	int other;

	write_text("/sys/module/vfio_pci/parameters/nointxmask", "1");
	for_each_device(each)
		rebind_without_mask(each);
	open_all();
	must_not_preserve(devices[1].vfio->fd, EINVAL, "INTx-only");
	preserve_all();
	kexec_must_fail("without MSI");
	watch(dev, VFIO_PCI_INTX_IRQ_INDEX);
	kexec_must_fail("with INTx");
	set_intx(dev, VFIO_IRQ_SET_ACTION_TRIGGER, 0);
	watch(dev, VFIO_PCI_MSI_IRQ_INDEX);
	other = create_session("other");
	preserve(other, &devices[2]);
	watch(&devices[2], VFIO_PCI_MSI_IRQ_INDEX);
	kexec_must_fail("with MSI that can't be masked");
	close(other);
	start_kernel();
}

static void no_intx_mask_2(void)
{
	nr_devices = options.preserve;
	retrieve_without(0, 0);
}

/* ---- tests: asleep, or exported ---- */

/* The first of these is in low power, the guest has put the second one into D3hot */
enum { LOW_POWER, D3HOT, EXPORTED };

/* Of PCI_PM_CTRL */
#define STATE_D0	0
#define STATE_D3HOT	3

static void enter_low_power(struct device *dev)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
	};

	check(ioctl(dev->vfio->fd, VFIO_DEVICE_FEATURE, &feature), "low power", dev->bdf);
}

static int pm_control(struct device *dev)
{
	__u8 pos = vfio_pci_config_readb(dev->vfio, PCI_CAPABILITY_LIST);

	while (pos && vfio_pci_config_readb(dev->vfio, pos) != PCI_CAP_ID_PM)
		pos = vfio_pci_config_readb(dev->vfio, pos + PCI_CAP_LIST_NEXT);
	return pos + PCI_PM_CTRL;
}

static void expect_state(struct device *dev, __u16 state, const char *when)
{
	__u16 control = vfio_pci_config_readw(dev->vfio, pm_control(dev));

	if ((control & PCI_PM_CTRL_STATE_MASK) != state)
		die("%s is in D%u when %s", dev->bdf, control & PCI_PM_CTRL_STATE_MASK, when);
}

static int export_bar(struct device *dev)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf buf;
		struct vfio_region_dma_range range;
	} export = {
		.feature.argsz = sizeof(export),
		.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.buf.open_flags = O_RDWR | O_CLOEXEC,
		.buf.nr_ranges = 1,
		.range.length = SZ_4K,
	};

	return check(ioctl(dev->vfio->fd, VFIO_DEVICE_FEATURE, &export), "export", dev->bdf);
}

/* Maps it in an address space that no device uses. */
static void import_bar(int buf, const char *when)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = alloc_ioas(iommu->iommufd),
		.fd = buf,
		.length = SZ_4K,
	};

	check(ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &map), "import", when);
}

static void asleep_1(void)
{
	struct device *sleeper = &devices[D3HOT];
	int buf;

	open_and_preserve();
	enter_low_power(&devices[LOW_POWER]);
	vfio_pci_config_writew(sleeper->vfio, pm_control(sleeper), STATE_D3HOT);
	buf = export_bar(&devices[EXPORTED]);
	prevent_freeze(devices[nr_devices - 1].vfio->fd, true, "last");
	kexec_must_fail("with an ioeventfd");
	prevent_freeze(devices[nr_devices - 1].vfio->fd, false, "last");
	expect_state(sleeper, STATE_D3HOT, "unfrozen");
	/* Wasn't revoked */
	import_bar(buf, "unfrozen");
	start_kernel();
}

static void asleep_2(void)
{
	struct device *sleeper = &devices[D3HOT];
	int session = retrieve_session("vmm");

	retrieve_memory(session);
	create_iommu();
	for_each_device(dev) {
		if (dev != sleeper)
			retrieve_device(session, dev);
		else
			adopt_device(dev, retrieve(session, dev));
	}
	expect_state(sleeper, STATE_D0, "retrieved");
	finish(session);
	for_each_device(dev) {
		close_device(dev);
		check_ordinary(dev);
	}
}

/* The second one isn't preserved, and shares the line of the first one. */
static void shared_1(void)
{
	open_and_preserve();
	raise_cause(&devices[0]);
	start_kernel();
}

/* The first one asserts its INTx all the time, and nobody handles that before it is armed. */
static void shared_2(void)
{
	int session = retrieve_session("vmm");
	int fd;

	retrieve_memory(session);
	create_iommu();
	open_device(&devices[1]);
	fd = watch(&devices[1], VFIO_PCI_INTX_IRQ_INDEX);
	use_intx(&devices[1], fd, 20);
	retrieve_device(session, &devices[0]);
	fd = watch(&devices[0], VFIO_PCI_INTX_IRQ_INDEX);
	wait_for_intx(&devices[0], fd);
	use_intx(&devices[0], fd, 20);
	finish(session);
	for_each_device(dev)
		close_device(dev);
}

/* So it does, and nobody gets it back. */
static void shared_lost_2(void)
{
	int session = retrieve_session("vmm");
	int fd;

	retrieve_memory(session);
	if (luo_session_retrieve_fd(session, token(&devices[0])) >= 0)
		die("%s was retrieved", devices[0].bdf);
	create_iommu();
	open_device(&devices[1]);
	fd = watch(&devices[1], VFIO_PCI_INTX_IRQ_INDEX);
	use_intx(&devices[1], fd, 20);
	finish(session);
	use_intx(&devices[1], fd, 20);
	close_device(&devices[1]);
	if (!has_cdev(&devices[0]))
		bind_driver(&devices[0]);
}

/* The first one is the e1000. */
static void kinds_1(void)
{
	open_and_preserve();
	for_each_preserved(dev)
		note_config(dev);
	start_kernel();
}

static void kinds_2(void)
{
	int session = retrieve_session("vmm");

	retrieve_memory(session);
	create_iommu();
	for_each_preserved(dev) {
		retrieve_device(session, dev);
		check_config(dev);
	}
	check_intx(&devices[0]);
	finish(session);
	for_each_preserved(dev) {
		check_config(dev);
		close_device(dev);
		check_ordinary(dev);
	}
}

/* ---- tests: the example of the documentation ---- */

/* It must get as far as to stop itself, or to its end. */
static void run_minimal_vmm(const char *when, const char *cdev, bool stops)
{
	pid_t pid;
	int status;

	/* Only one process at a time can have it open */
	close(luo);
	pid = check(fork(), "fork", "minimal VMM");
	if (!pid) {
		execl("/bin/minimal_vmm", "minimal_vmm", when, cdev, NULL);
		die_errno(errno, "/bin/minimal_vmm");
	}
	check(waitpid(pid, &status, WUNTRACED), "wait", "minimal VMM");
	if (stops ? !WIFSTOPPED(status) : status)
		die("minimal VMM, %s: status %#x", when, status);
	say("minimal when=%s", when);
}

static void minimal_1(void)
{
	char path[PATH_MAX];

	get_cdev(devices[0].bdf, path);
	run_minimal_vmm("before", path, true);
	start_kernel();
}

static void minimal_2(void)
{
	run_minimal_vmm("after", NULL, false);
}

/* ---- tests: an IOMMU in only one of both kernels ---- */

static void set_master(struct device *dev)
{
	__u16 command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", dev->bdf);
	fd = check(open(path, O_RDWR), "open", path);
	check(pwrite(fd, &command, sizeof(command), PCI_COMMAND), "write", path);
	close(fd);
}

/* libvfio doesn't know devices without one. */
static void protected_1(void)
{
	int iommufd = check(open("/dev/iommu", O_RDWR), "open", "/dev/iommu");
	struct device *dev = &devices[0];
	int fd = open_cdev(dev->bdf);

	bind_device(fd, iommufd, dev->bdf);
	set_master(dev);
	check_luo(luo_session_preserve_fd(create_session("vmm"), fd, token(dev)), "preserve",
		  dev->bdf);
	start_kernel();
}

static void must_not_retrieve(int err)
{
	struct device *dev = &devices[0];
	int session = retrieve_session("vmm");

	expect(-luo_session_retrieve_fd(session, token(dev)), err, "retrieve", dev->bdf);
	if (is_master(dev))
		die("%s may do DMA that nobody knows where it goes", dev->bdf);
	finish(session);
}

static void unprotected_2(void)
{
	must_not_retrieve(EOPNOTSUPP);
}

static void protected_2(void)
{
	if (!is_master(&devices[0]))
		die("%s may not do DMA, so this run proves nothing", devices[0].bdf);
	must_not_retrieve(EOPNOTSUPP);
}

/* Its user would find a smaller device. */
static void no_ext_config_2(void)
{
	must_not_retrieve(ENODEV);
}

/* ---- tests: what is refused ---- */

static void refuse_group(struct device *dev)
{
	struct iommu *container = iommu_init(MODE_VFIO_TYPE1V2_IOMMU);
	struct vfio_pci_device *vfio = vfio_pci_device_init(dev->bdf, container);

	must_not_preserve(vfio->fd, ENOENT, "group");
	vfio_pci_device_cleanup(vfio);
	iommu_cleanup(container);
}

static void refuse_unbound(struct device *dev)
{
	int fd = open_cdev(dev->bdf);

	must_not_preserve(fd, ENOENT, "unbound");
	close(fd);
}

/* Neither one, nor a device that has any. The kernel binds it to vfio-pci. */
static void refuse_virtual_function(struct device *dev)
{
	struct device vf = { .bdf = "0000:01:10.0" };
	char path[PATH_MAX];
	int fd;

	open_device(dev);
	disable_interrupt(dev);
	vfio_device_set_vf_token(dev->vfio->fd, VF_TOKEN);
	allow_sriov();
	expect(try_attribute(dev, "sriov_numvfs", "1"), 0, "virtual function", dev->bdf);
	must_not_preserve(dev->vfio->fd, EINVAL, "with-VFs");

	wait_for(LIMIT_MS, find_cdev(vf.bdf, path), "%s to be bound", vf.bdf);
	fd = check(open(path, O_RDWR), "open", vf.bdf);
	expect(-__vfio_device_bind_iommufd(fd, iommu->iommufd, VF_TOKEN), 0, "bind", vf.bdf);
	must_not_preserve(fd, EINVAL, "VF");
	close(fd);
	expect(try_attribute(dev, "sriov_numvfs", "0"), 0, "no virtual function", dev->bdf);
	close_device(dev);
}

#define EXT_CAP_ID(header)	((header) & 0xffff)
#define EXT_CAP_NEXT(header)	((header) >> 20)

/* Returns what ACS Control of the port above was. */
static __u16 set_acs(struct device *dev, __u16 control)
{
	__u32 header = 0x100 << 20;
	char path[PATH_MAX];
	__u16 old, pos;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/../config", dev->bdf);
	fd = check(open(path, O_RDWR), "open", path);
	do {
		pos = EXT_CAP_NEXT(header);
		check(pread(fd, &header, sizeof(header), pos), "read", path);
	} while (EXT_CAP_ID(header) != PCI_EXT_CAP_ID_ACS && EXT_CAP_NEXT(header));
	if (EXT_CAP_ID(header) != PCI_EXT_CAP_ID_ACS)
		die("the port above %s has no ACS", dev->bdf);
	check(pread(fd, &old, sizeof(old), pos + PCI_ACS_CTRL), "read", path);
	check(pwrite(fd, &control, sizeof(control), pos + PCI_ACS_CTRL), "write", path);
	close(fd);
	return old;
}

/* As a script does for transfers between devices. The next kernel would make one group of them. */
static void refuse_lost_acs(struct device *dev)
{
	int session = create_session("acs");
	__u16 control;

	open_device(dev);
	disable_interrupt(dev);
	control = set_acs(dev, 0);
	must_not_preserve(dev->vfio->fd, EINVAL, "without-ACS");
	set_acs(dev, control);
	preserve_memory(session);
	preserve(session, dev);
	close(session);
	close_device(dev);
}

/* QEMU has no device with any. */
static void refuse_pasid(struct device *dev)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
		.flags = VFIO_DEVICE_ATTACH_PASID,
		.pasid = 1,
		.pt_id = iommu->ioas_id,
	};

	open_device(dev);
	expect(ioctl(dev->vfio->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? errno : 0, EINVAL,
	       "attach PASID", dev->bdf);
	close_device(dev);
}

static void refuse_vga(struct device *dev)
{
	dev->vfio = vfio_pci_device_init(dev->bdf, iommu);
	must_not_preserve(dev->vfio->fd, EINVAL, "VGA");
	close_device(dev);
}

/* The first two are VGA devices, the first of these is the boot display. */
static void refused_1(void)
{
	struct device *nic = &devices[2];

	refuse_group(nic);
	refuse_unbound(nic);
	create_iommu();
	refuse_lost_acs(nic);
	refuse_virtual_function(nic);
	refuse_pasid(nic);
	refuse_vga(&devices[1]);
}

/* ---- tests: an address space that is handed over ---- */

/* Nobody preserves this memory: it's in no file. */
static struct dma_region stray = { .iova = IOVA_BASE / 2 };

static void map_stray(void)
{
	stray.size = sysconf(_SC_PAGESIZE);
	stray.vaddr = mmap(NULL, stray.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);
	iommu_map(iommu, &stray);
}

/* What a device can reach must be preserved, and before the device is. */
static void refuse_unpreserved_memory(struct device *dev)
{
	int session = create_session("stray");

	must_not_preserve(dev->vfio->fd, EINVAL, "without-memory");
	map_stray();
	preserve_memory(session);
	expect(-luo_session_preserve_fd(session, dev->vfio->fd, token(dev)), EINVAL, "preserve",
	       "stray memory");
	close(session);
	iommu_unmap(iommu, &stray);
}

static void change_must_fail(struct device *dev)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = iommu->ioas_id,
		.iova = IOVA_BASE,
		.length = MAX_DEVICES * sizeof(struct memory),
	};
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };

	expect(-__iommu_map(iommu, &stray), EBUSY, "map", dev->bdf);
	expect(ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &unmap) ? errno : 0, EBUSY, "unmap",
	       dev->bdf);
	attach.pt_id = alloc_ioas(iommu->iommufd);
	expect(ioctl(dev->vfio->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) ? errno : 0, EBUSY,
	       "replace", dev->bdf);
	check_dma(dev, "preserved");
}

/* The session of the memory is closed, that of the device isn't. */
static void let_memory_go(struct device *dev)
{
	int memory = create_session("memory"), session = create_session("device");

	preserve_memory(memory);
	preserve(session, dev);
	close(memory);
	kexec_must_fail("without memory");
	kexec_must_fail("still without memory");
	close(session);
}

static void fixed_1(void)
{
	struct device *dev = &devices[0];
	int session;

	open_all();
	refuse_unpreserved_memory(dev);
	session = preserve_all();
	for_each_device(each)
		change_must_fail(each);
	close(session);
	iommu_map(iommu, &stray);
	iommu_unmap(iommu, &stray);
	let_memory_go(dev);
	preserve_all();
	start_kernel();
}

static void fixed_2(void)
{
	retrieve_without(0, 0);
}

/* ---- all of them ---- */

static const struct test {
	const char *name;
	void (*stage[2])(void);
} tests[] = {
	{ "waiting", { waiting_1, waiting_2 } },
	{ "late", { usual_1, late_2 } },
	{ "killed", { killed_1, killed_2 } },
	{ "several", { several_1, several_2 } },
	{ "pulled", { pulled_1, pulled_2 } },
	{ "pending", { pending_1, pending_2 } },
	{ "left", { left_1, left_2 } },
	{ "removed", { removed_1, removed_2 } },
	{ "sibling", { usual_1, sibling_2 } },
	{ "panic", { panic_1, panic_2 } },
	{ "panic_incoming", { usual_1, panic_2 } },
	{ "vanished", { vanished_1, missing_2 } },
	{ "gone", { usual_1, gone_2 } },
	{ "kinds", { kinds_1, kinds_2 } },
	{ "interrupts", { interrupts_1, interrupts_2 } },
	{ "no_intx_mask", { no_intx_mask_1, no_intx_mask_2 } },
	{ "asleep", { asleep_1, asleep_2 } },
	{ "shared", { shared_1, shared_2 } },
	{ "shared_lost", { shared_1, shared_lost_2 } },
	{ "minimal", { minimal_1, minimal_2 } },
	{ "unprotected", { usual_1, unprotected_2 } },
	{ "protected", { protected_1, protected_2 } },
	{ "no_ext_config", { usual_1, no_ext_config_2 } },
	{ "refused", { refused_1 } },
	{ "fixed", { fixed_1, fixed_2 } },
};

static const struct test *find_test(void)
{
	for (int i = 0; i < ARRAY_SIZE(tests); i++)
		if (!strcmp(tests[i].name, options.test ?: ""))
			return &tests[i];
	die("there is no test %s", options.test);
}

static int parse_options(int argc, char *argv[])
{
	static const struct option names[] = {
		{ "stage", required_argument, NULL, 's' },
		{ "test", required_argument, NULL, 't' },
		{ "append", required_argument, NULL, 'c' },
		{ "preserve", required_argument, NULL, 'p' },
		{ "again", no_argument, NULL, 'a' },
		{ }
	};
	int stage = 0, opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (opt) {
		case 's':
			stage = atoi(optarg);
			break;
		case 't':
			options.test = optarg;
			break;
		case 'c':
			options.append = optarg;
			break;
		case 'p':
			options.preserve = atoi(optarg);
			break;
		case 'a':
			options.again = true;
			break;
		default:
			exit(2);
		}
	}
	return stage;
}

/* libvfio's assertions end in exit(), too */
static void say_status(int status, void *unused)
{
	if (status)
		say("FAIL with status %d", status);
}

int main(int argc, char *argv[])
{
	int stage = parse_options(argc, argv);
	const struct test *test = find_test();

	setvbuf(stdout, NULL, _IOLBF, 0);
	on_exit(say_status, NULL);
	nr_devices = argc - optind;
	if (stage < 1 || nr_devices < 1 || nr_devices > MAX_DEVICES)
		die("vfio --stage N --test NAME --preserve N [--again] <bdf>...");
	for (int i = 0; i < nr_devices; i++)
		devices[i].bdf = argv[optind + i];
	options.preserve = min(options.preserve, nr_devices);

	say("stage %d", stage);
	luo = luo_open_device();
	if (!is_crash_kernel())
		check(luo, "open", LUO_DEVICE);
	if (stage == 1) {
		load_kernel("/kernel", "/initrd.img", options.append);
		create_memory();
	}
	test->stage[stage > 1]();
	say("done");
	return 0;
}
