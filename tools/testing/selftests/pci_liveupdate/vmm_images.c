// SPDX-License-Identifier: GPL-2.0
/*
 * Images that can't take over what is preserved: what the next kernel's says of itself is changed
 * (see linux/kho/abi/image.h), or its command line turns live update off.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/kernel.h>
#include <linux/kexec.h>

#include "guest.h"
#include "vmm.h"

#define CHANGED	"/kernel.changed"
#define PRINT	"pci-liveupdate-image "

/* In the file: see Documentation/arch/x86/boot.rst */
#define SETUP_SECTS	0x1f1
#define KERNEL_INFO	0x268
#define SIZE_TOTAL	(-8)	/* of kernel_info */
#define MAGIC		0
#define SIZE		4
#define FLAGS		8
#define MAX_CHANGES	3
#define NR_ABIS		12
#define ABIS		16
#define ABI_SIZE	32
#define OLDEST		24
#define NEWEST		28

struct change {
	const char *abi;	/* the field is one of this, or of all */
	int offset;
	__u32 value;
	const char *text;	/* in the place of value */
};

static const struct bad_image {
	const char *what;
	struct change changes[MAX_CHANGES];
	const char *append;
	bool damaged;
} bad_images[] = {
	{ "another-magic", { { NULL, MAGIC, 0 } }, .damaged = true },
	{ "damaged-size", { { NULL, SIZE, 20 } }, .damaged = true },
	{ "endless", { { NULL, SIZE, 0 } }, .damaged = true },
	{ "large", { { NULL, SIZE_TOTAL, 0x1200 }, { NULL, SIZE, 0x11f0 } } },
	{ "damaged-count", { { NULL, NR_ABIS, 1U << 31 } }, .damaged = true },
	{ "damaged-range", { { "luo", OLDEST, 99 } }, .damaged = true },
	{ "no-pci", { { "pci", 0, 0 } } },
	{ "later-pci", { { "pci", OLDEST, 998 }, { "pci", NEWEST, 999 } } },
	{ "without-vtd", { { NULL, FLAGS, 5 } } },
	{ "later-iommu", { { "iommu", OLDEST, 98 }, { "iommu", NEWEST, 99 } } },
	{ "without-vfio-pci", { { "vfio-pci", OLDEST, 0 }, { "vfio-pci", NEWEST, 0 } } },
	{ "earlier-memfd", { { "memfd", OLDEST, 1 }, { "memfd", NEWEST, 1 } } },
	{ "earlier-luo", { { "luo", OLDEST, 1 }, { "luo", NEWEST, 1 } } },
	{ "earlier-kho", { { "kho", OLDEST, 1 }, { "kho", NEWEST, 1 } } },
	{ "liveupdate-off", .append = "liveupdate=off" },
	{ "kho-off", .append = "kho=0" },
	{ "vtd-off", .append = "intel_iommu=sm_off,off" },
	{ "iommu-off", .append = "iommu=off" },
	{ "acpi-off", .append = "acpi=off" },
	{ "nommconf", .append = "pci=noaer,nommconf" },
	{ "older-conf1", { { "pci", NEWEST, 101 } }, .append = "pci=conf1" },
};

static __u8 *find_abi(__u8 *info, const char *abi)
{
	for (__u8 *at = info + ABIS; at < info + *(__u32 *)(info + SIZE); at += ABI_SIZE)
		if (!strcmp((char *)at, abi))
			return at;
	die("the image says nothing of %s", abi);
}

/* Make a copy of the next kernel. Returns false if that says nothing. */
static bool change_image(const char *kernel, const struct change changes[MAX_CHANGES])
{
	int from = check(open(kernel, O_RDONLY), "open", kernel);
	int to = check(open(CHANGED, O_RDWR | O_CREAT | O_TRUNC, 0600), "open", CHANGED);
	bool says_something;
	struct stat stat;
	__u8 *image, *info;

	check(fstat(from, &stat), "stat", kernel);
	check(ftruncate(to, stat.st_size), "size", CHANGED);
	image = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, to, 0);
	if (image == MAP_FAILED)
		die_errno(errno, CHANGED);
	check(read(from, image, stat.st_size), "read", kernel);
	info = image + (image[SETUP_SECTS] + 1) * 512 + *(__u32 *)(image + KERNEL_INFO);
	info += ((__u32 *)info)[1];
	says_something = !memcmp(info, "LUPD", 4);
	for (int i = 0; i < MAX_CHANGES && says_something; i++) {
		const struct change *change = &changes[i];
		__u8 *at = change->abi ? find_abi(info, change->abi) : info;

		if (change->text)
			strcpy((char *)at, change->text);
		else if (change->abi || change->offset || !i)
			*(__u32 *)(at + change->offset) = change->value;
	}
	munmap(image, stat.st_size);
	close(from);
	close(to);
	return says_something;
}

/* A command line that is too long is only noticed when much is there already. */
static void fail_to_load(const char *kernel, const char *initrd)
{
	static char cmdline[3000];

	memset(cmdline, 'x', sizeof(cmdline) - 1);
	expect(try_to_load(kernel, initrd, cmdline, 0), EINVAL, "kexec_file_load",
	       "long command line");
}

/* Hands nothing over. Nobody will run it. */
static void load_segments(void)
{
	struct kexec_segment segment = {
		.buf = "",
		.bufsz = 1,
		.mem = (void *)0x2000000,
		.memsz = sysconf(_SC_PAGESIZE),
	};

	check(syscall(SYS_kexec_load, segment.mem, 1, &segment, KEXEC_ARCH_DEFAULT), "kexec_load",
	      "segment");
}

static void refuse(const char *what)
{
	expect(reboot(RB_KEXEC) ? errno : 0, EOPNOTSUPP, "kexec", what);
}

void refuse_image(const char *kernel, const char *initrd, const char *append)
{
	load_kernel(kernel, initrd, append);
	refuse(kernel);
}

/* What is preserved stays so: the next kernel can still be a good one. */
void refuse_images(const char *kernel, const char *initrd)
{
	run(PRINT "/kernel");
	for (int i = 0; i < ARRAY_SIZE(bad_images); i++) {
		const struct bad_image *bad = &bad_images[i];
		bool changed = !bad->append || bad->changes[0].abi;

		if (changed) {
			if (!change_image(kernel, bad->changes))
				die("the image says nothing");
			expect(WEXITSTATUS(system(PRINT CHANGED " >/dev/null")), bad->damaged,
			       PRINT, bad->what);
		}
		say("trying image=%s", bad->what);
		refuse_image(changed ? CHANGED : kernel, initrd, bad->append ?: "");
	}
	unlink(CHANGED);
	fail_to_load(kernel, initrd);
	load_segments();
	refuse("segments");
}

/* The next kernel, as if it read only the oldest version of the table that this one writes */
const char *older_image(const char *kernel)
{
	static const struct change older[MAX_CHANGES] = { { "pci", NEWEST, 101 } };

	if (!change_image(kernel, older))
		die("the image says nothing");
	return CHANGED;
}

/*
 * The next kernel, as if its built-in command line, which says liveupdate=on, replaced that of the
 * loader. It is in the place of the last ABI, which isn't one that each image must know.
 */
const char *lying_image(const char *kernel)
{
	static const struct change lies[MAX_CHANGES] = {
		{ NULL, NR_ABIS, 5 },
		{ NULL, FLAGS, 0xf },
		{ "vfio-pci", .text = "liveupdate=on" },
	};

	if (!change_image(kernel, lies))
		die("the image says nothing");
	return CHANGED;
}

/* Into a kernel that says nothing of itself, which isn't told what was preserved. */
void force_image(const char *kernel, const char *initrd, const char *append)
{
	static const struct change forget[MAX_CHANGES];

	if (change_image(kernel, forget))
		say("changed image=%s", kernel);
	refuse_image(CHANGED, initrd, append);
	write_text("/sys/module/liveupdate/parameters/force", "1");
}
