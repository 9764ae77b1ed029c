/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Declarations that only the files of PCI live update share.
 */

#ifndef DRIVERS_PCI_LIVEUPDATE_INTERNAL_H
#define DRIVERS_PCI_LIVEUPDATE_INTERNAL_H

#include <linux/kho/abi/pci.h>
#include <linux/kho_block.h>
#include <linux/list.h>
#include <linux/mutex_types.h>
#include <linux/pci.h>
#include <linux/types.h>
#include <linux/xarray.h>

struct delayed_work;
struct file_operations;
struct liveupdate_flb;
struct seq_operations;
struct work_struct;

/**
 * struct pci_outgoing - The table for the next kernel.
 * @ser:     Head of the table; NULL as long as no preserved file needs the table.
 * @blocks:  Blocks with the records. All but the last one are full.
 * @devices: The devices and bridges that have a record, in the order of the records,
 *           by &pci_liveupdate.node. The list holds a reference on each of them.
 */
struct pci_outgoing {
	struct pci_ser *ser;
	struct kho_block_set blocks;
	struct list_head devices;
};

/* Mark in the index: enumeration has found a device at the address of the record */
#define PCI_RECORD_FOUND	XA_MARK_0
/* Mark in the index: the device that the record is about is still incoming */
#define PCI_RECORD_INCOMING	XA_MARK_1

/**
 * struct pci_incoming - The table of the previous kernel.
 * @ser:         Head of the table.
 * @blocks:      Blocks with the records.
 * @index:       The records, by pci_record_key(), with the marks PCI_RECORD_*.
 * @nr_devices:  Number of endpoints that were adopted.
 * @nr_bridges:  Number of bridges that were adopted.
 * @quarantined: The table can't be used; the other fields are empty.
 */
struct pci_incoming {
	struct pci_ser *ser;
	struct kho_block_set blocks;
	struct xarray index;
	unsigned int nr_devices;
	unsigned int nr_bridges;
	bool quarantined;
};

/* liveupdate.c */
extern struct mutex pci_liveupdate_mutex;
extern struct liveupdate_flb pci_liveupdate_flb;

/* liveupdate_table.c */
extern struct pci_outgoing pci_outgoing;
extern struct pci_incoming pci_incoming;
struct pci_dev_ser *pci_outgoing_alloc(void);
struct pci_dev_ser *pci_outgoing_last(void);
void pci_outgoing_shrink(void);
int pci_incoming_load(struct pci_incoming *in, u64 pa);
void pci_incoming_free(struct pci_incoming *in);

/* liveupdate_outgoing.c */
int pci_outgoing_preserve(struct pci_dev *dev);
void pci_outgoing_put_path(struct pci_dev *dev, struct pci_dev *end);
void pci_outgoing_forget(struct pci_dev *dev, const char *what);
void pci_outgoing_unbind(struct pci_dev *dev);
void pci_outgoing_drop_all(void);
void pci_outgoing_set_version(u32 version);
int pci_outgoing_check_image(void);

/* liveupdate_incoming.c */
void pci_liveupdate_quiesce(struct pci_dev *dev, const char *why);
void pci_incoming_register(struct pci_dev *dev);
void pci_incoming_end(struct pci_dev *dev);
void pci_incoming_release_path(struct pci_dev *dev);
void pci_incoming_release_all(void);
const char *pci_incoming_unfit(struct pci_dev *dev);

/* liveupdate_ports.c */
void pci_incoming_let_go(struct pci_dev *dev);
void pci_liveupdate_queue_restart(void);
void pci_liveupdate_flush_restart(void);

/* Visible only for the KUnit tests */
#if IS_ENABLED(CONFIG_KUNIT)
extern const struct seq_operations pci_table_sops;
extern const struct file_operations *const pci_table_kunit_fops;
extern struct delayed_work pci_restart_work;
int pci_outgoing_get_path(struct pci_dev *dev);
struct pci_dev_ser *pci_incoming_find(struct pci_incoming *in,
				      struct pci_dev *dev);
void pci_incoming_device_add(struct pci_incoming *in, struct pci_dev *dev);
void pci_incoming_report(struct pci_incoming *in);
void pci_restart_bridges(struct work_struct *work);
#endif

static inline bool pci_is_endpoint(struct pci_dev *dev)
{
	return dev->hdr_type == PCI_HEADER_TYPE_NORMAL;
}

static inline bool pci_ari_forwarding(struct pci_dev *bridge)
{
	u16 ctl;

	pcie_capability_read_word(bridge, PCI_EXP_DEVCTL2, &ctl);
	return ctl & PCI_EXP_DEVCTL2_ARI;
}

static inline unsigned long pci_record_key(u32 domain, u16 bdf)
{
	return (unsigned long)domain << 16 | bdf;
}

#endif /* DRIVERS_PCI_LIVEUPDATE_INTERNAL_H */
