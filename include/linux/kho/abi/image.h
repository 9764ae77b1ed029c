/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef _LINUX_KHO_ABI_IMAGE_H
#define _LINUX_KHO_ABI_IMAGE_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/types.h>

/**
 * DOC: Live Update Image ABI
 *
 * A kernel image says which data of a previous kernel it reads. The kernel that loads the
 * image for kexec compares that with what it is going to hand over, and refuses a kexec in
 * which running devices would be lost.
 *
 * The information is one &struct liveupdate_image, followed by &liveupdate_image.nr_abis
 * times &struct liveupdate_image_abi and by the built-in command line, which ends in NUL and
 * may be empty. All numbers are little-endian. It is part of the image that isn't compressed:
 *
 * * x86: a chunk of the variable data of kernel_info, see Documentation/arch/x86/boot.rst.
 *   &liveupdate_image.magic and &liveupdate_image.size are the header that all chunks have.
 *
 * Images for other architectures have no place for it yet.
 *
 * This interface is a contract. An image whose information is laid out in another way has
 * another magic number, and is for older kernels one that says nothing.
 */

/** LIVEUPDATE_IMAGE_MAGIC - "LUPD" */
#define LIVEUPDATE_IMAGE_MAGIC		0x4450554c

/** LIVEUPDATE_IMAGE_KHO - Kexec handover is on unless the command line says "kho=off". */
#define LIVEUPDATE_IMAGE_KHO		BIT(0)

/** LIVEUPDATE_IMAGE_CMDLINE - The built-in command line replaces that of the loader. */
#define LIVEUPDATE_IMAGE_CMDLINE	BIT(1)

/**
 * LIVEUPDATE_IMAGE_IOMMU - IOMMUs of the architecture are on unless the command line turns them
 * off.
 */
#define LIVEUPDATE_IMAGE_IOMMU		BIT(2)

/** LIVEUPDATE_IMAGE_INTEL_IOMMU - The kernel has the driver of VT-d. */
#define LIVEUPDATE_IMAGE_INTEL_IOMMU	BIT(3)

/**
 * struct liveupdate_image - What an image says of itself.
 * @magic:   %LIVEUPDATE_IMAGE_MAGIC.
 * @size:    Size of all of it in bytes: this structure and what follows.
 * @flags:   LIVEUPDATE_IMAGE_*; a reader ignores flags that it doesn't know.
 * @nr_abis: Number of &struct liveupdate_image_abi.
 */
struct liveupdate_image {
	u32 magic;
	u32 size;
	u32 flags;
	u32 nr_abis;
} __packed;

static_assert(sizeof(struct liveupdate_image) == 16);

/** LIVEUPDATE_IMAGE_NAME_LEN - Room for a name and its final NUL. */
#define LIVEUPDATE_IMAGE_NAME_LEN	24

/**
 * struct liveupdate_image_abi - Versions of one kind of data that the image reads.
 * @name:   What the data is called, without its version: "vfio-pci" for "vfio-pci-v1".
 * @oldest: Oldest version that the image reads.
 * @newest: Newest version that the image reads; 0 if it reads none, as what would read it
 *          isn't part of its configuration.
 */
struct liveupdate_image_abi {
	char name[LIVEUPDATE_IMAGE_NAME_LEN];
	u32 oldest;
	u32 newest;
} __packed;

static_assert(sizeof(struct liveupdate_image_abi) == 32);

#endif /* _LINUX_KHO_ABI_IMAGE_H */
