/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef _LINUX_KHO_ABI_VFIO_PCI_H
#define _LINUX_KHO_ABI_VFIO_PCI_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/types.h>

/**
 * DOC: vfio-pci Live Update ABI
 *
 * For each preserved device file, vfio-pci hands one &struct vfio_pci_ser to the
 * next kernel, with what that kernel can't read from a running device.
 *
 * This interface is a contract. Any change to the layout or to the meaning of a
 * field requires a new %VFIO_PCI_LIVEUPDATE_COMPATIBLE.
 */

/** VFIO_PCI_LIVEUPDATE_COMPATIBLE - Name of the file handler and its version. */
#define VFIO_PCI_LIVEUPDATE_COMPATIBLE	"vfio-pci-v1"

/** VFIO_PCI_SER_RESET_WORKS - The function reset at the first open succeeded. */
#define VFIO_PCI_SER_RESET_WORKS	BIT(0)

/** VFIO_PCI_SER_NOINTX - The device's INTx is broken and masked. */
#define VFIO_PCI_SER_NOINTX		BIT(1)

/** VFIO_PCI_SER_PCI_2_3 - Interrupt Disable in the Command register works. */
#define VFIO_PCI_SER_PCI_2_3		BIT(2)

/**
 * VFIO_PCI_SER_MASTER - Freeze cleared Bus Master Enable, because an IOMMU translated the
 * device's DMA. The next kernel sets Bus Master Enable again when the device's file is
 * finished and the device is attached to an address space.
 */
#define VFIO_PCI_SER_MASTER		BIT(3)

/**
 * VFIO_PCI_SER_TRANSLATED - An IOMMU translates the device's DMA. If that differs in the
 * next kernel, the DMA addresses that the device was given mean something else.
 */
#define VFIO_PCI_SER_TRANSLATED		BIT(4)

/**
 * VFIO_PCI_SER_KEPT - The IOMMU goes on translating the device's DMA, which goes on, too: it
 * has Bus Master Enable set, unless the next kernel couldn't take the IOMMU over.
 */
#define VFIO_PCI_SER_KEPT		BIT(5)

/** VFIO_PCI_SER_FLAGS - All flags that this version knows. */
#define VFIO_PCI_SER_FLAGS		GENMASK(5, 0)

/**
 * struct vfio_pci_ser - A preserved vfio-pci device file.
 * @domain:      PCI segment group of the device.
 * @bdf:         Bus, device and function, as in PCI_DEVID().
 * @flags:       VFIO_PCI_SER_*; all other bits are zero.
 * @state_size:  Length of the state in bytes; 0 if there is none.
 * @config_size: Length of the virtual configuration space in bytes.
 * @data:        First the state (&struct pci_state_ser): the configuration that the
 *               device had when it was first opened, and to which it is reset when
 *               its file is closed. Then the virtual configuration space as of
 *               freeze, from which the next kernel takes the bits that users write
 *               and devices never see.
 */
struct vfio_pci_ser {
	u32 domain;
	u16 bdf;
	u16 flags;
	u32 state_size;
	u32 config_size;
	u8 data[];
} __packed;

static_assert(sizeof(struct vfio_pci_ser) == 16);

#endif /* _LINUX_KHO_ABI_VFIO_PCI_H */
