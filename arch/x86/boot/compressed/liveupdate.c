// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What the kernel says of live update to a loader: a chunk of the variable data of kernel_info.
 */

#include <linux/compiler_attributes.h>
#include <linux/kconfig.h>
#include <linux/kho/abi/image.h>
#include <linux/kho/abi/iommu.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/kho/abi/luo.h>
#include <linux/kho/abi/memfd.h>
#include <linux/kho/abi/pci.h>
#include <linux/kho/abi/vfio_pci.h>

#ifdef CONFIG_CMDLINE_BOOL
#define BUILTIN_CMDLINE		CONFIG_CMDLINE
#else
#define BUILTIN_CMDLINE		""
#endif

/* Whoever changes one of these comes here, and says whether the old one can still be read. */
#define VERSION(compatible, name, version)			\
	static_assert(!__builtin_strcmp(compatible, name "-v" #version))

VERSION(KHO_FDT_COMPATIBLE, "kho", 4);
VERSION(LUO_ABI_COMPATIBLE, "luo", 5);
VERSION(MEMFD_LUO_FH_COMPATIBLE, "memfd", 2);
VERSION(VFIO_PCI_LIVEUPDATE_COMPATIBLE, "vfio-pci", 1);

/* enabled: true or false */
#define READS(what, first, last, enabled) {	\
	.name = what,				\
	.oldest = (first) * (enabled),		\
	.newest = (last) * (enabled),		\
}

#define ABIS {								\
	READS("kho", 4, 4, true),					\
	READS("luo", 5, 5, true),					\
	READS("memfd", 2, 2, IS_ENABLED(CONFIG_LIVEUPDATE_MEMFD)),	\
	READS(PCI_LIVEUPDATE_COMPATIBLE, PCI_SER_VERSION_OLDEST, PCI_SER_VERSION, \
	      IS_ENABLED(CONFIG_PCI_LIVEUPDATE)),			\
	READS(IOMMU_LIVEUPDATE_COMPATIBLE, IOMMU_SER_VERSION, IOMMU_SER_VERSION, \
	      IS_ENABLED(CONFIG_IOMMU_LIVEUPDATE)),			\
	READS("vfio-pci", 1, 1, IS_ENABLED(CONFIG_VFIO_PCI_LIVEUPDATE)),	\
}
#define NR_ABIS (sizeof((struct liveupdate_image_abi[])ABIS) /	\
		 sizeof(struct liveupdate_image_abi))

#define FLAG(name, enabled)	((enabled) ? LIVEUPDATE_IMAGE_##name : 0)

/* @image: the head; @abis: what the kernel reads; @cmdline: the built-in command line */
struct liveupdate_chunk {
	struct liveupdate_image image;
	struct liveupdate_image_abi abis[NR_ABIS];
	char cmdline[sizeof(BUILTIN_CMDLINE)];
} __aligned(4);

/*
 * The linker puts it between kernel_info_var_len_data and kernel_info_end. Without an alignment
 * of its own the compiler gives it one that leaves a gap.
 */
static const struct liveupdate_chunk chunk
	__used __aligned(4) __section(".rodata.kernel_info.liveupdate") = {
	.image = {
		.magic = LIVEUPDATE_IMAGE_MAGIC,
		.size = sizeof(struct liveupdate_chunk),
		.flags = FLAG(KHO, IS_ENABLED(CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT)) |
			 FLAG(CMDLINE, IS_ENABLED(CONFIG_CMDLINE_OVERRIDE)) |
			 FLAG(IOMMU, !IS_ENABLED(CONFIG_INTEL_IOMMU_DEFAULT_OFF)) |
			 FLAG(INTEL_IOMMU, IS_ENABLED(CONFIG_INTEL_IOMMU)),
		.nr_abis = NR_ABIS,
	},
	.abis = ABIS,
	.cmdline = BUILTIN_CMDLINE,
};
