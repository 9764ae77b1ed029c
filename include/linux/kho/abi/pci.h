/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef _LINUX_KHO_ABI_PCI_H
#define _LINUX_KHO_ABI_PCI_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/types.h>

/**
 * DOC: PCI Live Update ABI
 *
 * The PCI core hands the table of preserved devices to the next kernel as
 * File-Lifecycle-Bound data of the Live Update Orchestrator, under the name
 * %PCI_LIVEUPDATE_COMPATIBLE. The table is one &struct pci_ser, which points to
 * a chain of KHO blocks (&struct kho_block_header_ser) that hold one &struct
 * pci_dev_ser for each preserved device and for each bridge above it.
 *
 * This interface is a contract. Any change to the layout or to the meaning of a
 * field requires a new %PCI_SER_VERSION. The compatible string and the offset of
 * &pci_ser.version never change, so that a kernel that can't read the rest of the
 * table still learns that devices are running. A kernel reads and writes its own version
 * and the one before.
 */

/** PCI_LIVEUPDATE_COMPATIBLE - Name of the table. Never changes. */
#define PCI_LIVEUPDATE_COMPATIBLE	"pci"

/**
 * PCI_SER_VERSION - Version of the layout of the table. Versions below 101 aren't used: there
 * are tables with another layout, of the same name and with the version in the same place.
 * Version 102 has added %PCI_DEV_SER_EXT_CONFIG.
 */
#define PCI_SER_VERSION			102

/** PCI_SER_VERSION_OLDEST - Oldest version that this kernel reads and writes. */
#define PCI_SER_VERSION_OLDEST		101

/**
 * struct pci_ser - Head of the table.
 * @version:    %PCI_SER_VERSION, or an older one if that is what the next kernel
 *              reads. At offset 0 in every version.
 * @reserved:   Zero.
 * @devices:    Physical address of the first block header; 0 if there are no
 *              blocks.
 * @nr_devices: Number of records in use: those with a nonzero
 *              &pci_dev_ser.refcount.
 */
struct pci_ser {
	u32 version;
	u32 reserved;
	u64 devices;
	u64 nr_devices;
} __packed;

static_assert(sizeof(struct pci_ser) == 24);

/** PCI_DEV_SER_BRIDGE - The record belongs to a PCI-to-PCI bridge. */
#define PCI_DEV_SER_BRIDGE		BIT(0)

/** PCI_DEV_SER_OVERRIDE - The device's driver_override was the name of its driver. */
#define PCI_DEV_SER_OVERRIDE		BIT(1)

/** PCI_DEV_SER_IO_WINDOW - The bridge has an I/O window. */
#define PCI_DEV_SER_IO_WINDOW		BIT(2)

/** PCI_DEV_SER_PREF_WINDOW - The bridge has a prefetchable window. */
#define PCI_DEV_SER_PREF_WINDOW		BIT(3)

/** PCI_DEV_SER_PREF_64_WINDOW - The prefetchable window is 64 bits wide. */
#define PCI_DEV_SER_PREF_64_WINDOW	BIT(4)

/** PCI_DEV_SER_BROKEN_INTX - Interrupt Disable in the Command register doesn't work. */
#define PCI_DEV_SER_BROKEN_INTX		BIT(5)

/** PCI_DEV_SER_ACS - ACS capability present; &pci_dev_ser.acs_ctrl is valid. */
#define PCI_DEV_SER_ACS			BIT(6)

/** PCI_DEV_SER_ARI - The bridge has ARI Forwarding enabled. */
#define PCI_DEV_SER_ARI			BIT(7)

/** PCI_DEV_SER_SRIOV - The fields about virtual functions are valid. */
#define PCI_DEV_SER_SRIOV		BIT(8)

/** PCI_DEV_SER_EXT_CONFIG - The device has extended configuration space, which works. */
#define PCI_DEV_SER_EXT_CONFIG		BIT(9)

/** PCI_DEV_SER_FLAGS - All flags that this version knows. */
#define PCI_DEV_SER_FLAGS		GENMASK(9, 0)

/** PCI_DEV_SER_BARS - Six BARs and, as the last one, the expansion ROM BAR. */
#define PCI_DEV_SER_BARS		7

/** PCI_DEV_SER_VF_BARS - BARs of the virtual functions. */
#define PCI_DEV_SER_VF_BARS		6

/** PCI_DEV_SER_DRIVER_LEN - Room for the name of a driver and its final NUL. */
#define PCI_DEV_SER_DRIVER_LEN		32

/**
 * struct pci_dev_ser - Record of a preserved device or of a bridge above one.
 * @domain:       PCI segment group. 32 bits, as VMD domains start at 0x10000.
 * @bdf:          Bus, device and function, as in PCI_DEVID().
 * @flags:        PCI_DEV_SER_*; all other bits are zero.
 * @refcount:     Number of preserved devices at or below this one. 0 marks a free
 *                slot, whose other fields mean nothing.
 * @vendor:       Vendor ID that the next kernel must find at @bdf.
 * @device:       Device ID that the next kernel must find at @bdf.
 * @acs_ctrl:     ACS Control, 0 without %PCI_DEV_SER_ACS.
 * @bar_order:    Size of each BAR as a power of two; 0 for a BAR that the device
 *                doesn't have, and for the upper half of a 64-bit BAR.
 * @max_vf_buses: Highest bus number that the device's virtual functions could
 *                have; 0 if it can't have any, and without %PCI_DEV_SER_SRIOV.
 * @vf_bar_order: The same as @bar_order, for the BARs of one virtual function;
 *                0 without %PCI_DEV_SER_SRIOV.
 * @secondary:    Secondary bus number of a bridge.
 * @subordinate:  Subordinate bus number of a bridge.
 * @reserved:     Zero for a bridge.
 * @driver:       Name of the driver that was bound, ending in NUL and padded with
 *                NULs; empty for a bridge and for a device without a driver.
 *
 * The next kernel can't read the BAR sizes, the windows of a bridge, the buses of
 * virtual functions, and whether Interrupt Disable works: to find them, enumeration
 * writes to the device, which must not be disturbed. The bus numbers, ACS Control and
 * ARI Forwarding can be read, and tell whether the device was reset meanwhile.
 */
struct pci_dev_ser {
	u32 domain;
	u16 bdf;
	u16 flags;
	u32 refcount;
	u16 vendor;
	u16 device;
	u16 acs_ctrl;
	u8 bar_order[PCI_DEV_SER_BARS];
	u8 max_vf_buses;
	union {
		u8 vf_bar_order[PCI_DEV_SER_VF_BARS];
		struct {
			u8 secondary;
			u8 subordinate;
			u8 reserved[4];
		} __packed;
	} __packed;
	char driver[PCI_DEV_SER_DRIVER_LEN];
} __packed;

static_assert(sizeof(struct pci_dev_ser) == 64);

/**
 * struct pci_cap_ser - A capability in saved configuration state.
 * @id:       Capability ID; 0 ends the list.
 * @extended: 1 for an extended capability, else 0.
 * @reserved: Zero.
 * @size:     Length of @data in bytes.
 * @data:     Registers, as pci_save_state() saves them for this capability.
 */
struct pci_cap_ser {
	u16 id;
	u8 extended;
	u8 reserved;
	u32 size;
	u8 data[];
} __packed;

static_assert(sizeof(struct pci_cap_ser) == 8);

/**
 * struct pci_state_ser - Saved configuration state of a device.
 * @config: The first 64 bytes of configuration space.
 * @caps:   List of &struct pci_cap_ser, each directly behind the previous one, so that
 *          they may be unaligned.
 *
 * For drivers that reset their device to a state from before the live update. This
 * state is part of the driver's own data, not of the table.
 */
struct pci_state_ser {
	u32 config[16];
	u8 caps[];
} __packed;

static_assert(sizeof(struct pci_state_ser) == 64);

#endif /* _LINUX_KHO_ABI_PCI_H */
