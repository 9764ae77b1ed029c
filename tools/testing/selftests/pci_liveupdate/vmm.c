// SPDX-License-Identifier: GPL-2.0
/*
 * A small VMM whose devices go on working while the kernel is replaced.
 *
 *	vmm --stage 1 <bdf> [<bdf>...]	receive, preserve, kexec
 *	vmm --stage N <bdf> [<bdf>...]	take back, finish, check or go on as in stage 1
 *
 * Each device is bound to vfio-pci. One that there is a driver for in vmm_*.c, a NIC or a
 * disk, writes into a memfd; any other is only held. The first device, or more, is preserved
 * together with its memory. Of the others only the memory is: they show what a kexec does to
 * an ordinary device. The last stage ends when all has come in that was to come.
 *
 * Lines that begin with "VMM:" are for programs, see vmtest.py.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/io.h>
#include <linux/iommufd.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/types.h>
#include <linux/vfio.h>

#include <libliveupdate.h>

#include "guest.h"
#include "vmm.h"

#define MAX_NICS	248
#define MAX_SESSIONS	8

#define IOVA_BASE	0x100000000ULL
#define ALIAS_BASE	0x1000000000ULL
#define REUSED_SIZE	(4 * MEMORY_SIZE)
#define REUSED_PATTERN	0xa5
#define CANARY		0x5a
/* Where the memory is in its memfd: at a huge page. There is as much behind it. */
#define MEMORY_OFFSET	(2U << 20)

static struct {
	const char *kernel;
	const char *initrd;
	const char *append;
	int stage;
	int preserve;
	int use;
	int sessions;
	int abort;
	int replace;
	int map_late;
	bool forget;
	bool reuse;
	bool crash;
	bool disturb;
	bool swap;
	int hand_over;
	int alias;
	bool unfinished;
	bool apart;
	bool early;
	bool unhandled;
	bool unread;
	bool images;
	bool refused;
	bool forced;
	bool older;
	bool lying;
	bool irqs;
	bool again;
	const char *hotplug;
	const char *hotadd;
} options = {
	.kernel = "/kernel",
	.initrd = "/initrd.img",
	.append = "",
	.preserve = 1,
	.sessions = 1,
	.use = MAX_NICS,
};

static struct nic nics[MAX_NICS];
static int nr_nics;
static char **neighbours;	/* devices that aren't used, up to NULL */
static int luo, sessions[MAX_SESSIONS];
static int iommufd;
static __u32 ioas_id;

#define for_each_nic(nic) \
	for (struct nic *nic = nics; nic < nics + nr_nics; nic++)

/* ---- PCI as sysfs shows it ---- */

static const char *driver_of(const char *dir)
{
	static char link[PATH_MAX];
	char path[PATH_MAX + 8];
	ssize_t len;

	snprintf(path, sizeof(path), "%s/driver", dir);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		return "none";
	link[len] = '\0';
	return strrchr(link, '/') + 1;
}

/* BARs, ROM, VF BARs and, of a bridge, windows; each with its index. */
static void print_resources(const char *dir)
{
	unsigned long long start, end, flags;
	const char *separator = "";
	char path[PATH_MAX + 16];
	FILE *file;

	snprintf(path, sizeof(path), "%s/resource", dir);
	file = fopen(path, "r");
	if (!file)
		die_errno(errno, "%s", path);
	printf(" resources=");
	for (int i = 0; fscanf(file, "%llx %llx %llx", &start, &end, &flags) == 3; i++) {
		if (!flags)
			continue;
		printf("%s%d:%llx-%llx", separator, i, start, end);
		separator = ",";
	}
	fclose(file);
}

/* " name=value", up to the first space, of an attribute that not all devices have */
static void print_attribute(const char *dir, const char *name)
{
	char path[PATH_MAX + 32], value[32];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "r");
	if (!file)
		return;
	if (fscanf(file, "%31s", value) == 1)
		printf(" %s=%s", name, value);
	fclose(file);
}

static int is_bdf(const struct dirent *entry)
{
	return !!strchr(entry->d_name, ':');
}

static void print_iommu_group(const char *dir)
{
	struct dirent **members;
	char path[PATH_MAX + 32];
	int nr_members;

	snprintf(path, sizeof(path), "%s/iommu_group/devices", dir);
	nr_members = scandir(path, &members, is_bdf, alphasort);
	printf(" iommu_group=%s", nr_members < 0 ? "none" : "");
	for (int i = 0; i < nr_members; i++) {
		printf("%s%s", i ? "," : "", members[i]->d_name);
		free(members[i]);
	}
	if (nr_members >= 0)
		free(members);
}

/* The header without the status registers, which hardware changes */
static void print_header(__u8 *config, bool bridge)
{
	memset(config + PCI_STATUS, 0, 2);
	if (bridge)
		memset(config + PCI_SEC_STATUS, 0, 2);
	printf(" header=");
	for (int i = 0; i < PCI_STD_HEADER_SIZEOF; i++)
		printf("%02x", config[i]);
}

static void report_function(const char *dir, const char *bdf)
{
	__u8 config[PCI_STD_HEADER_SIZEOF];
	bool bridge;

	if (read_config(dir, config, sizeof(config)) != sizeof(config))
		die("%s has no config space", dir);
	/* Freeze sets it */
	config[PCI_COMMAND + 1] &= ~(PCI_COMMAND_INTX_DISABLE >> 8);

	printf("VMM: pci nic=%s bdf=%s driver=%s command=%02x%02x",
	       bdf, strrchr(dir, '/') + 1, driver_of(dir),
	       config[PCI_COMMAND + 1], config[PCI_COMMAND]);
	bridge = (config[PCI_HEADER_TYPE] & PCI_HEADER_TYPE_MASK) == PCI_HEADER_TYPE_BRIDGE;
	if (bridge)
		printf(" buses=%02x-%02x-%02x", config[PCI_PRIMARY_BUS],
		       config[PCI_SECONDARY_BUS], config[PCI_SUBORDINATE_BUS]);
	print_resources(dir);
	print_attribute(dir, "ari_enabled");
	print_attribute(dir, "current_link_speed");
	print_attribute(dir, "current_link_width");
	print_iommu_group(dir);
	print_header(config, bridge);
	printf("\n");
}

static void report_path(const char *bdf)
{
	visit_path(bdf, report_function);
}

static __u16 read_id(const char *bdf, const char *name)
{
	char path[PATH_MAX];
	unsigned int id;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%x", &id) != 1)
		die_errno(errno, "%s", path);
	fclose(file);
	return id;
}

static void replug(const char *dir)
{
	char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/remove", dir);
	write_text(path, "1");
	write_text("/sys/bus/pci/rescan", "1");
	if (access(dir, F_OK))
		die("%s didn't come back", dir);
}

/* ---- VFIO and iommufd ---- */

static void nic_open(struct nic *nic)
{
	nic->fd = open_cdev(nic->bdf);
}

static struct vfio_region_info region_info(struct nic *nic, __u32 index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	check(ioctl(nic->fd, VFIO_DEVICE_GET_REGION_INFO, &info), "region info", nic->bdf);
	return info;
}

void nic_map_bar(struct nic *nic, __u32 index)
{
	struct vfio_region_info bar = region_info(nic, index);

	nic->bar = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, nic->fd, bar.offset);
	if (nic->bar == MAP_FAILED)
		die_errno(errno, "%s map BAR %u", nic->bdf, index);
}

void nic_read_config(struct nic *nic, __u32 offset, void *value, __u32 size)
{
	__u64 start = region_info(nic, VFIO_PCI_CONFIG_REGION_INDEX).offset;

	if (pread(nic->fd, value, size, start + offset) != size)
		die_errno(errno, "%s read %#x of config space", nic->bdf, offset);
}

static void iommufd_open(void)
{
	iommufd = check(open("/dev/iommu", O_RDWR), "open", "/dev/iommu");
	ioas_id = alloc_ioas(iommufd);
}

/* One for all, or one for each */
static __u32 ioas_of(struct nic *nic)
{
	if (!options.apart)
		return ioas_id;
	if (!nic->ioas_id)
		nic->ioas_id = alloc_ioas(iommufd);
	return nic->ioas_id;
}

static void nic_attach(struct nic *nic)
{
	attach_device(nic->fd, ioas_of(nic), nic->bdf);
}

static void map_at(struct nic *nic, __u64 iova)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas_of(nic),
		.user_va = (uintptr_t)nic->memory,
		.length = MEMORY_SIZE,
		.iova = iova,
	};

	check(ioctl(iommufd, IOMMU_IOAS_MAP, &map), "map memory", nic->bdf);
}

/* Let the NIC reach its memory. This also pins it. */
static void nic_map_dma(struct nic *nic)
{
	map_at(nic, nic->iova);
}

/* Page tables as large as those of more memory than the machine has */
static void nic_map_aliases(struct nic *nic)
{
	for (int i = 0; i < options.alias; i++)
		map_at(nic, ALIAS_BASE + (__u64)i * MEMORY_SIZE);
}

/* What the NIC has to use as address: the physical one if there is no IOMMU. */
static __u64 dma_addr(struct nic *nic, __u64 offset)
{
	struct iommu_ioas_noiommu_get_pa get = {
		.size = sizeof(get),
		.ioas_id = ioas_of(nic),
		.iova = nic->iova + offset,
		.length = 1,
	};

	if (!ioctl(iommufd, IOMMU_IOAS_NOIOMMU_GET_PA, &get)) {
		nic->noiommu = true;
		return get.out_phys;
	}
	if (errno != EOPNOTSUPP)
		die_errno(errno, "%s get physical address", nic->bdf);
	return nic->iova + offset;
}

__u64 dma_addr_saved(struct nic *nic, const void *p)
{
	__u64 offset = (uintptr_t)p - (uintptr_t)nic->memory;

	return nic->memory->dma_addr[offset / DMA_PAGE] + offset % DMA_PAGE;
}

/* ---- memory ---- */

static void nic_map_memory(struct nic *nic)
{
	nic->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			   nic->memfd, MEMORY_OFFSET);
	if (nic->memory == MAP_FAILED)
		die_errno(errno, "%s map memory", nic->bdf);
}

/* The pages before and behind it */
static const off_t canaries[] = { MEMORY_OFFSET - DMA_PAGE, MEMORY_OFFSET + MEMORY_SIZE };

static void nic_create_memory(struct nic *nic)
{
	__u8 page[DMA_PAGE];

	nic->memfd = check(memfd_create(nic->bdf, 0), "memfd", nic->bdf);
	check(ftruncate(nic->memfd, MEMORY_SIZE + 2 * MEMORY_OFFSET), "memfd size", nic->bdf);
	memset(page, CANARY, sizeof(page));
	for (int i = 0; i < ARRAY_SIZE(canaries); i++)
		check(pwrite(nic->memfd, page, sizeof(page), canaries[i]), "canary", nic->bdf);
	nic_map_memory(nic);
}

/* No device may change what is beside its memory. */
static void nic_check_canaries(struct nic *nic)
{
	__u8 page[DMA_PAGE];

	for (int i = 0; i < ARRAY_SIZE(canaries); i++) {
		check(pread(nic->memfd, page, sizeof(page), canaries[i]), "canary", nic->bdf);
		for (int j = 0; j < sizeof(page); j++)
			if (page[j] != CANARY)
				die("%s: memory beside its own was changed", nic->bdf);
	}
}

/*
 * The ring must be contiguous for the NIC, and the pages of a memfd needn't be:
 * take the longest run of pages that is. Any run does, the host is told how many
 * packets fit.
 */
static void nic_place_ring(struct nic *nic)
{
	__u32 first = offsetof(struct memory, arena) / DMA_PAGE;
	struct memory *m = nic->memory;
	__u32 start = first, size = 0;

	for (__u32 i = 0; i < NR_DMA_PAGES; i++)
		m->dma_addr[i] = dma_addr(nic, (__u64)i * DMA_PAGE);

	for (__u32 i = first; i < NR_DMA_PAGES && size < RING_SIZE; i++) {
		if (i > start && m->dma_addr[i] != m->dma_addr[i - 1] + DMA_PAGE)
			start = i;
		if ((i + 1 - start) * DMA_PAGE > size) {
			size = (i + 1 - start) * DMA_PAGE;
			m->ring_offset = (__u64)start * DMA_PAGE;
		}
	}
	m->ring_size = size;
	nic->ring = (void *)m + m->ring_offset;
}

static __u32 nr_moved_pages(struct nic *nic)
{
	__u32 moved = 0;

	for (__u32 i = 0; i < NR_DMA_PAGES; i++)
		if (dma_addr(nic, (__u64)i * DMA_PAGE) != nic->memory->dma_addr[i])
			moved++;
	return moved;
}

/* ---- any NIC ---- */

__u32 nic_read(struct nic *nic, __u32 reg)
{
	return readl(nic->bar + reg);
}

void nic_write(struct nic *nic, __u32 reg, __u32 value)
{
	writel(value, nic->bar + reg);
}

/* Of 64 bits, the lower ones first */
void nic_write_address(struct nic *nic, __u32 reg, const void *p)
{
	__u64 address = dma_addr_saved(nic, p);

	nic_write(nic, reg, address);
	nic_write(nic, reg + 4, address >> 32);
}

static void nic_enable_dma(struct nic *nic)
{
	__u64 offset = region_info(nic, VFIO_PCI_CONFIG_REGION_INDEX).offset + PCI_COMMAND;
	__le16 command;

	nic_read_config(nic, PCI_COMMAND, &command, sizeof(command));
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (pwrite(nic->fd, &command, sizeof(command), offset) != sizeof(command))
		die_errno(errno, "%s write command register", nic->bdf);
}

/* ---- what may happen beside a preserved device ---- */

/* Look for new devices, unplug others, plug them in. */
static void replug_neighbours(void)
{
	char path[PATH_MAX];

	write_text("/sys/bus/pci/rescan", "1");
	for (char **bdf = neighbours; *bdf; bdf++) {
		find_path(*bdf, path);
		replug(path);
		/* And with its port */
		*strrchr(path, '/') = '\0';
		replug(path);
	}
}

/* QEMU takes the device away then. Asked by the host, the kernel waits for 5 s. */
static void switch_slot_off(const char *bdf)
{
	char address[sizeof("0000:00:00")], path[PATH_MAX];
	glob_t slots;
	FILE *file;

	if (glob("/sys/bus/pci/slots/*", 0, NULL, &slots))
		die("there are no slots");
	for (int i = 0; i < slots.gl_pathc; i++) {
		snprintf(path, sizeof(path), "%s/address", slots.gl_pathv[i]);
		file = fopen(path, "r");
		if (!file || !fgets(address, sizeof(address), file))
			die_errno(errno, "%s", path);
		fclose(file);
		snprintf(path, sizeof(path), "%s/power", slots.gl_pathv[i]);
		if (!strncmp(bdf, address, strlen(address)))
			write_text(path, "0");
	}
	globfree(&slots);
}

/* It is seen before it has addresses and can be bound, its cdev before that can be opened. */
static bool try_to_open(struct nic *nic, const char *dir)
{
	char path[PATH_MAX + 32];

	if (access(dir, F_OK))
		return false;
	snprintf(path, sizeof(path), "%s/driver_override", dir);
	write_text(path, "vfio-pci");
	if (try_write("/sys/bus/pci/drivers_probe", nic->bdf))
		return false;
	if (!find_cdev(nic->bdf, path))
		return false;
	nic->fd = open(path, O_RDWR);
	return nic->fd >= 0;
}

static void plug_in(struct nic *nic, const char *dir)
{
	say("plug bdf=%s", nic->bdf);
	wait_for(5000, try_to_open(nic, dir), "%s", nic->bdf);
	bind_device(nic->fd, iommufd, nic->bdf);
	nic_enable_dma(nic);
}

/* A NIC that the host plugs in can be used, and unplugged. */
static void hotplug(const char *bdf)
{
	struct nic nic = { .bdf = bdf };
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "/sys/bus/pci/devices/%s", bdf);
	plug_in(&nic, dir);
	nic_map_bar(&nic, VFIO_PCI_BAR0_REGION_INDEX);
	if (nic_read(&nic, 0) == ~0U)
		die("%s can't be reached", bdf);
	munmap(nic.bar, region_info(&nic, VFIO_PCI_BAR0_REGION_INDEX).size);
	close(nic.fd);
	switch_slot_off(bdf);
	if (!access(dir, F_OK))
		die("%s is still there", bdf);
}

static void disturb(void)
{
	if (options.disturb)
		replug_neighbours();
	if (options.hotplug)
		hotplug(options.hotplug);
	if (options.disturb || options.hotplug)
		say("disturbed");
}

/* ---- devices that there is a driver for ---- */

static void nic_find_driver(struct nic *nic)
{
	static const struct {
		__u16 vendor;
		__u16 device;
		const struct nic_driver *driver;
	} ids[] = {
		{ 0x8086, IGB_DEVICE, &intel_driver },
		{ 0x8086, 0x10d3, &intel_driver },
		{ 0x1af4, 0x1041, &virtio_driver },
		/* QEMU's NVMe with use-intel-id=on. The others have no disk, and are only held. */
		{ 0x8086, 0x5845, &nvme_driver },
	};
	__u16 vendor = read_id(nic->bdf, "vendor");

	nic->device = read_id(nic->bdf, "device");
	for (int i = 0; i < ARRAY_SIZE(ids); i++)
		if (ids[i].vendor == vendor && ids[i].device == nic->device)
			nic->driver = ids[i].driver;
}

/* It is to keep this value. */
void nic_mark(struct nic *nic, __u32 reg)
{
	struct memory *m = nic->memory;

	if (m->nr_regs == MAX_REGS)
		die("%s has too many registers", nic->bdf);
	m->reg[m->nr_regs].offset = reg;
	m->reg[m->nr_regs++].value = nic_read(nic, reg);
}

static void nic_report_registers(struct nic *nic)
{
	struct memory *m = nic->memory;
	__u32 intact = 0;

	for (__u32 i = 0; i < m->nr_regs; i++)
		if (nic_read(nic, m->reg[i].offset) == m->reg[i].value)
			intact++;
	say("registers bdf=%s intact=%u of=%u", nic->bdf, intact, m->nr_regs);
}

__u32 nr_received(struct nic *nic)
{
	__u32 n = 0;

	while (n < nic->memory->nr_desc && nic->driver->is_received(nic, n))
		n++;
	return n;
}

/* ---- stage 1 ---- */

static void nic_receive(struct nic *nic)
{
	nic_create_memory(nic);
	nic_map_dma(nic);
	nic_map_aliases(nic);
	nic_place_ring(nic);
	nic->driver->start(nic);
}

static void nic_set_up(struct nic *nic)
{
	nic_open(nic);
	/* VFIO resets the device at first open */
	bind_device(nic->fd, iommufd, nic->bdf);
	nic_attach(nic);
	nic_enable_dma(nic);
	if (nic->driver)
		nic_receive(nic);
}

static void nic_wait(struct nic *nic)
{
	wait_for(10000, nic->driver->is_ready(nic), "%s to be ready", nic->bdf);
	nic->driver->mark_registers(nic);
}

static __u64 memory_token(struct nic *nic)
{
	return 2 * (nic - nics);
}

static __u64 device_token(struct nic *nic)
{
	return memory_token(nic) + 1;
}

/* In the trace: everything that matters, and where we are */
static void mark(void)
{
	for_each_nic(nic)
		if (nic->preserved)
			show_path(nic->bdf);
	mark_trace();
}

/* All sessions have some of the devices. */
static int *session_of(struct nic *nic)
{
	return &sessions[(nic - nics) % options.sessions];
}

/* What one kernel creates, the next one takes back. */
static const char *session_name(int stage, int number)
{
	static char name[LIVEUPDATE_SESSION_NAME_LENGTH];

	snprintf(name, sizeof(name), "vmm-%d-%d", stage, number);
	return name;
}

static int create_session(const char *name)
{
	return check_luo(luo_create_session(luo, name), "create session", name);
}

static void create_sessions(void)
{
	for (int i = 0; i < options.sessions; i++)
		sessions[i] = create_session(session_name(options.stage, i));
}

/* While some device is being removed, or found, there is no place for another. */
static void preserve_device(int session, struct nic *nic)
{
	__u64 start = now_us();
	int err;

	wait_for(20000, (err = luo_session_preserve_fd(session, nic->fd, device_token(nic))) !=
		 -EAGAIN, "%s", nic->bdf);
	check_luo(err, "preserve device", nic->bdf);
	say("took bdf=%s us=%llu", nic->bdf, (unsigned long long)(now_us() - start));
}

/* Another device has a slot in the table, and gives it back. */
static void swap(struct nic *nic)
{
	int session = create_session("swap");

	preserve_device(session, nic);
	close(session);
	say("swapped bdf=%s", nic->bdf);
}

static void preserve_memory(struct nic *nic)
{
	if (nic->driver)
		check_luo(luo_session_preserve_fd(*session_of(nic), nic->memfd,
						  memory_token(nic)),
			  "preserve memory", nic->bdf);
}

static void preserve_nic(struct nic *nic)
{
	if (nic->preserved && !options.forget)
		preserve_device(*session_of(nic), nic);
}

/* All memory first: each NIC could reach that of all. */
static void preserve_nics(void)
{
	for_each_nic(nic)
		preserve_memory(nic);
	for_each_nic(nic) {
		preserve_nic(nic);
		if (options.swap && nic == nics)
			swap(&nics[options.preserve]);
	}
}

/* A device that the host plugs in when others are preserved is the last of them. */
static void hot_add(const char *bdf)
{
	struct nic *nic = &nics[nr_nics++];
	char dir[PATH_MAX];

	nic->bdf = bdf;
	nic->preserved = true;
	snprintf(dir, sizeof(dir), "/sys/bus/pci/devices/%s", bdf);
	plug_in(nic, dir);
	show_path(bdf);
	mark_trace();
	preserve_memory(nic);
	preserve_nic(nic);
	say("added bdf=%s", bdf);
}

/* The devices are as ordinary as before. */
static void abort_update(void)
{
	for (int i = 0; i < options.sessions; i++)
		close(sessions[i]);
	say("aborted");
	for_each_nic(nic) {
		__u32 count = nic->driver ? nr_received(nic) + 5 : 0;

		if (nic->driver)
			wait_for(20000, nr_received(nic) >= count, "packets at %s", nic->bdf);
	}
}

/* This is no kernel that a VMM should leave like this: it has yet to finish. */
static bool is_unfinished(void)
{
	return options.unfinished && options.stage > 1 && options.again;
}

/* If nothing was left for it, its init has to know. */
static void load_next_kernel(void)
{
	bool nothing = options.abort == options.stage || is_unfinished() || options.forced;
	char append[1024];

	snprintf(append, sizeof(append), "%s%s", options.append, nothing ? " preserve=0" : "");
	if (options.images)
		refuse_images(options.kernel, options.initrd);
	if (options.forced)
		force_image(options.kernel, options.initrd, append);
	else if (options.refused)
		refuse_image(options.kernel, options.initrd, append);
	else if (options.older && options.stage == 1)
		load_kernel(older_image(options.kernel), options.initrd, append);
	else if (options.lying)
		load_kernel(lying_image(options.kernel), options.initrd, append);
	else
		load_kernel(options.kernel, options.initrd, append);
}

/* The services of ports start with the first device that is preserved after a live update. */
static void start_services(void)
{
	sessions[0] = create_session("services");
	preserve_nics();
	close(sessions[0]);
}

static void preserve_all(void)
{
	if (options.stage > 1 && options.sessions == 1)
		start_services();
	mark();
	create_sessions();
	if (options.sessions)
		preserve_nics();
	say("preserved");
}

static void preserve_and_kexec(void)
{
	if (!is_unfinished())
		preserve_all();
	disturb();
	if (options.hotadd && options.stage == 1)
		hot_add(options.hotadd);
	if (options.abort == options.stage)
		abort_update();
	load_next_kernel();
	if (options.refused) {
		say("done");
		return;
	}
	for_each_nic(nic) {
		report_path(nic->bdf);
		if (nic->memory)
			say("leaving bdf=%s received=%u", nic->bdf, nr_received(nic));
	}
	start_kernel();
}

/* Move the NICs from one address space to the other, which has the same mappings, and back. */
static void replace_ioas(void)
{
	__u32 ids[2] = { ioas_id };

	ioas_id = alloc_ioas(iommufd);
	ids[1] = ioas_id;
	for_each_nic(nic)
		nic_map_dma(nic);
	say("replacing");
	for (int i = 1; i <= options.replace; i++) {
		ioas_id = ids[i % 2];
		for_each_nic(nic)
			nic_attach(nic);
	}
	say("replaced");
}

static void wait_for_irqs(void)
{
	for_each_nic(nic)
		irq_wait(nic, 5);
}

static void stage1(void)
{
	luo = check(luo_open_device(), "open", LUO_DEVICE);
	iommufd_open();
	for_each_nic(nic)
		nic_set_up(nic);
	for_each_nic(nic)
		if (nic->driver)
			nic_wait(nic);
	say("receiving");
	for_each_nic(nic)
		if (nic->driver)
			wait_for(20000, nr_received(nic) >= 20, "packets at %s", nic->bdf);
	if (options.irqs) {
		for_each_nic(nic)
			irq_set_up(nic, nic - nics);
		wait_for_irqs();
	}
	if (options.replace)
		replace_ioas();
	preserve_and_kexec();
}

/* ---- stage 2 ---- */

static void retrieve_sessions(void)
{
	for (int i = 0; i < options.sessions; i++) {
		const char *name = session_name(options.stage - 1, i);

		sessions[i] = check_luo(luo_retrieve_session(luo, name), "retrieve session", name);
	}
}

static void load_modules(void)
{
	run("insmod /irqbypass.ko && insmod /vfio-pci-core.ko && insmod /vfio-pci.ko");
	say("loaded");
}

/* They aren't as the previous kernel left them any more. */
static void bind_all(void)
{
	char path[PATH_MAX];

	for_each_nic(nic) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", nic->bdf);
		write_text(path, "vfio-pci");
		write_text("/sys/bus/pci/drivers_probe", nic->bdf);
	}
}

/* Nobody uses it. */
static void retrieve_memory(struct nic *nic)
{
	nic->memfd = check_luo(luo_session_retrieve_fd(*session_of(nic), memory_token(nic)),
			       "retrieve memory", nic->bdf);
	close(nic->memfd);
}

/* An agent opens LUO in the initrd. The memory is there, the device has to wait for its driver. */
static void retrieve_early(void)
{
	retrieve_sessions();
	for_each_nic(nic) {
		retrieve_memory(nic);
		for (int i = 0; i < 2; i++)
			expect(-luo_session_retrieve_fd(*session_of(nic), device_token(nic)),
			       EAGAIN, "retrieve device", nic->bdf);
	}
	if (!options.unhandled)
		load_modules();
}

static void retrieve_fds(struct nic *nic)
{
	int session = *session_of(nic);

	if (nic->driver) {
		nic->memfd = check_luo(luo_session_retrieve_fd(session, memory_token(nic)),
				       "retrieve memory", nic->bdf);
		nic_check_canaries(nic);
	}
	if (nic->preserved)
		nic->fd = check_luo(luo_session_retrieve_fd(session, device_token(nic)),
				    "retrieve device", nic->bdf);
}

/* Nothing has been done to the device yet. */
static void nic_find_packets(struct nic *nic)
{
	nic_map_memory(nic);
	nic->ring = (void *)nic->memory + nic->memory->ring_offset;
	say("found bdf=%s received=%u", nic->bdf, nr_received(nic));
}

static void nic_go_on(struct nic *nic)
{
	nic->driver->map_registers(nic);
	say("held bdf=%s moved_pages=%u", nic->bdf, nr_moved_pages(nic));
	nic_report_registers(nic);
}

static void nic_take_back(struct nic *nic)
{
	retrieve_fds(nic);
	if (nic->driver)
		nic_find_packets(nic);
	if (!nic->preserved)
		nic_open(nic);
	bind_device(nic->fd, iommufd, nic->bdf);
	if (nic->driver && !options.map_late)
		nic_map_dma(nic);
}

static void nic_hold(struct nic *nic)
{
	if (nic->driver)
		nic_go_on(nic);
	else
		say("held bdf=%s", nic->bdf);
}

/*
 * An IOMMU uses what a NIC is attached to from finish on. Before that it may be empty, left
 * and replaced.
 */
static void attach_empty(void)
{
	struct vfio_device_detach_iommufd_pt detach = { .argsz = sizeof(detach) };

	for_each_nic(nic)
		nic_attach(nic);
	for_each_nic(nic)
		check(ioctl(nic->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach), "detach", nic->bdf);
	for_each_nic(nic)
		nic_attach(nic);
	ioas_id = alloc_ioas(iommufd);
	for_each_nic(nic)
		nic_attach(nic);
}

static void map_late(int *session)
{
	usleep(options.map_late * 1000);
	for_each_nic(nic) {
		if (session_of(nic) != session)
			continue;
		if (nic->driver)
			nic_map_dma(nic);
		nic_hold(nic);
	}
}

/* An agent has the sessions. A VMM retrieves all files, and is gone before it has bound any. */
static void crash(void)
{
	pid_t pid;
	int status;

	retrieve_sessions();
	pid = check(fork(), "fork", "VMM");
	if (!pid) {
		for_each_nic(nic)
			retrieve_fds(nic);
		raise(SIGKILL);
	}
	check(waitpid(pid, &status, 0), "wait", "VMM");
	if (!WIFSIGNALED(status))
		die("the VMM hasn't crashed");
	say("crashed");
}

static void finish_session(int session)
{
	check_luo(luo_session_finish(session), "finish", "session");
	close(session);
}

/* The other way round than they were created. */
static void finish_sessions(void)
{
	for (int i = options.sessions - 1; i >= 0; i--) {
		if (options.map_late)
			map_late(&sessions[i]);
		/* From then on services of ports above these may start */
		mark();
		for_each_nic(nic)
			if (session_of(nic) == &sessions[i])
				say("finishing nic=%s", nic->bdf);
		finish_session(sessions[i]);
	}
	mark();
	say("finished");
}

static void attach_full(void)
{
	for_each_nic(nic) {
		nic_attach(nic);
		nic_hold(nic);
	}
}

/* An agent finishes everything as soon as it has it, and hands the files to a VMM. */
static void hand_over(void)
{
	retrieve_sessions();
	for_each_nic(nic)
		retrieve_fds(nic);
	for (int i = 0; i < options.sessions; i++)
		finish_session(sessions[i]);
	say("handed over");
	usleep(options.hand_over * 1000);

	for_each_nic(nic) {
		bind_device(nic->fd, iommufd, nic->bdf);
		if (nic->driver) {
			nic_find_packets(nic);
			nic_map_dma(nic);
		}
	}
	for_each_nic(nic) {
		mark();
		say("finishing nic=%s", nic->bdf);
		nic_attach(nic);
		nic_hold(nic);
	}
	mark();
	say("finished");
}

/* What its NIC receives goes to memory that the VMM doesn't have any more. */
static void nic_free_buffers(struct nic *nic)
{
	check(fallocate(nic->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			MEMORY_OFFSET + offsetof(struct memory, buffer),
			sizeof(nic->memory->buffer)), "free buffers", nic->bdf);
}

static void nic_free_memory(struct nic *nic)
{
	munmap(nic->memory, MEMORY_SIZE);
	close(nic->memfd);
}

/* Whoever gets what was freed last */
static __u8 *take_free_memory(void)
{
	__u8 *memory = mmap(NULL, REUSED_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die_errno(errno, "memory");
	memset(memory, REUSED_PATTERN, REUSED_SIZE);
	return memory;
}

static void check_reused(const __u8 *memory, const char *when)
{
	size_t damaged = 0;

	for (size_t i = 0; i < REUSED_SIZE; i++)
		damaged += memory[i] != REUSED_PATTERN;
	say("reused when=%s damaged=%zu", when, damaged);
}

/* A VMM that goes away: its memory first, before the device is finished, then the device */
static void reuse_memory(void)
{
	struct nic *nic = nics;
	__u8 *memory;
	__u32 count;

	retrieve_sessions();
	retrieve_fds(nic);
	bind_device(nic->fd, iommufd, nic->bdf);
	nic_find_packets(nic);
	nic_free_buffers(nic);
	memory = take_free_memory();

	count = nr_received(nic) + 20;
	wait_for(10000, nr_received(nic) >= count, "packets at %s", nic->bdf);
	check_reused(memory, "before");
	nic_free_memory(nic);
	finish_sessions();
	close(nic->fd);
	check_reused(memory, "after");
}

/*
 * Nobody can tell which device was in which session. As long as one session isn't finished all of
 * them go on, and need their memory.
 */
static void finish_unhandled(void)
{
	__u8 *memory;

	for (int i = options.sessions - 1; i > 0; i--)
		finish_session(sessions[i]);
	memory = take_free_memory();
	usleep(1000000);
	check_reused(memory, "before");
	finish_session(sessions[0]);
	usleep(500000);
	check_reused(memory, "after");
	munmap(memory, REUSED_SIZE);
}

static void take_all_back(void)
{
	if (options.crash)
		crash();
	else if (!options.early)
		retrieve_sessions();
	for_each_nic(nic)
		nic_take_back(nic);
	if (options.map_late)
		attach_empty();
	else
		attach_full();
	if (!is_unfinished())
		finish_sessions();
}

/* Neither a session, nor a device that waits for its user */
static void check_nothing_there(void)
{
	const char *name = session_name(options.stage - 1, 0);

	expect(-luo_retrieve_session(luo, name), ENOENT, "retrieve session", name);
	for_each_nic(nic) {
		nic_open(nic);
		bind_device(nic->fd, iommufd, nic->bdf);
	}
	say("nothing");
}

/* To the last packet, or command */
static void receive_all(void)
{
	for_each_nic(nic)
		if (nic->driver && nic->driver->go_on && nic->preserved)
			nic->driver->go_on(nic);
	for_each_nic(nic)
		if (nic->driver && nic->preserved)
			wait_for(20000, nic->driver->is_complete(nic), "all of %s", nic->bdf);
	for_each_nic(nic) {
		if (nic->driver) {
			nic_report_registers(nic);
			nic->driver->report(nic);
			nic_check_canaries(nic);
		}
	}
}

static void stage2(void)
{
	bool nothing = !options.sessions || options.unhandled || options.unread || options.forced ||
		       options.abort == options.stage - 1 ||
		       (options.unfinished && options.stage > 2);

	iommufd_open();
	disturb();
	luo = check(luo_open_device(), "open", LUO_DEVICE);
	if (options.early || options.unhandled)
		retrieve_early();
	if (options.unhandled) {
		finish_unhandled();
		load_modules();
		bind_all();
	}
	if (options.unread) {
		retrieve_sessions();
		for_each_nic(nic)
			retrieve_memory(nic);
		finish_unhandled();
	}
	for_each_nic(nic)
		report_path(nic->bdf);
	if (options.reuse) {
		reuse_memory();
		say("done");
		return;
	}
	if (nothing)
		check_nothing_there();
	else if (options.hand_over)
		hand_over();
	else
		take_all_back();
	if (options.irqs) {
		for_each_nic(nic)
			irq_arm(nic, nic - nics);
		wait_for_irqs();
	}
	if (options.again)
		preserve_and_kexec();
	if (options.irqs)
		for_each_nic(nic)
			irq_wait_complete(nic);
	if (!nothing)
		receive_all();
	say("done");
}

static void usage(void)
{
	fprintf(stderr,
		"vmm --stage N [options] <bdf> [<bdf>...]\n"
		"  the first device is preserved, all are bound to vfio-pci\n"
		"  --preserve N    the first N devices are\n"
		"  --use N         leave all but the first N alone\n"
		"  --kernel FILE   the next kernel (/kernel)\n"
		"  --initrd FILE   its initramfs (/initrd.img); stage 2 is up to it\n"
		"  --append TEXT   for the end of its command line\n"
		"  --sessions N    so many have the devices, finished the last one first; 0: none has\n"
		"  --abort STAGE   when all is preserved in this stage, cancel it\n"
		"  --replace N     replace the address space that the NICs use N times\n"
		"  --map-late MS   when NICs are taken back, attach them, wait, map memory and finish\n"
		"  --hand-over MS  in stage 2 finish first, and take back MS later\n"
		"  --alias N       map the memory of NICs N times more, each time somewhere else\n"
		"  --apart         each NIC has an address space of its own\n"
		"  --swap          preserve, and cancel, a device between the first and the second\n"
		"  --unfinished    in stage 2 take back, and don't finish\n"
		"  --forget        don't preserve the device: stage 2 must then fail\n"
		"  --reuse         in stage 2 free the memory and use it again, finish and go\n"
		"  --crash         in stage 2 another VMM has retrieved all files, and crashed\n"
		"  --disturb       unplug and replug devices that aren't preserved, and their ports\n"
		"  --early         in stage 2 begin before vfio-pci is loaded, and load it\n"
		"  --unread        finish the session of a file that can't be read, then the others\n"
		"  --unhandled     in stage 2 finish before vfio-pci is loaded, and use the devices\n"
		"  --images        try to kexec into kernels that can't take the devices over\n"
		"  --refused       the next kernel is one, and that is all\n"
		"  --forced        the next kernel is made one, and forced\n"
		"  --older         the second kernel reads the table in an older version only\n"
		"  --lying         the second kernel's command line isn't what it says\n"
		"  --irqs          wait for interrupts, and don't look for packets before\n"
		"  --again         in stage 2 replace the kernel once more\n"
		"  --hotplug BDF   the host plugs in a NIC there: use it, and unplug it\n"
		"  --hotadd BDF    the host plugs in a device there: preserve it, too\n");
	exit(2);
}

static void parse_options(int argc, char *argv[])
{
	static const struct option names[] = {
		{ "stage", required_argument, NULL, 's' },
		{ "preserve", required_argument, NULL, 'p' },
		{ "use", required_argument, NULL, 'u' },
		{ "kernel", required_argument, NULL, 'k' },
		{ "initrd", required_argument, NULL, 'i' },
		{ "append", required_argument, NULL, 'a' },
		{ "sessions", required_argument, NULL, 'n' },
		{ "abort", required_argument, NULL, 'b' },
		{ "replace", required_argument, NULL, 'r' },
		{ "map-late", required_argument, NULL, 'm' },
		{ "hand-over", required_argument, NULL, 'o' },
		{ "alias", required_argument, NULL, 'y' },
		{ "apart", no_argument, NULL, 't' },
		{ "swap", no_argument, NULL, 'w' },
		{ "unfinished", no_argument, NULL, 'e' },
		{ "forget", no_argument, NULL, 'f' },
		{ "reuse", no_argument, NULL, 'x' },
		{ "crash", no_argument, NULL, 'c' },
		{ "disturb", no_argument, NULL, 'd' },
		{ "early", no_argument, NULL, 'j' },
		{ "unhandled", no_argument, NULL, 'q' },
		{ "unread", no_argument, NULL, 'U' },
		{ "images", no_argument, NULL, 'v' },
		{ "refused", no_argument, NULL, 'z' },
		{ "forced", no_argument, NULL, '!' },
		{ "older", no_argument, NULL, '@' },
		{ "lying", no_argument, NULL, '%' },
		{ "irqs", no_argument, NULL, '#' },
		{ "again", no_argument, NULL, 'g' },
		{ "hotplug", required_argument, NULL, 'h' },
		{ "hotadd", required_argument, NULL, 'l' },
		{ }
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (opt) {
		case 's':
			options.stage = atoi(optarg);
			break;
		case 'n':
			options.sessions = atoi(optarg);
			break;
		case 'b':
			options.abort = atoi(optarg);
			break;
		case 'r':
			options.replace = atoi(optarg);
			break;
		case 'm':
			options.map_late = atoi(optarg);
			break;
		case 'o':
			options.hand_over = atoi(optarg);
			break;
		case 'y':
			options.alias = atoi(optarg);
			break;
		case 't':
			options.apart = true;
			break;
		case 'w':
			options.swap = true;
			break;
		case 'e':
			options.unfinished = true;
			break;
		case 'p':
			options.preserve = atoi(optarg);
			break;
		case 'u':
			options.use = atoi(optarg);
			break;
		case 'k':
			options.kernel = optarg;
			break;
		case 'i':
			options.initrd = optarg;
			break;
		case 'a':
			options.append = optarg;
			break;
		case 'f':
			options.forget = true;
			break;
		case 'x':
			options.reuse = true;
			break;
		case 'c':
			options.crash = true;
			break;
		case 'd':
			options.disturb = true;
			break;
		case 'j':
			options.early = true;
			break;
		case 'q':
			options.unhandled = true;
			break;
		case 'U':
			options.unread = true;
			break;
		case 'v':
			options.images = true;
			break;
		case 'z':
			options.refused = true;
			break;
		case '!':
			options.forced = true;
			break;
		case '@':
			options.older = true;
			break;
		case '%':
			options.lying = true;
			break;
		case '#':
			options.irqs = true;
			break;
		case 'g':
			options.again = true;
			break;
		case 'h':
			options.hotplug = optarg;
			break;
		case 'l':
			options.hotadd = optarg;
			break;
		default:
			usage();
		}
	}
}

int main(int argc, char *argv[])
{
	parse_options(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	nr_nics = argc - optind;
	if (nr_nics > options.use)
		nr_nics = options.use;
	/* One more may be plugged in, or swapped */
	if (options.stage < 1 || nr_nics >= MAX_NICS ||
	    options.preserve < 0 || options.preserve + options.swap > nr_nics ||
	    options.sessions < 0 || options.sessions > MAX_SESSIONS)
		usage();
	if (options.disturb)
		nr_nics = options.preserve;
	neighbours = argv + optind + nr_nics;
	for (int i = 0; i < nr_nics; i++) {
		nics[i].bdf = argv[optind + i];
		nics[i].preserved = i < options.preserve;
		nics[i].iova = IOVA_BASE + (__u64)i * MEMORY_SIZE;
		nic_find_driver(&nics[i]);
	}

	say("stage %d", options.stage);
	if (options.stage == 1)
		stage1();
	else
		stage2();
	return 0;
}
