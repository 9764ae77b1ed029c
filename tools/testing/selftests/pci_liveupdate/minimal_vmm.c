// SPDX-License-Identifier: GPL-2.0
/*
 * The least that a VMM does to keep its device over a live update.
 *
 *	minimal_vmm before /dev/vfio/devices/<name>	in the old kernel
 *	minimal_vmm after				in the new one
 *
 * A real VMM has a guest, whose memory this is, and whose state it puts into another
 * memfd. It stops itself (SIGSTOP) when the kexec may come.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/liveupdate.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#define SESSION		"minimal"
#define MEMORY_SIZE	(2 << 20)
#define MEMORY_IOVA	0x100000000ULL

enum { MEMORY_TOKEN, DEVICE_TOKEN };

static void die(const char *what, const char *why)
{
	fprintf(stderr, "minimal_vmm: %s: %s\n", what, why);
	exit(1);
}

static int check(int ret, const char *what)
{
	if (ret < 0)
		die(what, strerror(errno));
	return ret;
}

static void *map_memory(int memfd)
{
	void *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (memory == MAP_FAILED)
		die("map memory", strerror(errno));
	return memory;
}

/* The memory is mapped for DMA before the device is attached: it may be doing some. */
static void attach(int device, void *memory)
{
	int iommufd = check(open("/dev/iommu", O_RDWR), "/dev/iommu");
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = iommufd,
	};
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.user_va = (__u64)memory,
		.length = MEMORY_SIZE,
		.iova = MEMORY_IOVA,
	};
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };

	check(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind), "bind");
	check(ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc), "allocate IOAS");
	map.ioas_id = alloc.out_ioas_id;
	check(ioctl(iommufd, IOMMU_IOAS_MAP, &map), "map for DMA");
	attach.pt_id = alloc.out_ioas_id;
	check(ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach), "attach");
}

static __u64 command_offset(int device)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};

	check(ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config), "config region");
	return config.offset + PCI_COMMAND;
}

static void start_dma(int device)
{
	__u64 offset = command_offset(device);
	__u16 command;

	check(pread(device, &command, sizeof(command), offset), "command");
	command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	check(pwrite(device, &command, sizeof(command), offset), "command");
}

static void check_dma(int device)
{
	__u16 command;

	check(pread(device, &command, sizeof(command), command_offset(device)), "command");
	if (!(command & PCI_COMMAND_MASTER))
		die("device", "has lost its DMA");
}

static int create_session(int luo, const char *name)
{
	struct liveupdate_ioctl_create_session create = { .size = sizeof(create) };

	strcpy((char *)create.name, name);
	check(ioctl(luo, LIVEUPDATE_IOCTL_CREATE_SESSION, &create), "create session");
	return create.fd;
}

/* For a moment it can't be done, when devices are being added, resized, recovered or removed. */
static int preserve(int session, int fd, __u64 token)
{
	struct liveupdate_session_preserve_fd preserve = {
		.size = sizeof(preserve),
		.fd = fd,
		.token = token,
	};
	int ret;

	while ((ret = ioctl(session, LIVEUPDATE_SESSION_PRESERVE_FD, &preserve)) < 0 &&
	       errno == EAGAIN)
		usleep(10000);
	return ret;
}

static int retrieve(int session, __u64 token)
{
	struct liveupdate_session_retrieve_fd retrieve = {
		.size = sizeof(retrieve),
		.token = token,
	};

	check(ioctl(session, LIVEUPDATE_SESSION_RETRIEVE_FD, &retrieve), "retrieve");
	return retrieve.fd;
}

/* The memory first: a device is refused that can reach anything else. */
static int preserve_all(int luo, const char *name, int memfd, int device)
{
	int session = create_session(luo, name);

	check(preserve(session, memfd, MEMORY_TOKEN), "preserve memory");
	check(preserve(session, device, DEVICE_TOKEN), "preserve device");
	return session;
}

/* To ask whether it could be done is to do it, and to close the session. */
static void ask(int luo, int memfd, int device)
{
	close(preserve_all(luo, "asking", memfd, device));
}

static void before(const char *path)
{
	int luo = check(open("/dev/liveupdate", O_RDWR), "/dev/liveupdate");
	int memfd = check(memfd_create("memory", 0), "memfd");
	int device = check(open(path, O_RDWR), path), session;
	char *memory;

	check(ftruncate(memfd, MEMORY_SIZE), "memfd");
	memory = map_memory(memfd);
	attach(device, memory);
	start_dma(device);
	ask(luo, memfd, device);

	strcpy(memory, "the guest's memory");
	session = preserve_all(luo, SESSION, memfd, device);

	/* The guest may go on until here. Then its vCPUs stop. Interrupts may stay on. */
	raise(SIGSTOP);

	/* It did fail: the guest goes on. The session is good for another attempt. */
	close(session);
}

static void after(void)
{
	int luo = check(open("/dev/liveupdate", O_RDWR), "/dev/liveupdate");
	struct liveupdate_ioctl_retrieve_session session = { .size = sizeof(session) };
	struct liveupdate_session_finish finish = { .size = sizeof(finish) };
	int device;
	char *memory;

	strcpy((char *)session.name, SESSION);
	check(ioctl(luo, LIVEUPDATE_IOCTL_RETRIEVE_SESSION, &session), "retrieve session");
	memory = map_memory(retrieve(session.fd, MEMORY_TOKEN));
	device = retrieve(session.fd, DEVICE_TOKEN);
	attach(device, memory);
	if (strcmp(memory, "the guest's memory"))
		die("memory", "isn't what it was");

	/*
	 * Here VFIO_DEVICE_SET_IRQS turns the interrupts on again. What the device has raised
	 * meanwhile comes then, and maybe once too often.
	 */
	check(ioctl(session.fd, LIVEUPDATE_SESSION_FINISH, &finish), "finish");
	check_dma(device);
}

int main(int argc, char *argv[])
{
	if (argc == 3 && !strcmp(argv[1], "before"))
		before(argv[2]);
	else if (argc == 2 && !strcmp(argv[1], "after"))
		after();
	else
		die("usage", "minimal_vmm before <cdev> | after");
	return 0;
}
