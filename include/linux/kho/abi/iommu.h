/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef _LINUX_KHO_ABI_IOMMU_H
#define _LINUX_KHO_ABI_IOMMU_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/types.h>

/**
 * DOC: IOMMU Live Update ABI
 *
 * The IOMMU core hands the translation of preserved devices to the next kernel as
 * File-Lifecycle-Bound data of the Live Update Orchestrator, under the name
 * %IOMMU_LIVEUPDATE_COMPATIBLE. The table is one &struct iommu_ser, which points to three
 * chains of KHO blocks (&struct kho_block_header_ser): one &struct iommu_domain_ser for
 * each set of page tables, one &struct iommu_rid_ser for each requester ID, and one
 * &struct iommu_page_ser for each page that IOMMUs use beside page tables. A domain
 * has a chain of its own, with one &struct iommu_page_ser for each page of its page
 * tables. The tables themselves are in the format of the hardware.
 *
 * This interface is a contract. Any change to the layout or to the meaning of a field
 * requires a new %IOMMU_SER_VERSION. The compatible string and the offset of
 * &iommu_ser.version never change. A kernel reads only its own version.
 *
 * What is the same for all IOMMUs is in the structures named iommu_*_ser. What only one
 * driver can read is in a structure named after the driver.
 */

/** IOMMU_LIVEUPDATE_COMPATIBLE - Name of the table. Never changes. */
#define IOMMU_LIVEUPDATE_COMPATIBLE	"iommu"

/** IOMMU_SER_VERSION - Version of the layout of the table. */
#define IOMMU_SER_VERSION		4

/**
 * struct iommu_ser - Head of the table.
 * @version:  %IOMMU_SER_VERSION of the kernel that wrote the table. At offset 0 in every
 *            version.
 * @reserved: Zero.
 * @domains:  Physical address of the first block of domains; 0 if there is none.
 * @rids:     Physical address of the first block of requester IDs; 0 if there is none.
 * @pages:    Physical address of the first block of other pages that IOMMUs use between
 *            the kernels; 0 if there is none.
 */
struct iommu_ser {
	u32 version;
	u32 reserved;
	u64 domains;
	u64 rids;
	u64 pages;
} __packed;

static_assert(sizeof(struct iommu_ser) == 32);

/**
 * struct iommu_domain_ser - Page tables that one or more devices use.
 * @id:       Number of the domain in this table. 0 marks a free slot, whose other fields
 *            mean nothing.
 * @reserved: Zero.
 * @top:      Physical address of the top page table, which also has a record in @pages.
 * @pages:    Physical address of the first block of pages.
 * @nr_pages: Number of records in @pages.
 */
struct iommu_domain_ser {
	u32 id;
	u32 reserved;
	u64 top;
	u64 pages;
	u64 nr_pages;
} __packed;

static_assert(sizeof(struct iommu_domain_ser) == 32);

/**
 * struct iommu_page_ser - Memory of a page table or of another table, as one folio.
 * @phys: Physical address.
 */
struct iommu_page_ser {
	u64 phys;
} __packed;

static_assert(sizeof(struct iommu_page_ser) == 8);

/** INTEL_IOMMU_SER_LEGACY - Legacy mode: a context entry, which leads to a second stage. */
#define INTEL_IOMMU_SER_LEGACY		0

/**
 * INTEL_IOMMU_SER_SECOND_STAGE - Scalable mode: the PASID table entry of requests without
 * PASID leads to a second stage.
 */
#define INTEL_IOMMU_SER_SECOND_STAGE	1

/** INTEL_IOMMU_SER_FIRST_STAGE - Scalable mode: that entry leads to a first stage. */
#define INTEL_IOMMU_SER_FIRST_STAGE	2

/**
 * INTEL_IOMMU_SER_PRESENT - The requester ID is translated. Without this flag the device
 * wasn't attached at the kexec, and all other fields but the unit, the root table and the
 * mode mean nothing.
 */
#define INTEL_IOMMU_SER_PRESENT		BIT(0)

/** INTEL_IOMMU_SER_PWSNP - In scalable mode: Page-walk Snoop of the PASID table entry. */
#define INTEL_IOMMU_SER_PWSNP		BIT(1)

/** INTEL_IOMMU_SER_PGSNP - In scalable mode: Page Snoop of the PASID table entry. */
#define INTEL_IOMMU_SER_PGSNP		BIT(2)

/** INTEL_IOMMU_SER_DTE - In scalable mode: Device-TLB Enable of the context entry. */
#define INTEL_IOMMU_SER_DTE		BIT(3)

/**
 * struct intel_iommu_rid_ser - How a VT-d unit translates a requester ID.
 * @unit:          Physical address of the unit's registers.
 * @root:          Physical address of the root table that the unit uses between the
 *                 kernels. It has nothing but the context entries that are recorded here,
 *                 and in scalable mode a PASID table with one entry for each. All of this
 *                 is in the pages of &iommu_ser.pages.
 * @domain_id:     Domain ID of the context entry or PASID table entry.
 * @address_width: Address Width of that entry; with a first stage, First-stage Paging
 *                 Mode.
 * @flags:         In legacy mode, bits 7:0 of the context entry, the lowest of which is
 *                 %INTEL_IOMMU_SER_PRESENT; in scalable mode, INTEL_IOMMU_SER_*.
 * @mode:          %INTEL_IOMMU_SER_LEGACY, %INTEL_IOMMU_SER_SECOND_STAGE or
 *                 %INTEL_IOMMU_SER_FIRST_STAGE.
 * @reserved:      Zero.
 *
 * What the entries have beside these fields and the address of the page tables is zero.
 */
struct intel_iommu_rid_ser {
	u64 unit;
	u64 root;
	u16 domain_id;
	u8 address_width;
	u8 flags;
	u8 mode;
	u8 reserved[3];
} __packed;

static_assert(sizeof(struct intel_iommu_rid_ser) == 24);

/** IOMMU_SER_INTEL - The record was written by the driver of VT-d. */
#define IOMMU_SER_INTEL			1

/**
 * struct iommu_rid_ser - A requester ID that preserved devices use for DMA.
 * @domain:   &iommu_domain_ser.id of the domain; 0 marks a free slot, whose other fields
 *            mean nothing.
 * @refcount: How often preserved devices use the requester ID: more than once behind a
 *            conventional bridge.
 * @segment:  PCI segment group.
 * @rid:      Bus, device and function, as in PCI_DEVID().
 * @driver:   IOMMU_SER_*: whose part follows.
 * @intel:    For the driver of VT-d.
 */
struct iommu_rid_ser {
	u32 domain;
	u32 refcount;
	u32 segment;
	u16 rid;
	u16 driver;
	struct intel_iommu_rid_ser intel;
} __packed;

static_assert(sizeof(struct iommu_rid_ser) == 40);

#endif /* _LINUX_KHO_ABI_IOMMU_H */
