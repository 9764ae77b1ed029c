// SPDX-License-Identifier: GPL-2.0
/*
 * Print what a kernel image says of live update.
 *
 *	pci-liveupdate-image bzImage
 *
 * Ends with 0 if the image says something, with 1 if it doesn't or that is damaged, and with 2
 * if it can't be read.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/compiler.h>

#include "../../include/linux/kho/abi/image.h"

/* See Documentation/arch/x86/boot.rst */
#define SETUP_SECTS		0x1f1
#define HEADER			0x202
#define VERSION			0x206
#define KERNEL_INFO_OFFSET	0x268
#define HEADER_MAGIC		0x53726448	/* "HdrS" */
#define KERNEL_INFO_MAGIC	0x506f544c	/* "LToP" */

static const unsigned char *file;
static size_t file_size;

static __noreturn void nothing(const char *why)
{
	printf("%s\n", why);
	exit(1);
}

static u32 get(size_t pos)
{
	u32 value;

	if (pos > file_size || file_size - pos < sizeof(value))
		nothing("not a kernel image, or cut off");
	memcpy(&value, file + pos, sizeof(value));
	return le32toh(value);
}

/* Where the information is, and where it ends */
static size_t find(size_t *end)
{
	size_t start, pos, info_end;

	if (get(HEADER) != HEADER_MAGIC)
		nothing("not an x86 kernel image");
	if ((get(VERSION) & 0xffff) < 0x20f)
		nothing("says nothing: too old");
	start = ((file[SETUP_SECTS] ?: 4) + 1) * 512UL + get(KERNEL_INFO_OFFSET);
	if (get(start) != KERNEL_INFO_MAGIC)
		nothing("says nothing: has no kernel_info");
	info_end = start + get(start + 8);
	for (pos = start + get(start + 4); pos < info_end; pos = *end) {
		*end = pos + get(pos + 4);
		if (info_end > file_size || *end > info_end || *end < pos + 8)
			nothing("kernel_info is damaged");
		if (get(pos) == LIVEUPDATE_IMAGE_MAGIC)
			return pos;
	}
	nothing("says nothing: can't take over running devices");
}

static void print_abi(size_t pos)
{
	u32 oldest = get(pos + LIVEUPDATE_IMAGE_NAME_LEN);
	u32 newest = get(pos + LIVEUPDATE_IMAGE_NAME_LEN + 4);

	if (!memchr(file + pos, '\0', LIVEUPDATE_IMAGE_NAME_LEN) || oldest > newest)
		nothing("what it says of live update is damaged");
	printf("%s: ", file + pos);
	if (!newest)
		printf("not read\n");
	else if (oldest == newest)
		printf("version %u\n", newest);
	else
		printf("versions %u to %u\n", oldest, newest);
}

static const char *by_default(u32 flag)
{
	return flag ? "on by default" : "off by default";
}

static void print(size_t pos, size_t end)
{
	size_t abi = pos + sizeof(struct liveupdate_image);
	size_t size = sizeof(struct liveupdate_image_abi);
	u32 flags = get(pos + 8), count = get(pos + 12);

	if (end < abi || count > (end - abi) / size ||
	    !memchr(file + abi + count * size, '\0', end - abi - count * size))
		nothing("what it says of live update is damaged");

	printf("kexec handover: %s\n", by_default(flags & LIVEUPDATE_IMAGE_KHO));
	printf("VT-d: %s\n", flags & LIVEUPDATE_IMAGE_INTEL_IOMMU ?
		by_default(flags & LIVEUPDATE_IMAGE_IOMMU) : "no driver");
	for (; count--; abi += size)
		print_abi(abi);
	if (file[abi])
		printf("command line%s: %s\n",
		       flags & LIVEUPDATE_IMAGE_CMDLINE ? ", whatever the loader says" : "",
		       file + abi);
}

int main(int argc, char *argv[])
{
	struct stat stat;
	size_t pos, end;
	int fd;

	if (argc != 2 || *argv[1] == '-') {
		fprintf(stderr, "pci-liveupdate-image bzImage\n");
		return 2;
	}
	fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &stat)) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
		return 2;
	}
	file_size = stat.st_size;
	file = mmap(NULL, file_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
		return 2;
	}
	pos = find(&end);
	print(pos, end);
	return 0;
}
