// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What the administrator sees of PCI live update: a summary of the incoming devices that
 * enumeration has found, and both tables in debugfs.
 */

#define pr_fmt(fmt) "PCI: liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/kho_block.h>
#include <linux/list.h>
#include <linux/liveupdate.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/printk.h>
#include <linux/seq_file.h>
#include <linux/xarray.h>

#include "liveupdate_internal.h"

/* Summary of enumeration */

VISIBLE_IF_KUNIT void pci_incoming_report(struct pci_incoming *in)
{
	struct pci_dev_ser *rec;
	unsigned int nr_missing = 0;
	unsigned long key;

	xa_for_each(&in->index, key, rec) {
		if (xa_get_mark(&in->index, key, PCI_RECORD_FOUND))
			continue;
		pr_warn("%04x:%02x:%02x.%d [%04x:%04x] was preserved but is not there; restart its user\n",
			rec->domain, PCI_BUS_NUM(rec->bdf), PCI_SLOT(rec->bdf),
			PCI_FUNC(rec->bdf), rec->vendor, rec->device);
		nr_missing++;
	}

	pr_info("adopted %u devices and %u bridges, %u missing\n",
		in->nr_devices, in->nr_bridges, nr_missing);
}

static int __init pci_liveupdate_report(void)
{
	struct pci_incoming *in;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return 0;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		if (!in->quarantined)
			pci_incoming_report(in);
	}

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	return 0;
}
late_initcall(pci_liveupdate_report);

/* debugfs */

static struct pci_dev_ser *pci_table_record(struct kho_block_set *blocks, u64 nr)
{
	struct kho_block *block;

	list_for_each_entry(block, &blocks->blocks, list) {
		if (nr < block->ser->count)
			return (struct pci_dev_ser *)(block->ser + 1) + nr;
		nr -= block->ser->count;
	}

	return NULL;
}

static void *pci_table_start(struct seq_file *m, loff_t *pos)
	__acquires(&pci_liveupdate_mutex)
{
	struct kho_block_set *blocks = m->private;

	mutex_lock(&pci_liveupdate_mutex);
	if (blocks == &pci_incoming.blocks && pci_incoming.quarantined)
		return *pos ? NULL : SEQ_START_TOKEN;

	return pci_table_record(blocks, *pos);
}

static void *pci_table_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return v == SEQ_START_TOKEN ? NULL : pci_table_record(m->private, *pos);
}

static void pci_table_stop(struct seq_file *m, void *v)
	__releases(&pci_liveupdate_mutex)
{
	mutex_unlock(&pci_liveupdate_mutex);
}

static const char *pci_incoming_state(const struct pci_dev_ser *rec)
{
	unsigned long key = pci_record_key(rec->domain, rec->bdf);

	if (!xa_get_mark(&pci_incoming.index, key, PCI_RECORD_FOUND))
		return " missing";
	if (xa_get_mark(&pci_incoming.index, key, PCI_RECORD_INCOMING))
		return " incoming";
	return " done";
}

static int pci_table_show(struct seq_file *m, void *v)
{
	const struct pci_dev_ser *rec = v;

	if (v == SEQ_START_TOKEN) {
		seq_puts(m, "quarantined\n");
		return 0;
	}

	/* Skip a free slot */
	if (!rec->refcount)
		return 0;

	seq_printf(m, "%04x:%02x:%02x.%d %04x:%04x ", rec->domain,
		   PCI_BUS_NUM(rec->bdf), PCI_SLOT(rec->bdf),
		   PCI_FUNC(rec->bdf), rec->vendor, rec->device);
	if (rec->flags & PCI_DEV_SER_BRIDGE)
		seq_printf(m, "bridge %u %02x-%02x", rec->refcount,
			   rec->secondary, rec->subordinate);
	else
		seq_printf(m, "device %u %s", rec->refcount,
			   rec->driver[0] ? rec->driver : "-");
	if (m->private == &pci_incoming.blocks)
		seq_puts(m, pci_incoming_state(rec));
	seq_putc(m, '\n');
	return 0;
}

VISIBLE_IF_KUNIT const struct seq_operations pci_table_sops = {
	.start = pci_table_start,
	.next = pci_table_next,
	.stop = pci_table_stop,
	.show = pci_table_show,
};
DEFINE_SEQ_ATTRIBUTE(pci_table);

#if IS_ENABLED(CONFIG_KUNIT)
const struct file_operations *const pci_table_kunit_fops = &pci_table_fops;
#endif

static int __init pci_liveupdate_debugfs(void)
{
	struct dentry *dir;

	if (!liveupdate_enabled())
		return 0;

	dir = debugfs_create_dir("pci_liveupdate", NULL);
	debugfs_create_file("outgoing", 0400, dir, &pci_outgoing.blocks,
			    &pci_table_fops);
	debugfs_create_file("incoming", 0400, dir, &pci_incoming.blocks,
			    &pci_table_fops);
	return 0;
}
late_initcall(pci_liveupdate_debugfs);
