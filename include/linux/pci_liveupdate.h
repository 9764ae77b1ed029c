/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What a driver calls to keep its device running over a live update.
 */

#ifndef _LINUX_PCI_LIVEUPDATE_H
#define _LINUX_PCI_LIVEUPDATE_H

#include <linux/errno.h>
#include <linux/types.h>

struct liveupdate_file_handler;
struct pci_dev;
struct pci_dev_ser;
struct pci_saved_state;

#ifdef CONFIG_PCI_LIVEUPDATE

/**
 * struct pci_liveupdate - Live update state of a PCI device.
 * @outgoing:          The device's record in the outgoing table; NULL if the device has
 *                     no record. The table owns the record, and may move it.
 * @node:              Entry in the list of devices that have a record in the outgoing
 *                     table; valid as long as @outgoing isn't NULL.
 * @incoming:          For a device that the previous kernel preserved, 1 until
 *                     finish; for a bridge, the number of such devices below it.
 * @record:            Copy of the incoming record, which the device owns; NULL if the
 *                     device isn't incoming. Enumeration reads it without a lock: it
 *                     stays until the device is registered, at least.
 * @acs_ctrl:          ACS Control that was adopted. Kept as long as the device
 *                     exists.
 * @acs_adopted:       @acs_ctrl is valid.
 * @msi_adopted:       Enumeration found the device with MSI or MSI-X enabled. Set before
 *                     the device is registered, without a lock.
 * @finish_deferred:   The device's file was finished before its user had taken the device
 *                     over. The device has a reference on the IOMMU's incoming table.
 * @buses_lost:        The bridge's bus numbers were not those of its record.
 * @held:              The device was registered as incoming: runtime suspend is held off
 *                     until the device is ordinary again. Cleared under the device lock
 *                     for a bridge.
 * @services_deferred: portdrv was bound, but has not started the port's services.
 *                     Written under the device lock.
 * @starting:          The port's services are being started. Written under the device
 *                     lock.
 *
 * Embedded in &struct pci_dev. Written under pci_liveupdate_mutex, unless a field says
 * otherwise; @outgoing and @incoming may be tested without pci_liveupdate_mutex.
 */
struct pci_liveupdate {
	struct pci_dev_ser *outgoing;
	struct list_head node;
	u32 incoming;
	struct pci_dev_ser *record;
	u16 acs_ctrl;
	bool acs_adopted;
	bool msi_adopted;
	bool finish_deferred;
	bool buses_lost;
	bool held;
	bool services_deferred;
	bool starting;
};

int pci_liveupdate_register_flb(struct liveupdate_file_handler *fh);
void pci_liveupdate_unregister_flb(struct liveupdate_file_handler *fh);

int pci_liveupdate_preserve(struct pci_dev *dev);
void pci_liveupdate_unpreserve(struct pci_dev *dev);
int pci_liveupdate_freeze(void);
void pci_liveupdate_finish(struct pci_dev *dev);
void pci_liveupdate_abandon(struct pci_dev *dev, const char *why);
int pci_liveupdate_defer_finish(struct pci_dev *dev);
bool pci_liveupdate_is_incoming(struct pci_dev *dev);
bool pci_liveupdate_any_incoming(void);
bool pci_liveupdate_was_preserved(u32 domain, u16 bdf);
struct pci_dev *pci_liveupdate_get_incoming(u32 domain, u16 bdf);

size_t pci_liveupdate_write_state(struct pci_saved_state *state, void *buf, size_t size);
struct pci_saved_state *pci_liveupdate_read_state(const void *buf, size_t size);

#else /* CONFIG_PCI_LIVEUPDATE */

static inline int pci_liveupdate_register_flb(struct liveupdate_file_handler *fh)
{
	return -EOPNOTSUPP;
}

static inline void pci_liveupdate_unregister_flb(struct liveupdate_file_handler *fh)
{
}

static inline int pci_liveupdate_preserve(struct pci_dev *dev)
{
	return -EOPNOTSUPP;
}

static inline void pci_liveupdate_unpreserve(struct pci_dev *dev)
{
}

static inline int pci_liveupdate_freeze(void)
{
	return 0;
}

static inline void pci_liveupdate_finish(struct pci_dev *dev)
{
}

static inline void pci_liveupdate_abandon(struct pci_dev *dev, const char *why)
{
}

static inline int pci_liveupdate_defer_finish(struct pci_dev *dev)
{
	return -EINVAL;
}

static inline bool pci_liveupdate_is_incoming(struct pci_dev *dev)
{
	return false;
}

static inline bool pci_liveupdate_any_incoming(void)
{
	return false;
}

static inline bool pci_liveupdate_was_preserved(u32 domain, u16 bdf)
{
	return false;
}

static inline struct pci_dev *pci_liveupdate_get_incoming(u32 domain, u16 bdf)
{
	return NULL;
}

static inline size_t pci_liveupdate_write_state(struct pci_saved_state *state, void *buf,
						size_t size)
{
	return 0;
}

static inline struct pci_saved_state *
pci_liveupdate_read_state(const void *buf, size_t size)
{
	return NULL;
}

#endif /* CONFIG_PCI_LIVEUPDATE */
#endif /* _LINUX_PCI_LIVEUPDATE_H */
