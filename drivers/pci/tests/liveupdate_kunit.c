// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * KUnit tests of PCI live update, a part of liveupdate.c. What they call of its other files
 * is in liveupdate_internal.h.
 *
 * Bridges and devices have their configuration space in memory here; the PCI core
 * enumerates them like any others. LUO, KHO and the driver core are the real ones.
 * Of the kexec only two things are made up: fake_handover() copies the table to
 * memory that looks as if the previous kernel had preserved it, and fake_retrieve()
 * does what LUO does for a table that it has found.
 */

#include <kunit/test.h>
#include <linux/debug_locks.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/fault-inject.h>
#include <linux/irq.h>
#include <linux/irqdesc.h>
#include <linux/kho/abi/kexec_handover.h>
#include <linux/kho_radix_tree.h>
#include <linux/libfdt.h>
#include <linux/lockdep.h>
#include <linux/moduleparam.h>
#include <linux/prandom.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <asm/pci_x86.h>

#include "../../../kernel/liveupdate/luo_internal.h"
#include "../pcie/portdrv.h"
#include "kho_kunit.h"

#undef MODULE_PARAM_PREFIX
#define MODULE_PARAM_PREFIX "pci_liveupdate_kunit."

static unsigned int nr_tables = 1000;
module_param_named(tables, nr_tables, uint, 0644);
MODULE_PARM_DESC(tables, "Number of damaged tables to try");

static unsigned int first_seed;
module_param_named(seed, first_seed, uint, 0644);
MODULE_PARM_DESC(seed, "Seed of the first of them; that of the next is one more");

#define FAKE_VENDOR	0x1234
#define FAKE_DEVICE	0x0001
/* Above those of ACPI, as a VMD's are */
#define FAKE_DOMAIN	0x10001

/* Fake hardware */

struct fake_function {
	u8 config[512];
	u8 writable[512];
	u8 clears[512];		/* write 1 to clear */
	unsigned int nr_changes;
	/* Called when @read_at is read: on x86 no spinlock is held then */
	void (*on_read)(void);
	int read_at;
};

struct fake_host {
	struct pci_sysdata sysdata;	/* first, as bus->sysdata points to it */
	struct xarray functions;
	struct resource buses;
	struct pci_bus *bus;
	int domain;
	int root;
};

static int fake_read(struct pci_bus *bus, unsigned int devfn, int where,
		     int size, u32 *val)
{
	struct fake_host *host = bus->sysdata;
	struct fake_function *fn;

	fn = xa_load(&host->functions, PCI_DEVID(bus->number, devfn));
	if (!fn) {
		PCI_SET_ERROR_RESPONSE(val);
		return PCIBIOS_DEVICE_NOT_FOUND;
	}

	if (fn->on_read && where == fn->read_at)
		fn->on_read();
	*val = 0;
	if (where + size <= sizeof(fn->config))
		memcpy(val, &fn->config[where], size);
	return PCIBIOS_SUCCESSFUL;
}

static int fake_write(struct pci_bus *bus, unsigned int devfn, int where,
		      int size, u32 val)
{
	struct fake_host *host = bus->sysdata;
	struct fake_function *fn;

	fn = xa_load(&host->functions, PCI_DEVID(bus->number, devfn));
	if (!fn)
		return PCIBIOS_DEVICE_NOT_FOUND;

	/* Real hardware may have bits that these functions ignore, so count them, too */
	for (int i = where; i < where + size && i < sizeof(fn->config); i++) {
		if ((fn->config[i] ^ (u8)val) & ~fn->clears[i])
			fn->nr_changes++;
		fn->config[i] = (fn->config[i] & ~fn->writable[i]) |
				(val & fn->writable[i]);
		fn->config[i] &= ~(val & fn->clears[i]);
		val >>= 8;
	}
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops fake_ops = {
	.read = fake_read,
	.write = fake_write,
};

static void fake_set(struct fake_function *fn, int where, int size, u32 val,
		     u32 writable)
{
	memcpy(&fn->config[where], &val, size);
	memcpy(&fn->writable[where], &writable, size);
}

static u16 fake_command(struct fake_function *fn)
{
	u16 cmd;

	memcpy(&cmd, &fn->config[PCI_COMMAND], sizeof(cmd));
	return cmd;
}

static struct fake_function *fake_add(struct kunit *test, struct fake_host *host,
				      u16 bdf, u32 class, u8 type)
{
	struct fake_function *fn = kzalloc_obj(*fn);

	KUNIT_ASSERT_NOT_NULL(test, fn);
	KUNIT_ASSERT_EQ(test, 0, xa_insert(&host->functions, bdf, fn, GFP_KERNEL));

	fake_set(fn, PCI_VENDOR_ID, 4, FAKE_DEVICE << 16 | FAKE_VENDOR, 0);
	fake_set(fn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
		 PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
		 PCI_COMMAND_INTX_DISABLE);
	fake_set(fn, PCI_CLASS_REVISION, 4, class << 8, 0);
	fake_set(fn, PCI_HEADER_TYPE, 1, type | PCI_HEADER_TYPE_MFD, 0);
	return fn;
}

/* BAR 0 has 4 KiB. */
static struct fake_function *fake_endpoint(struct kunit *test,
					   struct fake_host *host, u16 bdf)
{
	struct fake_function *fn = fake_add(test, host, bdf,
					    PCI_CLASS_NETWORK_ETHERNET << 8,
					    PCI_HEADER_TYPE_NORMAL);

	fake_set(fn, PCI_BASE_ADDRESS_0, 4, 0x80000000 + (bdf << 12), ~0xfff);
	return fn;
}

static struct fake_function *fake_bridge(struct kunit *test,
					 struct fake_host *host, u16 bdf,
					 u8 secondary, u8 subordinate)
{
	struct fake_function *fn = fake_add(test, host, bdf,
					    PCI_CLASS_BRIDGE_PCI_NORMAL,
					    PCI_HEADER_TYPE_BRIDGE);

	fake_set(fn, PCI_PRIMARY_BUS, 4, subordinate << 16 | secondary << 8 |
		 PCI_BUS_NUM(bdf), 0xffffff);
	memset(&fn->clears[PCI_SEC_STATUS], 0xff, 2);
	return fn;
}

static struct fake_function *fake_function(struct fake_host *host, u16 bdf)
{
	return xa_load(&host->functions, bdf);
}

static void fake_host_unscan(struct fake_host *host)
{
	if (!host->bus)
		return;

	pci_lock_rescan_remove();
	pci_stop_root_bus(host->bus);
	pci_remove_root_bus(host->bus);
	pci_unlock_rescan_remove();
	host->bus = NULL;
}

static void fake_host_destroy(void *data)
{
	struct fake_host *host = data;
	struct fake_function *fn;
	unsigned long bdf;

	fake_host_unscan(host);
	xa_for_each(&host->functions, bdf, fn)
		kfree(fn);
	xa_destroy(&host->functions);
}

static struct fake_host *fake_host_buses(struct kunit *test, int domain, u8 root,
					 u8 last)
{
	struct fake_host *host = kunit_kzalloc(test, sizeof(*host), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, host);
	xa_init(&host->functions);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, fake_host_destroy, host));
	host->sysdata.domain = domain;
	host->sysdata.node = NUMA_NO_NODE;
	host->domain = domain;
	host->root = root;
	host->buses = DEFINE_RES_NAMED(root, last - root + 1, "fake buses",
				       IORESOURCE_BUS);
	return host;
}

static struct fake_host *fake_host(struct kunit *test, int domain, u8 root)
{
	return fake_host_buses(test, domain, root, 0xff);
}

static void fake_scan(struct kunit *test, struct fake_host *host)
{
	struct pci_host_bridge *bridge = pci_alloc_host_bridge(0);
	int err;

	KUNIT_ASSERT_NOT_NULL(test, bridge);
	bridge->ops = &fake_ops;
	bridge->sysdata = host;
	bridge->busnr = host->root;
	bridge->domain_nr = host->domain;
	pci_add_resource(&bridge->windows, &host->buses);

	pci_lock_rescan_remove();
	err = pci_scan_root_bus_bridge(bridge);
	if (!err)
		pci_bus_add_devices(bridge->bus);
	pci_unlock_rescan_remove();

	KUNIT_ASSERT_EQ(test, 0, err);
	host->bus = bridge->bus;
}

/* The device lives until fake_host_unscan(): no reference is held. */
static struct pci_dev *fake_find(struct fake_host *host, u16 bdf)
{
	struct pci_dev *dev;

	dev = pci_get_domain_bus_and_slot(host->domain, PCI_BUS_NUM(bdf),
					  bdf & 0xff);
	pci_dev_put(dev);
	return dev;
}

static struct pci_dev *fake_dev(struct kunit *test, struct fake_host *host,
				u16 bdf)
{
	struct pci_dev *dev = fake_find(host, bdf);

	KUNIT_ASSERT_NOT_NULL(test, dev);
	return dev;
}

/* A driver whose devices can be preserved */

static bool fake_can_preserve(struct liveupdate_file_handler *handler,
			      struct file *file)
{
	return false;
}

static int fake_file_op(struct liveupdate_file_op_args *args)
{
	return 0;
}

static void fake_file_end(struct liveupdate_file_op_args *args)
{
}

static const struct liveupdate_file_ops fake_file_ops = {
	.can_preserve = fake_can_preserve,
	.preserve = fake_file_op,
	.unpreserve = fake_file_end,
	.retrieve = fake_file_op,
	.finish = fake_file_end,
	.owner = THIS_MODULE,
};

static struct liveupdate_file_handler fake_handler = {
	.ops = &fake_file_ops,
	.compatible = "pci-liveupdate-kunit",
};

static unsigned int nr_probed;

static int fake_probe(struct pci_dev *dev, const struct pci_device_id *id)
{
	/* QEMU and others have taken the vendor for theirs */
	if (pci_domain_nr(dev->bus) < FAKE_DOMAIN)
		return -ENODEV;

	nr_probed++;
	return 0;
}

static const struct pci_device_id fake_ids[] = {
	{ PCI_DEVICE(FAKE_VENDOR, FAKE_DEVICE), .class = PCI_CLASS_NETWORK_ETHERNET << 8,
	  .class_mask = ~0 },
	{ }
};

static struct pci_driver fake_driver = {
	.name = "fake-vfio",
	.id_table = fake_ids,
	.probe = fake_probe,
};

static struct pci_driver fake_native_driver = {
	.name = "fake-native",
	.id_table = fake_ids,
	.probe = fake_probe,
};

/* The table between two kernels */

struct fake_table {
	unsigned int nr_pages;
	struct page **pages;	/* the first is that of struct pci_ser */
};

static u64 fake_table_pa(struct fake_table *table)
{
	return page_to_phys(table->pages[0]);
}

static struct pci_ser *fake_table_ser(struct fake_table *table)
{
	return page_address(table->pages[0]);
}

static struct kho_block_header_ser *fake_table_block(struct fake_table *table,
						     unsigned int i)
{
	return page_address(table->pages[i + 1]);
}

static struct pci_dev_ser *fake_table_rec(struct fake_table *table,
					  unsigned int i)
{
	unsigned int per_block = (KHO_BLOCK_SIZE - sizeof(struct kho_block_header_ser)) /
				 sizeof(struct pci_dev_ser);
	void *block = fake_table_block(table, i / per_block);

	return (struct pci_dev_ser *)(block + sizeof(struct kho_block_header_ser)) +
	       i % per_block;
}

static unsigned int fake_table_nr_preserved(struct fake_table *table)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < table->nr_pages; i++)
		nr += kunit_kho_is_preserved(table->pages[i]);
	return nr;
}

/* Give back what wasn't. */
static void fake_table_free(void *data)
{
	struct fake_table *table = data;

	for (unsigned int i = 0; i < table->nr_pages; i++) {
		if (kunit_kho_is_preserved(table->pages[i]))
			kho_restore_free(page_address(table->pages[i]));
	}
	table->nr_pages = 0;
}

static struct fake_table *fake_table(struct kunit *test, unsigned int nr_pages)
{
	struct fake_table *table = kunit_kzalloc(test, sizeof(*table), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, table);
	table->pages = kunit_kcalloc(test, nr_pages, sizeof(*table->pages),
				     GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, table->pages);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, fake_table_free, table));
	for (unsigned int i = 0; i < nr_pages; i++) {
		table->pages[i] = kunit_kho_page(test);
		table->nr_pages++;
	}
	return table;
}

/* Let @table's chain lead through its blocks. */
static void fake_table_link(struct fake_table *table)
{
	u64 next = 0;

	for (unsigned int i = table->nr_pages - 1; i; i--) {
		fake_table_block(table, i - 1)->next = next;
		next = page_to_phys(table->pages[i]);
	}
	fake_table_ser(table)->devices = next;
}

/* What the next kernel would find if it were started now. */
static struct fake_table *fake_handover(struct kunit *test)
{
	struct fake_table *table = fake_table(test,
					      pci_outgoing.blocks.nblocks + 1);
	struct kho_block *block;
	unsigned int i = 0;

	memcpy(fake_table_ser(table), pci_outgoing.ser, PAGE_SIZE);
	list_for_each_entry(block, &pci_outgoing.blocks.blocks, list)
		memcpy(fake_table_block(table, i++), block->ser, PAGE_SIZE);
	fake_table_link(table);
	return table;
}

static struct luo_flb_private *fake_flb(void)
{
	return &ACCESS_PRIVATE(&pci_liveupdate_flb, private);
}

/* As luo_flb_retrieve_one() does for a table that it has found. */
static void fake_retrieve(u64 pa)
{
	struct luo_flb_private_state *state = &fake_flb()->incoming;
	struct liveupdate_flb_op_args args = {
		.flb = &pci_liveupdate_flb,
		.data = pa,
	};

	pci_incoming.nr_devices = 0;
	pci_incoming.nr_bridges = 0;
	pci_flb_retrieve(&args);

	guard(mutex)(&state->lock);
	state->obj = args.obj;
	state->retrieve_status = 1;
	state->finished = false;
	refcount_set(&state->count, 1);
}

static void fake_finish(void)
{
	if (fake_flb()->incoming.obj)
		liveupdate_flb_put_incoming(&pci_liveupdate_flb);
}

/* As a driver does whose last file is closed. */
static void fake_file_unpreserve(void)
{
	struct pci_dev *dev = NULL;

	for_each_pci_dev(dev)
		pci_liveupdate_unpreserve(dev);
	if (pci_outgoing.ser)
		luo_flb_file_unpreserve(&fake_handler);
}

/* What every test starts from and must come back to */

static void *debugfs_data(const char *dir, const char *sub, const char *name)
{
	struct dentry *parent = debugfs_lookup(dir, NULL), *dentry;
	void *data;

	if (sub) {
		dentry = parent;
		parent = debugfs_lookup(sub, parent);
		dput(dentry);
	}
	dentry = debugfs_lookup(name, parent);
	dput(parent);
	data = dentry ? d_inode(dentry)->i_private : NULL;
	dput(dentry);
	return data;
}

static int count_key(unsigned long key, void *data)
{
	++*(unsigned int *)data;
	return 0;
}

/* How many pieces of memory KHO would tell the next kernel of; -1 if it doesn't say. */
static int nr_preserved(void)
{
	static const struct kho_radix_walk_cb cb = { .leaf = count_key };
	struct debugfs_blob_wrapper *fdt = debugfs_data("kho", "out", "fdt");
	struct kho_radix_tree tree;
	unsigned int nr = 0;
	const u64 *root;
	int len;

	if (!fdt)
		return -1;
	root = fdt_getprop(fdt->data, 0, KHO_FDT_MEMORY_MAP_PROP_NAME, &len);
	if (!root || kho_radix_init_tree(&tree, phys_to_virt(*root)))
		return -1;
	kho_radix_walk_tree(&tree, &cb, &nr);
	return nr;
}

static int nr_preserved_before;
static unsigned long taint_before;
static int locks_before;
static unsigned int nr_failed;

static int liveupdate_suite_init(struct kunit_suite *suite)
{
	void *obj;
	int err;

	if (!liveupdate_enabled())
		return 0;

	err = liveupdate_flb_get_incoming(&pci_liveupdate_flb, &obj);
	if (!err)
		liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	if (!err || pci_outgoing.ser)
		return -EBUSY;

	err = pci_register_driver(&fake_driver);
	if (err)
		return err;
	err = liveupdate_register_file_handler(&fake_handler);
	if (err)
		goto err_driver;
	err = pci_liveupdate_register_flb(&fake_handler);
	if (err)
		goto err_handler;
	return 0;

err_handler:
	liveupdate_unregister_file_handler(&fake_handler);
err_driver:
	pci_unregister_driver(&fake_driver);
	return err;
}

static void liveupdate_suite_exit(struct kunit_suite *suite)
{
	if (!liveupdate_enabled())
		return;

	pci_liveupdate_unregister_flb(&fake_handler);
	liveupdate_unregister_file_handler(&fake_handler);
	pci_unregister_driver(&fake_driver);
}

static int liveupdate_test_init(struct kunit *test)
{
	if (!liveupdate_enabled())
		kunit_skip(test, "needs liveupdate=on");

	nr_preserved_before = nr_preserved();
	KUNIT_ASSERT_GT(test, nr_preserved_before, 0);
	taint_before = get_taint();
	locks_before = debug_locks;
	nr_failed = 0;
	return 0;
}

static void liveupdate_test_exit(struct kunit *test)
{
	if (nr_failed)
		kunit_info(test, "allocations failed: %u\n", nr_failed);

	fake_finish();
	fake_file_unpreserve();

	KUNIT_EXPECT_EQ(test, nr_preserved_before, nr_preserved());
	KUNIT_EXPECT_TRUE(test, xa_empty(&pci_incoming.index));
	KUNIT_EXPECT_NULL(test, pci_incoming.ser);
	KUNIT_EXPECT_FALSE(test, pci_incoming.quarantined);
	/* A warning, or a report of KASAN or lockdep; the first one */
	KUNIT_EXPECT_EQ(test, taint_before, get_taint());
	KUNIT_EXPECT_EQ(test, locks_before, debug_locks);
}

/* Small words for what most tests do */

static void file_preserve(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, 0, luo_flb_file_preserve(&fake_handler));
}

static void preserve(struct kunit *test, struct fake_host *host, u16 bdf)
{
	KUNIT_ASSERT_EQ(test, 0,
			pci_liveupdate_preserve(fake_dev(test, host, bdf)));
}

static void unpreserve(struct kunit *test, struct fake_host *host, u16 bdf)
{
	pci_liveupdate_unpreserve(fake_dev(test, host, bdf));
}

static unsigned int nr_references(struct kunit *test, struct fake_host *host,
				  u16 bdf)
{
	struct pci_dev_ser *rec = fake_dev(test, host, bdf)->liveupdate.outgoing;

	return rec ? rec->refcount : 0;
}

/* Slots in use; all others must be clear. */
static u64 nr_records(struct kunit *test)
{
	struct kho_block_set *blocks = &pci_outgoing.blocks;
	struct kho_block *block;
	u64 nr = 0;

	list_for_each_entry(block, &blocks->blocks, list) {
		struct pci_dev_ser *rec = (struct pci_dev_ser *)(block->ser + 1);

		for (u64 i = 0; i < blocks->count_per_block; i++, rec++) {
			if (rec->refcount)
				nr++;
			else
				KUNIT_EXPECT_NULL(test, memchr_inv(rec, 0, sizeof(*rec)));
		}
	}
	return nr;
}

/* Each device has its own record, and the table is no larger than it must be. */
static void expect_compact(struct kunit *test)
{
	u64 per_block = pci_outgoing.blocks.count_per_block, i = per_block;
	struct kho_block *block = list_entry(&pci_outgoing.blocks.blocks,
					     struct kho_block, list);
	struct pci_dev *dev;
	u64 nr = 0;

	list_for_each_entry(dev, &pci_outgoing.devices, liveupdate.node) {
		struct pci_dev_ser *rec = dev->liveupdate.outgoing;

		KUNIT_EXPECT_EQ(test, pci_dev_id(dev), rec->bdf);
		KUNIT_EXPECT_NE(test, 0, rec->refcount);
		nr++;

		if (i == per_block) {
			block = list_next_entry(block, list);
			i = 0;
		}
		KUNIT_EXPECT_PTR_EQ(test, rec,
				    (struct pci_dev_ser *)(block->ser + 1) + i++);
	}

	KUNIT_EXPECT_EQ(test, nr, nr_records(test));
	KUNIT_EXPECT_EQ(test, nr, pci_outgoing.ser->nr_devices);
	KUNIT_EXPECT_EQ(test, kho_block_set_head_pa(&pci_outgoing.blocks),
			pci_outgoing.ser->devices);
	KUNIT_EXPECT_EQ(test, DIV_ROUND_UP(nr, per_block),
			pci_outgoing.blocks.nblocks);
	/* The blocks, and what points to them */
	KUNIT_EXPECT_EQ(test, nr_preserved_before + 1 + pci_outgoing.blocks.nblocks,
			nr_preserved());
}

/* Take @nr slots for nobody. */
static void take_slots(struct kunit *test, int nr)
{
	guard(mutex)(&pci_liveupdate_mutex);

	while (nr-- > 0) {
		struct pci_dev_ser *rec = pci_outgoing_alloc();

		KUNIT_EXPECT_NOT_ERR_OR_NULL(test, rec);
		if (!IS_ERR_OR_NULL(rec))
			rec->refcount = 1;
	}
}

/* Hand over what is preserved; nothing else is left of this kernel. */
static struct fake_table *end_kernel(struct kunit *test, struct fake_host *host)
{
	struct fake_table *table = fake_handover(test);

	fake_file_unpreserve();
	fake_host_unscan(host);
	return table;
}

static void clear_changes(struct fake_host *host)
{
	struct fake_function *fn;
	unsigned long key;

	xa_for_each(&host->functions, key, fn)
		fn->nr_changes = 0;
}

/*
 * The next kernel enumerates a host that this one has preserved devices of. What it changes is
 * counted.
 */
static struct fake_table *next_kernel(struct kunit *test, struct fake_host *host)
{
	struct fake_table *table = end_kernel(test, host);

	fake_retrieve(fake_table_pa(table));
	clear_changes(host);
	fake_scan(test, host);
	return table;
}

/*
 * 00.0 bridge 01-03
 *   01:00.0 bridge 02
 *     02:00.0 and 02:01.0 endpoints
 *   01:01.0 bridge 03
 *     03:00.0 endpoint
 * 01.0 endpoint
 */
#define BRIDGE_TOP	PCI_DEVID(0, PCI_DEVFN(0, 0))
#define BRIDGE_LEFT	PCI_DEVID(1, PCI_DEVFN(0, 0))
#define BRIDGE_RIGHT	PCI_DEVID(1, PCI_DEVFN(1, 0))
#define LEFT_0		PCI_DEVID(2, PCI_DEVFN(0, 0))
#define LEFT_1		PCI_DEVID(2, PCI_DEVFN(1, 0))
#define RIGHT		PCI_DEVID(3, PCI_DEVFN(0, 0))
#define ON_ROOT_BUS	PCI_DEVID(0, PCI_DEVFN(1, 0))

static struct fake_host *fake_tree(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);

	fake_bridge(test, host, BRIDGE_TOP, 1, 3);
	fake_bridge(test, host, BRIDGE_LEFT, 2, 2);
	fake_bridge(test, host, BRIDGE_RIGHT, 3, 3);
	fake_endpoint(test, host, LEFT_0);
	fake_endpoint(test, host, LEFT_1);
	fake_endpoint(test, host, RIGHT);
	fake_endpoint(test, host, ON_ROOT_BUS);
	fake_scan(test, host);
	return host;
}

/* As deep as a @root bus can have it, with one endpoint at the end. */
static struct fake_host *fake_chain(struct kunit *test, int nr_bridges)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);

	for (int i = 0; i < nr_bridges; i++)
		fake_bridge(test, host, PCI_DEVID(i, 0), i + 1, nr_bridges);
	fake_endpoint(test, host, PCI_DEVID(nr_bridges, 0));
	fake_scan(test, host);
	return host;
}

/* @nr functions on bus 1, behind one bridge. */
static struct fake_host *fake_wide(struct kunit *test, int nr)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);

	fake_bridge(test, host, 0, 1, 1);
	for (int i = 0; i < nr; i++)
		fake_endpoint(test, host, PCI_DEVID(1, i));
	fake_scan(test, host);
	return host;
}

/* Outgoing */

static void preserve_path(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev_ser *rec;

	file_preserve(test);
	preserve(test, host, LEFT_0);

	KUNIT_EXPECT_EQ(test, 3, pci_outgoing.ser->nr_devices);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, LEFT_0));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, LEFT_1));
	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, BRIDGE_RIGHT));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_bus_numbers());
	KUNIT_EXPECT_TRUE(test,
			  pci_liveupdate_is_preserved(fake_dev(test, host, BRIDGE_TOP)));

	rec = fake_dev(test, host, LEFT_0)->liveupdate.outgoing;
	KUNIT_EXPECT_EQ(test, FAKE_DOMAIN, rec->domain);
	KUNIT_EXPECT_EQ(test, LEFT_0, rec->bdf);
	KUNIT_EXPECT_EQ(test, FAKE_VENDOR, rec->vendor);
	KUNIT_EXPECT_EQ(test, FAKE_DEVICE, rec->device);
	KUNIT_EXPECT_EQ(test, 12, rec->bar_order[0]);
	KUNIT_EXPECT_STREQ(test, "fake-vfio", rec->driver);

	rec = fake_dev(test, host, BRIDGE_TOP)->liveupdate.outgoing;
	KUNIT_EXPECT_EQ(test, PCI_DEV_SER_BRIDGE, rec->flags & PCI_DEV_SER_BRIDGE);
	KUNIT_EXPECT_EQ(test, 1, rec->secondary);
	KUNIT_EXPECT_EQ(test, 3, rec->subordinate);
	KUNIT_EXPECT_STREQ(test, "", rec->driver);

	unpreserve(test, host, LEFT_0);
	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
	expect_compact(test);
	KUNIT_EXPECT_FALSE(test,
			   pci_liveupdate_is_preserved(fake_dev(test, host, BRIDGE_TOP)));
	/* Of what isn't outgoing nothing is released */
	unpreserve(test, host, LEFT_0);
	unpreserve(test, host, BRIDGE_TOP);
	expect_compact(test);

	fake_file_unpreserve();
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_bus_numbers());
}

static void preserve_shared_bridges(struct kunit *test)
{
	static const u16 orders[][3] = {
		{ LEFT_0, LEFT_1, RIGHT }, { LEFT_0, RIGHT, LEFT_1 },
		{ LEFT_1, LEFT_0, RIGHT }, { LEFT_1, RIGHT, LEFT_0 },
		{ RIGHT, LEFT_0, LEFT_1 }, { RIGHT, LEFT_1, LEFT_0 },
	};
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	for (int i = 0; i < ARRAY_SIZE(orders); i++) {
		int nr_left = 2, nr_right = 1;

		preserve(test, host, LEFT_0);
		preserve(test, host, LEFT_1);
		preserve(test, host, RIGHT);
		KUNIT_EXPECT_EQ(test, 6, pci_outgoing.ser->nr_devices);

		for (int j = 0; j < ARRAY_SIZE(orders[i]); j++) {
			KUNIT_EXPECT_EQ(test, nr_left + nr_right,
					nr_references(test, host, BRIDGE_TOP));
			KUNIT_EXPECT_EQ(test, nr_left,
					nr_references(test, host, BRIDGE_LEFT));
			KUNIT_EXPECT_EQ(test, nr_right,
					nr_references(test, host, BRIDGE_RIGHT));
			unpreserve(test, host, orders[i][j]);
			expect_compact(test);
			if (orders[i][j] == RIGHT)
				nr_right--;
			else
				nr_left--;
		}
		KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
		KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, BRIDGE_TOP));
	}
}

static void preserve_deep_chain(struct kunit *test)
{
	struct fake_host *host = fake_chain(test, 30);

	file_preserve(test);
	preserve(test, host, PCI_DEVID(30, 0));
	for (int i = 0; i <= 30; i++)
		KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, PCI_DEVID(i, 0)));
	expect_compact(test);
	unpreserve(test, host, PCI_DEVID(30, 0));
	expect_compact(test);
}

/* Four devices leave in each of the 24 orders. */
static void leave_in_any_order(struct kunit *test)
{
	struct fake_host *host = fake_wide(test, 4);

	file_preserve(test);
	for (int order = 0; order < 4 * 4 * 4 * 4; order++) {
		int used = 0;

		for (int i = 0; i < 4; i++)
			used |= BIT(order >> 2 * i & 3);
		if (used != 0xf)
			continue;

		for (int i = 0; i < 4; i++)
			preserve(test, host, PCI_DEVID(1, i));
		for (int i = 0; i < 4; i++) {
			unpreserve(test, host, PCI_DEVID(1, order >> 2 * i & 3));
			expect_compact(test);
		}
		KUNIT_EXPECT_EQ(test, 0, nr_records(test));
	}
}

static void grow_and_shrink(struct kunit *test)
{
	const int nr = 200;
	struct fake_host *host = fake_wide(test, nr);
	struct rnd_state rnd;

	file_preserve(test);
	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->devices);
	for (int i = 0; i < nr; i++) {
		preserve(test, host, PCI_DEVID(1, i));
		expect_compact(test);
	}
	KUNIT_EXPECT_EQ(test, 4, pci_outgoing.blocks.nblocks);
	KUNIT_EXPECT_EQ(test, nr, nr_references(test, host, 0));

	/* Over the edge of a block, and back */
	for (int i = 0; i < 20; i++)
		unpreserve(test, host, PCI_DEVID(1, i));
	for (int i = 0; i < 20; i++)
		preserve(test, host, PCI_DEVID(1, i));
	expect_compact(test);
	KUNIT_EXPECT_EQ(test, nr, nr_references(test, host, 0));

	prandom_seed_state(&rnd, 1);
	for (int i = 0; i < 2 * nr; i++) {
		struct pci_dev *dev = fake_dev(test, host,
					       PCI_DEVID(1, prandom_u32_state(&rnd) % nr));

		if (dev->liveupdate.outgoing)
			pci_liveupdate_unpreserve(dev);
		else
			KUNIT_ASSERT_EQ(test, 0, pci_liveupdate_preserve(dev));
		expect_compact(test);
	}

	for (int i = nr; i--; )
		unpreserve(test, host, PCI_DEVID(1, i));
	expect_compact(test);
	KUNIT_EXPECT_EQ(test, 0, nr_records(test));
}

/* The table is full when the n-th record of a path is needed. */
static void preserve_fails_on_path(struct kunit *test)
{
	/* KHO_MAX_BLOCKS */
	const int max = 10000, nr = 8;
	struct fake_host *host = fake_chain(test, nr);
	struct pci_dev *dev = fake_dev(test, host, PCI_DEVID(nr, 0));
	u64 per_block;
	int used = 0;

	file_preserve(test);
	per_block = pci_outgoing.blocks.count_per_block;
	pci_outgoing.blocks.count_per_block = 1;
	for (int i = nr; i >= 0; i--) {
		take_slots(test, max - i - used);
		used = max - i;

		KUNIT_EXPECT_EQ(test, -ENOSPC, pci_liveupdate_preserve(dev));

		KUNIT_EXPECT_EQ(test, used, nr_records(test));
		KUNIT_EXPECT_EQ(test, used, pci_outgoing.ser->nr_devices);
		for (int j = 0; j <= nr; j++)
			KUNIT_EXPECT_EQ(test, 0,
					nr_references(test, host, PCI_DEVID(j, 0)));
	}
	fake_file_unpreserve();
	pci_outgoing.blocks.count_per_block = per_block;
}

static void expect_refused(struct kunit *test, struct pci_dev *dev, int err)
{
	int refs = atomic_read(&dev->dev.power.usage_count);

	KUNIT_EXPECT_EQ(test, err, pci_liveupdate_preserve(dev));
	KUNIT_EXPECT_NULL(test, dev->liveupdate.outgoing);
	KUNIT_EXPECT_EQ(test, refs, atomic_read(&dev->dev.power.usage_count));
}

static void preserve_when_it_cannot(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);

	expect_refused(test, dev, -ENOENT);
	file_preserve(test);

	pci_lock_rescan_remove();
	expect_refused(test, dev, -EAGAIN);
	pci_unlock_rescan_remove();

	/* As a driver that resizes a BAR */
	down_read(&pci_bus_sem);
	expect_refused(test, dev, -EAGAIN);
	up_read(&pci_bus_sem);

	kexec_in_progress = true;
	expect_refused(test, dev, -EBUSY);
	kexec_in_progress = false;

	set_bit(PCI_DEV_REMOVED, &dev->priv_flags);
	expect_refused(test, dev, -ENODEV);
	clear_bit(PCI_DEV_REMOVED, &dev->priv_flags);

	/* Runtime PM is broken */
	dev->dev.power.runtime_error = -EIO;
	expect_refused(test, dev, -EINVAL);
	dev->dev.power.runtime_error = 0;

	preserve(test, host, LEFT_0);
	KUNIT_EXPECT_EQ(test, -EBUSY, pci_liveupdate_preserve(dev));
	KUNIT_EXPECT_EQ(test, -EEXIST, pci_liveupdate_register_flb(&fake_handler));

	/* The table is the next kernel's */
	kexec_in_progress = true;
	pci_liveupdate_unpreserve(dev);
	kexec_in_progress = false;
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
}

static DECLARE_COMPLETION(rescan_begun);

static void rescan_for_a_while(struct work_struct *work)
{
	pci_lock_rescan_remove();
	complete(&rescan_begun);
	msleep(100);
	pci_unlock_rescan_remove();
}

static void preserve_after_rescan(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct work_struct work;
	int err;

	INIT_WORK_ONSTACK(&work, rescan_for_a_while);
	file_preserve(test);
	schedule_work(&work);
	wait_for_completion(&rescan_begun);
	err = pci_liveupdate_preserve(fake_dev(test, host, LEFT_0));
	flush_work(&work);
	destroy_work_on_stack(&work);
	KUNIT_EXPECT_EQ(test, 0, err);
}

static void preserve_what_it_cannot(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);
	struct pci_dev *bridge = fake_dev(test, host, BRIDGE_TOP);
	struct device_driver *driver = dev->dev.driver;
	struct pci_driver long_name = {
		.name = "a name of 32 characters, no more",
		.driver.name = "a name of 32 characters, no more",
	};
	struct device *vmd = &fake_dev(test, host, ON_ROOT_BUS)->dev;
	struct resource *rom = &dev->resource[PCI_ROM_RESOURCE];
	struct device *parent;

	file_preserve(test);

	expect_refused(test, bridge, -EINVAL);

	dev->is_virtfn = 1;
	expect_refused(test, dev, -EINVAL);
	dev->is_virtfn = 0;

	parent = pci_find_host_bridge(host->bus)->dev.parent;
	pci_find_host_bridge(host->bus)->dev.parent = vmd;
	expect_refused(test, dev, -EINVAL);
	pci_find_host_bridge(host->bus)->dev.parent = parent;

	rom->flags = IORESOURCE_ROM_SHADOW;
	expect_refused(test, dev, -EINVAL);
	rom->flags = 0;

	dev->class = PCI_CLASS_BRIDGE_OTHER << 8;
	dev->vendor = PCI_VENDOR_ID_MICROSEMI;
	expect_refused(test, dev, -EINVAL);
	dev->vendor = PCI_VENDOR_ID_EFAR;
	expect_refused(test, dev, -EINVAL);
	dev->vendor = FAKE_VENDOR;
	preserve(test, host, LEFT_0);
	unpreserve(test, host, LEFT_0);

	dev->driver = &long_name;
	expect_refused(test, dev, -EINVAL);
	dev->driver = driver ? to_pci_driver(driver) : NULL;

	bridge->hdr_type = PCI_HEADER_TYPE_CARDBUS;
	expect_refused(test, dev, -EINVAL);
	bridge->hdr_type = PCI_HEADER_TYPE_BRIDGE;

	dev->resource[0].end += 0x1000 * 2;
	expect_refused(test, dev, -EINVAL);
	dev->resource[0].end -= 0x1000 * 2;

	bridge->current_state = PCI_D3hot;
	expect_refused(test, dev, -EINVAL);
	bridge->current_state = PCI_D0;

	/* An Intel PCH root port, as pci_quirk_intel_pch_acs_match() knows it */
	bridge->vendor = PCI_VENDOR_ID_INTEL;
	bridge->device = 0x9c10;
	bridge->pcie_cap = 0x40;
	bridge->pcie_flags_reg = PCI_EXP_TYPE_ROOT_PORT << 4;
	expect_refused(test, dev, -EINVAL);
	bridge->pcie_cap = 0;
	bridge->vendor = FAKE_VENDOR;
	bridge->device = FAKE_DEVICE;

	preserve(test, host, LEFT_0);
}

/* Firmware can leave numbers that only some kernels get along with. */
static void preserve_overlapping_buses(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);

	fake_bridge(test, host, PCI_DEVID(0, PCI_DEVFN(0, 0)), 1, 4);
	fake_bridge(test, host, PCI_DEVID(1, PCI_DEVFN(0, 0)), 2, 5);
	fake_bridge(test, host, PCI_DEVID(0, PCI_DEVFN(1, 0)), 4, 7);
	fake_endpoint(test, host, PCI_DEVID(1, PCI_DEVFN(1, 0)));
	fake_endpoint(test, host, PCI_DEVID(2, 0));
	fake_endpoint(test, host, PCI_DEVID(4, 0));
	fake_scan(test, host);

	file_preserve(test);
	preserve(test, host, PCI_DEVID(1, PCI_DEVFN(1, 0)));
	expect_refused(test, fake_dev(test, host, PCI_DEVID(2, 0)), -EINVAL);
	expect_refused(test, fake_dev(test, host, PCI_DEVID(4, 0)), -EINVAL);

	/* So this kernel reads what it has written */
	next_kernel(test, host);
	KUNIT_EXPECT_FALSE(test, pci_incoming.quarantined);
}

/* Or two host bridges: a bridge below one may have the numbers of the other. */
static void preserve_overlapping_roots(struct kunit *test)
{
	struct fake_host *first = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_host *second = fake_host(test, FAKE_DOMAIN, 0x80);
	struct fake_host *other = fake_host(test, FAKE_DOMAIN + 1, 0x80);

	fake_bridge(test, first, 0, 1, 0xff);
	fake_endpoint(test, first, PCI_DEVID(1, 0));
	fake_endpoint(test, second, PCI_DEVID(0x80, 0));
	fake_endpoint(test, other, PCI_DEVID(0x80, 0));
	fake_scan(test, first);
	fake_scan(test, second);
	fake_scan(test, other);

	file_preserve(test);
	preserve(test, first, PCI_DEVID(1, 0));
	preserve(test, other, PCI_DEVID(0x80, 0));
	expect_refused(test, fake_dev(test, second, PCI_DEVID(0x80, 0)), -EINVAL);

	next_kernel(test, first);
	KUNIT_EXPECT_FALSE(test, pci_incoming.quarantined);
}

static void preserve_lost_buses(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *bridge = fake_dev(test, host, BRIDGE_LEFT);
	u32 buses;

	file_preserve(test);
	pci_read_config_dword(bridge, PCI_PRIMARY_BUS, &buses);
	pci_write_config_dword(bridge, PCI_PRIMARY_BUS, 0);
	expect_refused(test, fake_dev(test, host, LEFT_0), -EINVAL);
	preserve(test, host, RIGHT);

	pci_write_config_dword(bridge, PCI_PRIMARY_BUS, buses);
	preserve(test, host, LEFT_0);
}

static void remove_outgoing(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	preserve(test, host, RIGHT);

	/* Hot-plugged a device */
	pci_dev_get(dev);
	pci_stop_and_remove_bus_device_locked(dev);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 2, nr_references(test, host, BRIDGE_TOP));
	expect_refused(test, dev, -ENODEV);
	pci_liveupdate_unpreserve(dev);
	pci_dev_put(dev);
	KUNIT_EXPECT_EQ(test, 5, pci_outgoing.ser->nr_devices);

	/* A bridge, and what is below it */
	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
	KUNIT_EXPECT_EQ(test, 3, pci_outgoing.ser->nr_devices);

	/* After the table was handed over */
	kexec_in_progress = true;
	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, RIGHT));
	kexec_in_progress = false;
	KUNIT_EXPECT_EQ(test, 3, pci_outgoing.ser->nr_devices);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
}

/* Its driver has stopped it: it isn't what the next kernel should find running. */
static void unbind_outgoing(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);

	device_release_driver(&dev->dev);
	KUNIT_EXPECT_NULL(test, dev->liveupdate.outgoing);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
	KUNIT_ASSERT_EQ(test, 1, device_attach(&dev->dev));
	preserve(test, host, LEFT_0);

	/* A driver that has preserved it in .probe, and then the driver core fails to bind it */
	pci_liveupdate_bus_nb.notifier_call(&pci_liveupdate_bus_nb, BUS_NOTIFY_DRIVER_NOT_BOUND,
					    &dev->dev);
	KUNIT_EXPECT_NULL(test, dev->liveupdate.outgoing);
	preserve(test, host, LEFT_0);

	/* After the table was handed over */
	kexec_in_progress = true;
	device_release_driver(&dev->dev);
	kexec_in_progress = false;
	KUNIT_EXPECT_NOT_NULL(test, dev->liveupdate.outgoing);
	KUNIT_EXPECT_EQ(test, 2, nr_references(test, host, BRIDGE_TOP));
}

/* A driver that forgets its device doesn't keep the table from going. */
static void unpreserve_forgotten(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	luo_flb_file_unpreserve(&fake_handler);

	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, LEFT_0));
	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, BRIDGE_TOP));

	file_preserve(test);
	preserve(test, host, LEFT_0);
	KUNIT_EXPECT_EQ(test, 3, pci_outgoing.ser->nr_devices);
}

/* A damaged record in the middle of a path doesn't pin what is above. */
static void unpreserve_damaged(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *bridge = fake_dev(test, host, BRIDGE_LEFT);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	bridge->liveupdate.outgoing->refcount = 0;
	unpreserve(test, host, LEFT_0);
	KUNIT_EXPECT_EQ(test, 0, nr_references(test, host, LEFT_0));
	KUNIT_EXPECT_NULL(test, bridge->liveupdate.outgoing);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));

	/* It has lost its record while something below it is preserved */
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	bridge->liveupdate.outgoing->refcount = 0;
	unpreserve(test, host, LEFT_0);
	KUNIT_EXPECT_NULL(test, bridge->liveupdate.outgoing);
	unpreserve(test, host, LEFT_1);
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
	expect_compact(test);
}

/* A bridge leaves with its record, although there are too many references. */
static void remove_damaged(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	fake_dev(test, host, BRIDGE_LEFT)->liveupdate.outgoing->refcount = 3;

	/* What is wrong with one bridge takes nothing from those above */
	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, BRIDGE_TOP));
	KUNIT_EXPECT_EQ(test, 3, pci_outgoing.ser->nr_devices);
	expect_compact(test);

	/* A device has one reference, whatever its record says */
	fake_dev(test, host, RIGHT)->liveupdate.outgoing->refcount = 2;
	unpreserve(test, host, RIGHT);
	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
	expect_compact(test);
}

static void keep_running(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);
	struct pci_dev *top = fake_dev(test, host, BRIDGE_TOP);

	KUNIT_EXPECT_FALSE(test, dev_goes_on(&top->dev));
	file_preserve(test);
	preserve(test, host, LEFT_0);
	KUNIT_EXPECT_TRUE(test, dev_goes_on(&dev->dev));
	KUNIT_EXPECT_TRUE(test, dev_goes_on(&top->dev));
	KUNIT_EXPECT_FALSE(test, dev_goes_on(&fake_dev(test, host, LEFT_1)->dev));

	unpreserve(test, host, LEFT_0);
	KUNIT_EXPECT_FALSE(test, dev_goes_on(&dev->dev));
	KUNIT_EXPECT_FALSE(test, dev_goes_on(&top->dev));
}

/* Incoming */

static unsigned int nr_missing(void)
{
	struct pci_dev_ser *rec;
	unsigned int nr = 0;
	unsigned long key;

	xa_for_each(&pci_incoming.index, key, rec)
		nr += !xa_get_mark(&pci_incoming.index, key, PCI_RECORD_FOUND);
	return nr;
}

static void expect_ordinary(struct kunit *test, struct fake_host *host, u16 bdf)
{
	struct pci_dev *dev = fake_dev(test, host, bdf);

	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_FALSE(test, device_has_driver_override(&dev->dev));
}

static void adopt_and_finish(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;
	struct pci_dev *dev, *top;
	int usage;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	table = next_kernel(test, host);

	dev = fake_dev(test, host, LEFT_0);
	top = fake_dev(test, host, BRIDGE_TOP);
	usage = atomic_read(&dev->dev.power.usage_count);
	KUNIT_EXPECT_TRUE(test, dev->liveupdate.held);
	KUNIT_EXPECT_TRUE(test, top->liveupdate.held);
	KUNIT_EXPECT_EQ(test, 2, pci_incoming.nr_devices);
	KUNIT_EXPECT_EQ(test, 3, pci_incoming.nr_bridges);
	KUNIT_EXPECT_EQ(test, 0, nr_missing());
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_bus_numbers());
	KUNIT_EXPECT_EQ(test, 2, top->liveupdate.incoming);
	expect_ordinary(test, host, LEFT_1);
	expect_ordinary(test, host, ON_ROOT_BUS);
	KUNIT_EXPECT_EQ(test, 1, pci_liveupdate_match_driver(dev, &fake_driver.driver));

	/* Bridges aren't finished by themselves, nor what isn't incoming */
	pci_liveupdate_finish(top);
	pci_liveupdate_finish(fake_dev(test, host, LEFT_1));
	KUNIT_EXPECT_EQ(test, 2, top->liveupdate.incoming);

	for (int i = 0; i < 2; i++) {
		pci_liveupdate_finish(dev);
		expect_ordinary(test, host, LEFT_0);
		KUNIT_EXPECT_FALSE(test, dev->liveupdate.held);
		KUNIT_EXPECT_EQ(test, usage - 1,
				atomic_read(&dev->dev.power.usage_count));
		expect_ordinary(test, host, BRIDGE_LEFT);
		KUNIT_EXPECT_EQ(test, 1, top->liveupdate.incoming);
	}
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	expect_ordinary(test, host, BRIDGE_TOP);

	KUNIT_EXPECT_EQ(test, table->nr_pages, fake_table_nr_preserved(table));
	fake_finish();
	KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(table));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_bus_numbers());
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_0)) &
			  PCI_COMMAND_MASTER);
}

static void adopt_without_a_write(struct kunit *test)
{
	static const u16 path[] = { LEFT_0, BRIDGE_LEFT, BRIDGE_TOP };
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	for (int i = 0; i < ARRAY_SIZE(path); i++)
		KUNIT_EXPECT_EQ(test, 0, fake_function(host, path[i])->nr_changes);
	/* The BAR of any other is sized */
	KUNIT_EXPECT_NE(test, 0, fake_function(host, LEFT_1)->nr_changes);
}

/* Only the driver of that name, be it there later than another. */
static void adopt_for_its_driver(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;
	struct pci_dev *dev;

	file_preserve(test);
	/* Had none, and had one that userspace had chosen */
	dev = fake_dev(test, host, LEFT_0);
	device_release_driver(&dev->dev);
	/* One that nothing is bound by isn't kept */
	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "absent"));
	dev = fake_dev(test, host, LEFT_1);
	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "fake-vfio"));
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	preserve(test, host, RIGHT);

	/* As in next_kernel(), but there the driver of that name isn't there yet */
	table = end_kernel(test, host);
	pci_unregister_driver(&fake_driver);
	KUNIT_ASSERT_EQ(test, 0, pci_register_driver(&fake_native_driver));
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);
	KUNIT_EXPECT_PTR_EQ(test, &fake_native_driver,
			    fake_dev(test, host, ON_ROOT_BUS)->driver);
	KUNIT_EXPECT_NULL(test, fake_dev(test, host, LEFT_0)->driver);
	KUNIT_EXPECT_NULL(test, fake_dev(test, host, LEFT_1)->driver);
	KUNIT_EXPECT_NULL(test, fake_dev(test, host, RIGHT)->driver);

	/* As a rule of udev does, while it waits */
	dev = fake_dev(test, host, RIGHT);
	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "fake-native"));
	KUNIT_EXPECT_EQ(test, 0, device_attach(&dev->dev));
	KUNIT_ASSERT_EQ(test, 0, pci_register_driver(&fake_driver));
	KUNIT_EXPECT_NULL(test, fake_dev(test, host, LEFT_0)->driver);
	KUNIT_EXPECT_PTR_EQ(test, &fake_driver,
			    fake_dev(test, host, LEFT_1)->driver);
	KUNIT_EXPECT_PTR_EQ(test, &fake_driver, fake_dev(test, host, RIGHT)->driver);
	pci_unregister_driver(&fake_native_driver);

	/* What userspace has set stays, in either kernel */
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	pci_liveupdate_finish(fake_dev(test, host, LEFT_1));
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	expect_ordinary(test, host, LEFT_0);
	dev = fake_dev(test, host, LEFT_1);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_EQ(test, 1, device_match_driver_override(&dev->dev, &fake_driver.driver));
	dev = fake_dev(test, host, RIGHT);
	KUNIT_EXPECT_EQ(test, 1, device_match_driver_override(&dev->dev,
							      &fake_native_driver.driver));
	KUNIT_EXPECT_EQ(test, 0, device_set_driver_override(&dev->dev, ""));
}

/* Another function is found, in place of an endpoint or of a bridge. */
static void adopt_another(struct kunit *test, u16 bdf, int where, u32 val)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;
	struct pci_dev *dev;
	bool bridge;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	table = end_kernel(test, host);

	bridge = fake_function(host, bdf)->config[PCI_HEADER_TYPE] & 1;
	fake_set(fake_function(host, bdf), where, 4, val, 0);
	/* A reset clears it, too */
	if (where == PCI_BASE_ADDRESS_0)
		fake_set(fake_function(host, bdf), PCI_COMMAND, 2, 0, PCI_COMMAND_MASTER);
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);

	expect_ordinary(test, host, bdf);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(fake_dev(test, host, RIGHT)));
	KUNIT_EXPECT_TRUE(test,
			  pci_liveupdate_is_incoming(fake_dev(test, host, BRIDGE_TOP)));
	/* Not to be found once more */
	KUNIT_EXPECT_TRUE(test, xa_get_mark(&pci_incoming.index,
					    pci_record_key(FAKE_DOMAIN, bdf),
					    PCI_RECORD_FOUND));

	/* What is below another bridge is stopped */
	dev = fake_find(host, LEFT_0);
	if (bridge && dev) {
		expect_ordinary(test, host, LEFT_0);
		KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LEFT_0)) &
				   PCI_COMMAND_MASTER);
	}

	/* Nobody finishes it, so its bridges wait for the last file */
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	fake_finish();
	expect_ordinary(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(table));

	fake_host_unscan(host);
}

static void adopt_another_vendor(struct kunit *test)
{
	adopt_another(test, LEFT_0, PCI_VENDOR_ID, FAKE_DEVICE << 16 | 0x1235);
	adopt_another(test, BRIDGE_LEFT, PCI_VENDOR_ID, FAKE_DEVICE << 16 | 0x1235);
}

static void adopt_another_device(struct kunit *test)
{
	adopt_another(test, LEFT_0, PCI_VENDOR_ID, 0x0099 << 16 | FAKE_VENDOR);
	adopt_another(test, BRIDGE_LEFT, PCI_VENDOR_ID, 0x0099 << 16 | FAKE_VENDOR);
}

static void adopt_another_header(struct kunit *test)
{
	adopt_another(test, BRIDGE_LEFT, PCI_CACHE_LINE_SIZE,
		      PCI_HEADER_TYPE_NORMAL << 16);
	adopt_another(test, LEFT_0, PCI_CACHE_LINE_SIZE,
		      PCI_HEADER_TYPE_BRIDGE << 16);
}

static void adopt_after_reset(struct kunit *test)
{
	adopt_another(test, LEFT_0, PCI_BASE_ADDRESS_0, 0);
	/* Type bits alone aren't an address */
	adopt_another(test, LEFT_0, PCI_BASE_ADDRESS_0,
		      PCI_BASE_ADDRESS_MEM_PREFETCH);
}

/* Of a device without BARs it can't be seen; so that isn't held against it. */
static void adopt_without_bars(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *fn = fake_endpoint(test, host, 0);

	fake_set(fn, PCI_BASE_ADDRESS_0, 4, 0, 0);
	fake_scan(test, host);
	file_preserve(test);
	preserve(test, host, 0);
	next_kernel(test, host);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(fake_dev(test, host, 0)));
}

/* A bus address like any other, and what an Enhanced Allocation has instead of BARs */
static void adopt_at_zero(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	table = end_kernel(test, host);
	fake_set(fake_function(host, LEFT_0), PCI_BASE_ADDRESS_0, 4, 0, ~0xfff);
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(fake_dev(test, host, LEFT_0)));
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_0)) & PCI_COMMAND_MASTER);
}

/* Upper half of a 64-bit BAR: that alone is an address, too. */
static void adopt_above_4g(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *fn = fake_endpoint(test, host, 0);

	fake_set(fn, PCI_BASE_ADDRESS_0, 4, PCI_BASE_ADDRESS_MEM_TYPE_64, ~0xfff);
	fake_set(fn, PCI_BASE_ADDRESS_1, 4, 1, ~0);
	fake_scan(test, host);
	file_preserve(test);
	preserve(test, host, 0);
	next_kernel(test, host);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(fake_dev(test, host, 0)));
	KUNIT_EXPECT_EQ(test, SZ_4K,
			resource_size(&fake_dev(test, host, 0)->resource[0]));
}

static void adopt_missing(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	table = end_kernel(test, host);

	kfree(xa_erase(&host->functions, LEFT_0));
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);
	KUNIT_EXPECT_EQ(test, 1, pci_incoming.nr_devices);
	KUNIT_EXPECT_EQ(test, 1, nr_missing());
	pci_incoming_report(&pci_incoming);

	pci_liveupdate_finish(fake_dev(test, host, LEFT_1));
	/* Its bridges wait for it */
	KUNIT_EXPECT_EQ(test, 1,
			fake_dev(test, host, BRIDGE_TOP)->liveupdate.incoming);
	fake_finish();
	expect_ordinary(test, host, BRIDGE_LEFT);
	expect_ordinary(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(table));
}

/* With pci=assign-busses a CardBus bridge waits as long as there is a table. */
static void cardbus_waits(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, BRIDGE_LEFT);
	int max = 0;

	pci_probe |= PCI_ASSIGN_ALL_BUSSES;
	dev->hdr_type = PCI_HEADER_TYPE_CARDBUS;
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0x050401, &max, 0));
	file_preserve(test);
	/* Neither pass writes to it, and it keeps the numbers that it has */
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_scan(dev, 0x050401, &max, 0));
	KUNIT_EXPECT_EQ(test, 5, max);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_scan(dev, 0x050401, &max, 1));
	pci_probe &= ~PCI_ASSIGN_ALL_BUSSES;
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0x050401, &max, 0));
	pci_probe |= PCI_ASSIGN_ALL_BUSSES;
	dev->hdr_type = PCI_HEADER_TYPE_BRIDGE;
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0x050401, &max, 0));
	pci_probe &= ~PCI_ASSIGN_ALL_BUSSES;
	fake_file_unpreserve();
}

static void adopt_bridge_without_buses(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_function *fn = fake_function(host, BRIDGE_LEFT);
	struct fake_table *table;
	struct pci_dev *dev;
	int max = 0;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	dev = fake_dev(test, host, BRIDGE_LEFT);
	/* An outgoing one is looked at when it is scanned again */
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0x020201, &max, 0));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0x020200, &max, 0));
	KUNIT_EXPECT_EQ(test, 0, max);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_scan(dev, 0x020202, &max, 0));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_scan(dev, 0x020301, &max, 0));
	KUNIT_EXPECT_EQ(test, 2, max);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_scan(dev, 0x030201, &max, 0));
	KUNIT_EXPECT_EQ(test, 3, max);
	table = fake_handover(test);
	fake_file_unpreserve();
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_scan(dev, 0, &max, 0));
	fake_host_unscan(host);

	fake_set(fn, PCI_PRIMARY_BUS, 4, 0, 0xffffff);
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);
	dev = fake_dev(test, host, BRIDGE_LEFT);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_TRUE(test, dev->liveupdate.buses_lost);
	KUNIT_EXPECT_NULL(test, dev->subordinate);
	KUNIT_EXPECT_NULL(test, fake_find(host, LEFT_0));
	KUNIT_EXPECT_FALSE(test, fake_command(fn) & PCI_COMMAND_MASTER);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(fake_dev(test, host, RIGHT)));

	fake_finish();
	KUNIT_EXPECT_FALSE(test, dev->liveupdate.buses_lost);
	expect_ordinary(test, host, BRIDGE_LEFT);
}

static void remove_incoming(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_function *fn = fake_function(host, LEFT_0);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	preserve(test, host, RIGHT);
	next_kernel(test, host);

	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_FALSE(test, fake_command(fn) & PCI_COMMAND_MASTER);
	KUNIT_EXPECT_EQ(test, 1,
			fake_dev(test, host, BRIDGE_LEFT)->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, 2,
			fake_dev(test, host, BRIDGE_TOP)->liveupdate.incoming);

	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_EQ(test, 1,
			fake_dev(test, host, BRIDGE_TOP)->liveupdate.incoming);

	/* What comes back is another device */
	pci_lock_rescan_remove();
	pci_rescan_bus(host->bus);
	pci_unlock_rescan_remove();
	expect_ordinary(test, host, BRIDGE_LEFT);
	expect_ordinary(test, host, LEFT_0);
	expect_ordinary(test, host, LEFT_1);
}

static void abandon(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_function *fn = fake_function(host, LEFT_0);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);

	/* The kernel doesn't know who answers for its DMA, until a driver does */
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LEFT_1)) &
			   PCI_COMMAND_MASTER);
	pci_set_master(fake_dev(test, host, LEFT_1));

	pci_liveupdate_abandon(fake_dev(test, host, BRIDGE_TOP), "a bridge");
	pci_liveupdate_abandon(fake_dev(test, host, LEFT_1), "not incoming");
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_1)) &
			  PCI_COMMAND_MASTER);
	KUNIT_EXPECT_TRUE(test,
			  pci_liveupdate_is_incoming(fake_dev(test, host, BRIDGE_TOP)));

	pci_liveupdate_abandon(fake_dev(test, host, LEFT_0), "a test");
	KUNIT_EXPECT_FALSE(test, fake_command(fn) & PCI_COMMAND_MASTER);
	expect_ordinary(test, host, LEFT_0);
	expect_ordinary(test, host, BRIDGE_TOP);
}

/* To disable an incoming device doesn't stop it before its driver has taken it over. */
static void disable_incoming(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_function *fn = fake_function(host, LEFT_0);
	struct pci_dev *dev;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	dev = fake_dev(test, host, LEFT_0);

	/* As if pci_enable_device() could work on resources that nobody has */
	atomic_inc(&dev->enable_cnt);
	pci_disable_device(dev);
	KUNIT_EXPECT_TRUE(test, fake_command(fn) & PCI_COMMAND_MASTER);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_master(fake_dev(test, host, BRIDGE_TOP)));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_master(fake_dev(test, host, RIGHT)));

	atomic_inc(&dev->enable_cnt);
	pci_set_master(dev);
	pci_disable_device(dev);
	KUNIT_EXPECT_FALSE(test, fake_command(fn) & PCI_COMMAND_MASTER);
}

static void get_incoming(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);

	dev = pci_liveupdate_get_incoming(FAKE_DOMAIN, LEFT_0);
	KUNIT_EXPECT_PTR_EQ(test, fake_dev(test, host, LEFT_0), dev);
	pci_dev_put(dev);
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN, LEFT_1));
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN, BRIDGE_TOP));
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN + 1, LEFT_0));
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN, LEFT_0));
}

/* After enumeration, so that only the driver can notice */
static void get_reset(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	dev = fake_dev(test, host, LEFT_0);
	pci_write_config_dword(dev, PCI_BASE_ADDRESS_0, 0);
	pci_write_config_word(dev, PCI_COMMAND, 0);

	KUNIT_EXPECT_TRUE(test, pci_liveupdate_any_incoming());
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN, LEFT_0));
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LEFT_0)) &
			   PCI_COMMAND_MASTER);
	expect_ordinary(test, host, LEFT_0);
	expect_ordinary(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_any_incoming());
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_was_preserved(FAKE_DOMAIN, LEFT_0));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_was_preserved(FAKE_DOMAIN, LEFT_1));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_was_preserved(FAKE_DOMAIN, BRIDGE_TOP));
	/* Not found yet: it may be running */
	xa_clear_mark(&pci_incoming.index, pci_record_key(FAKE_DOMAIN, LEFT_0), PCI_RECORD_FOUND);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_was_preserved(FAKE_DOMAIN, LEFT_0));
}

/* The last file is finished, but not for the user of one device. */
static void defer_finish(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev, *top;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	preserve(test, host, RIGHT);
	next_kernel(test, host);
	dev = fake_dev(test, host, LEFT_0);
	top = fake_dev(test, host, BRIDGE_TOP);

	KUNIT_EXPECT_EQ(test, 0, pci_liveupdate_defer_finish(dev));
	KUNIT_EXPECT_EQ(test, -EBUSY, pci_liveupdate_defer_finish(dev));
	KUNIT_EXPECT_EQ(test, -EINVAL, pci_liveupdate_defer_finish(top));
	KUNIT_EXPECT_EQ(test, 0,
			pci_liveupdate_defer_finish(fake_dev(test, host, LEFT_1)));
	fake_finish();
	KUNIT_EXPECT_NULL(test, fake_flb()->incoming.obj);

	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_EQ(test, 2, top->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, 2, fake_dev(test, host, BRIDGE_LEFT)->liveupdate.incoming);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_bus_numbers());
	expect_ordinary(test, host, RIGHT);
	expect_ordinary(test, host, BRIDGE_RIGHT);
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, RIGHT)) &
			   PCI_COMMAND_MASTER);

	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, LEFT_1));
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LEFT_1)) &
			   PCI_COMMAND_MASTER);
	KUNIT_EXPECT_EQ(test, 1, top->liveupdate.incoming);

	pci_liveupdate_finish(dev);
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_0)) &
			  PCI_COMMAND_MASTER);
	expect_ordinary(test, host, LEFT_0);
	expect_ordinary(test, host, BRIDGE_LEFT);
	expect_ordinary(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_bus_numbers());
	KUNIT_EXPECT_EQ(test, -EINVAL, pci_liveupdate_defer_finish(dev));
}

/* What no driver has finished is stopped when the last file is. */
static void finish_unfinished(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	next_kernel(test, host);
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	fake_finish();

	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LEFT_0)) &
			   PCI_COMMAND_MASTER);
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, RIGHT)) &
			  PCI_COMMAND_MASTER);
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, BRIDGE_TOP)) &
			  PCI_COMMAND_MASTER);
	expect_ordinary(test, host, LEFT_0);
	expect_ordinary(test, host, BRIDGE_LEFT);
	expect_ordinary(test, host, BRIDGE_TOP);
}

/* From preserve in one kernel to finish in the next */
static void refuse_suspend(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct notifier_block *nb = &pci_liveupdate_pm_nb;
	const int busy = notifier_from_errno(-EBUSY);

	KUNIT_EXPECT_EQ(test, NOTIFY_DONE, nb->notifier_call(nb, PM_SUSPEND_PREPARE, NULL));
	file_preserve(test);
	preserve(test, host, LEFT_0);
	KUNIT_EXPECT_EQ(test, busy, nb->notifier_call(nb, PM_SUSPEND_PREPARE, NULL));
	KUNIT_EXPECT_EQ(test, busy, nb->notifier_call(nb, PM_HIBERNATION_PREPARE, NULL));

	next_kernel(test, host);
	KUNIT_EXPECT_EQ(test, busy, nb->notifier_call(nb, PM_SUSPEND_PREPARE, NULL));
	KUNIT_EXPECT_EQ(test, NOTIFY_DONE, nb->notifier_call(nb, PM_POST_SUSPEND, NULL));
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	fake_finish();
	KUNIT_EXPECT_EQ(test, NOTIFY_DONE, nb->notifier_call(nb, PM_SUSPEND_PREPARE, NULL));
}

/* The last file is finished between set-up and registration of a device. */
static void finish_while_found(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *fn = fake_endpoint(test, host, 0);

	fake_scan(test, host);
	file_preserve(test);
	preserve(test, host, 0);
	/* The last register that pci_setup_device() reads */
	fn->on_read = fake_finish;
	fn->read_at = PCI_SUBSYSTEM_VENDOR_ID;
	next_kernel(test, host);

	KUNIT_EXPECT_NULL(test, fake_flb()->incoming.obj);
	expect_ordinary(test, host, 0);
	KUNIT_EXPECT_FALSE(test, fake_command(fn) & PCI_COMMAND_MASTER);
}

static void two_updates_in_a_row(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev, *top;
	struct fake_table *first, *second;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	first = next_kernel(test, host);

	/* Incoming and outgoing at once, in the order of the calls or not */
	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	dev = fake_dev(test, host, LEFT_0);
	top = fake_dev(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_EQ(test, 1, nr_references(test, host, LEFT_0));
	KUNIT_EXPECT_EQ(test, 1, top->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, 2, nr_references(test, host, BRIDGE_TOP));
	/* Nobody has set it */
	KUNIT_EXPECT_EQ(test, 0,
			dev->liveupdate.outgoing->flags & PCI_DEV_SER_OVERRIDE);

	pci_liveupdate_unpreserve(dev);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_preserved(dev));
	preserve(test, host, LEFT_0);
	pci_liveupdate_finish(dev);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_preserved(dev));
	KUNIT_EXPECT_EQ(test, 2, nr_references(test, host, BRIDGE_TOP));
	fake_finish();
	KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(first));

	second = next_kernel(test, host);
	KUNIT_EXPECT_EQ(test, 2, pci_incoming.nr_devices);
	KUNIT_EXPECT_TRUE(test,
			  pci_liveupdate_is_incoming(fake_dev(test, host, LEFT_0)));
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	fake_finish();
	KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(second));
	expect_ordinary(test, host, BRIDGE_TOP);
}

static void remove_both(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	file_preserve(test);
	preserve(test, host, LEFT_0);

	pci_stop_and_remove_bus_device_locked(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_EQ(test, 0, pci_outgoing.ser->nr_devices);
	expect_ordinary(test, host, BRIDGE_TOP);
}

static void quarantine(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	table = end_kernel(test, host);

	fake_table_ser(table)->version++;
	fake_retrieve(fake_table_pa(table));
	KUNIT_EXPECT_TRUE(test, pci_incoming.quarantined);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_bus_numbers());
	/* One that was off isn't written to */
	fake_set(fake_function(host, ON_ROOT_BUS), PCI_COMMAND, 2, 0, 0xffff);
	/* One that has an interrupt, which nobody handles */
	fake_set(fake_function(host, LEFT_0), PCI_INTERRUPT_PIN, 1, 1, 0);
	nr_probed = 0;
	fake_scan(test, host);
	KUNIT_EXPECT_NE(test, 0, nr_probed);
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_0)) &
			  PCI_COMMAND_INTX_DISABLE);
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, RIGHT)) &
			   PCI_COMMAND_INTX_DISABLE);

	for (int i = 0; i < 2; i++) {
		u16 bdf = i ? LEFT_0 : RIGHT;

		expect_ordinary(test, host, bdf);
		KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, bdf)) &
				   PCI_COMMAND_MASTER);
	}
	expect_ordinary(test, host, BRIDGE_TOP);
	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, BRIDGE_TOP)) &
			  PCI_COMMAND_MASTER);
	KUNIT_EXPECT_EQ(test, table->nr_pages, fake_table_nr_preserved(table));

	/* Devices can be preserved for the next kernel */
	file_preserve(test);
	preserve(test, host, LEFT_0);
	fake_finish();
	KUNIT_EXPECT_FALSE(test, pci_incoming.quarantined);
	fake_file_unpreserve();
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_bus_numbers());
}

/* A table that would be all right if it began where a page does. */
static void quarantine_unaligned(struct kunit *test)
{
	const unsigned int shift = sizeof(u64);
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;
	void *page;

	file_preserve(test);
	preserve(test, host, LEFT_0);

	table = fake_handover(test);
	page = fake_table_ser(table);
	memmove(page + shift, page, sizeof(struct pci_ser));
	fake_retrieve(fake_table_pa(table) + shift);
	KUNIT_EXPECT_TRUE(test, pci_incoming.quarantined);
	fake_finish();

	table = fake_handover(test);
	page = fake_table_block(table, 0);
	memmove(page + shift, page, KHO_BLOCK_SIZE - shift);
	fake_table_ser(table)->devices += shift;
	fake_retrieve(fake_table_pa(table));
	KUNIT_EXPECT_TRUE(test, pci_incoming.quarantined);
	fake_finish();
}

static void expect_quarantine(struct kunit *test, struct fake_table *table)
{
	fake_retrieve(fake_table_pa(table));
	KUNIT_EXPECT_TRUE(test, pci_incoming.quarantined);
	fake_finish();
	KUNIT_EXPECT_EQ(test, table->nr_pages, fake_table_nr_preserved(table));
}

/* A table of that name, as another implementation lays it out, with a device that is there. */
static void quarantine_other_layout(struct kunit *test)
{
	static const u8 head[] = {
		2, 0, 0, 0,				/* version */
		1, 0, 0, 0,				/* number of records */
	};
	static const u8 record[] = {
		(u8)FAKE_DOMAIN, (u8)(FAKE_DOMAIN >> 8),
		(u8)(FAKE_DOMAIN >> 16), (u8)(FAKE_DOMAIN >> 24),
		(u8)LEFT_0, (u8)(LEFT_0 >> 8),		/* bdf */
		1, 0,					/* refcount */
	};
	struct fake_table *table = fake_table(test, 2);
	u64 address = virt_to_phys(fake_table_block(table, 0));
	void *ser = fake_table_ser(table);

	memcpy(ser, head, sizeof(head));
	memcpy(ser + sizeof(head), &address, sizeof(address));
	memcpy(fake_table_block(table, 0), record, sizeof(record));
	expect_quarantine(test, table);
}

/* kho_block_set_restore() would give a block back that doesn't hold anything. */
static void quarantine_empty_block(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	table = fake_handover(test);
	unpreserve(test, host, LEFT_0);
	memset(fake_table_rec(table, 0), 0, 3 * sizeof(struct pci_dev_ser));
	fake_table_block(table, 0)->count = 0;
	fake_table_ser(table)->nr_devices = 0;
	expect_quarantine(test, table);
}

/* One of two bridges side by side has the buses and references of both. */
static void quarantine_overlapping_buses(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev_ser *rec;
	struct fake_table *table;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	rec = fake_dev(test, host, BRIDGE_LEFT)->liveupdate.outgoing;
	rec->subordinate = 3;
	rec->refcount = 2;
	table = fake_handover(test);
	rec->refcount = 1;
	expect_quarantine(test, table);
}

/* What no device has, or no kernel writes */
static void quarantine_record(struct kunit *test)
{
	static const u16 none[] = { 0, 0xffff };
	struct fake_host *host = fake_tree(test);
	struct pci_dev_ser *rec;

	file_preserve(test);
	preserve(test, host, ON_ROOT_BUS);
	rec = fake_dev(test, host, ON_ROOT_BUS)->liveupdate.outgoing;

	for (int i = 0; i < 4; i++) {
		rec->vendor = none[i & 1];
		rec->device = none[i >> 1];
		expect_quarantine(test, fake_handover(test));
	}
	rec->vendor = FAKE_VENDOR;

	/* Without PCI_DEV_SER_SRIOV */
	rec->max_vf_buses = 1;
	expect_quarantine(test, fake_handover(test));
	rec->max_vf_buses = 0;
	rec->vf_bar_order[PCI_DEV_SER_VF_BARS - 1] = 12;
	expect_quarantine(test, fake_handover(test));
	/* With it */
	rec->flags = PCI_DEV_SER_SRIOV;
	rec->vf_bar_order[PCI_DEV_SER_VF_BARS - 1] = 64;
	expect_quarantine(test, fake_handover(test));
	rec->vf_bar_order[PCI_DEV_SER_VF_BARS - 1] = 32;
	expect_quarantine(test, fake_handover(test));
	rec->vf_bar_order[PCI_DEV_SER_VF_BARS - 1] = 0;

	/* A 64-bit BAR, and something else in its upper half */
	rec->flags = 0;
	rec->bar_order[2] = 32;
	rec->bar_order[3] = 12;
	expect_quarantine(test, fake_handover(test));
	rec->bar_order[2] = 0;
	rec->bar_order[3] = 0;
	rec->bar_order[PCI_ROM_RESOURCE] = 32;
	expect_quarantine(test, fake_handover(test));
	rec->bar_order[PCI_ROM_RESOURCE] = 0;

	/* Those of a bridge, or of a later version */
	for (int i = 0; i < BITS_PER_TYPE(rec->flags); i++) {
		rec->flags = BIT(i);
		if (!(rec->flags & (PCI_DEV_SER_OVERRIDE | PCI_DEV_SER_BROKEN_INTX |
				    PCI_DEV_SER_ACS | PCI_DEV_SER_SRIOV |
				    PCI_DEV_SER_EXT_CONFIG)))
			expect_quarantine(test, fake_handover(test));
	}
	rec->flags = 0;

	next_kernel(test, host);
	KUNIT_EXPECT_FALSE(test, pci_incoming.quarantined);
}

/* No table at all: nothing is kept, nothing is stopped. */
static void no_table(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);
	u32 bars[PCI_STD_NUM_BARS];

	KUNIT_EXPECT_TRUE(test, fake_command(fake_function(host, LEFT_0)) &
			  PCI_COMMAND_MASTER);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_preserved(dev));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_bus_numbers());
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_bar_masks(dev, 6, PCI_BASE_ADDRESS_0,
							  bars, false));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_bridge_windows(dev));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_init_sriov(dev));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_adopt_msi(dev));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_acs(dev));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_resource(dev, &dev->resource[0]));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_defer_services(dev));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_starts_services(dev));
	pci_liveupdate_finish(dev);
	pci_liveupdate_unpreserve(dev);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(dev));
}

/* Golden table */

#define GOLDEN_PORT	PCI_DEVID(0, PCI_DEVFN(1, 0))
#define GOLDEN_NIC	PCI_DEVID(1, PCI_DEVFN(0, 0))
#define GOLDEN_OTHER	PCI_DEVID(1, PCI_DEVFN(0, 1))

/* PCI_SER_VERSION 102. The addresses in the first two are filled in. */
static const u8 golden_ser[] = {
	0x66, 0x00, 0x00, 0x00,				/* version */
	0x00, 0x00, 0x00, 0x00,				/* reserved */
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,	/* devices */
	0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,	/* nr_devices */
};

static const u8 golden_block[] = {
	0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,	/* next */
	0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,	/* count */

	0x01, 0x00, 0x01, 0x00,				/* domain */
	0x00, 0x01,					/* bdf */
	0x42, 0x03,					/* flags */
	0x01, 0x00, 0x00, 0x00,				/* refcount */
	0x34, 0x12, 0x01, 0x00,				/* vendor, device */
	0x1c, 0x00,					/* acs_ctrl */
	12, 0, 33, 0, 0, 0, 16,				/* bar_order */
	1,						/* max_vf_buses */
	14, 0, 0, 0, 0, 0,				/* vf_bar_order */
	'f', 'a', 'k', 'e', '-', 'v', 'f', 'i', 'o', 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,

	0x01, 0x00, 0x01, 0x00,				/* domain */
	0x08, 0x00,					/* bdf */
	0xdd, 0x02,					/* flags */
	0x02, 0x00, 0x00, 0x00,				/* refcount */
	0x34, 0x12, 0x01, 0x00,				/* vendor, device */
	0x1d, 0x00,					/* acs_ctrl */
	0, 0, 0, 0, 0, 0, 0,				/* bar_order */
	0,						/* max_vf_buses */
	1, 5,						/* secondary, subordinate */
	0, 0, 0, 0,					/* reserved */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,	/* driver */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,

	0x01, 0x00, 0x01, 0x00,				/* domain */
	0x01, 0x01,					/* bdf */
	0x20, 0x00,					/* flags */
	0x01, 0x00, 0x00, 0x00,				/* refcount */
	0x34, 0x12, 0x77, 0x00,				/* vendor, device */
	0x00, 0x00,					/* acs_ctrl */
	12, 0, 0, 0, 0, 0, 0,				/* bar_order */
	0,						/* max_vf_buses */
	0, 0, 0, 0, 0, 0,				/* vf_bar_order */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,	/* driver */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
};

/* What version 101 hasn't: the high byte of the flags of each, with PCI_DEV_SER_EXT_CONFIG */
#define GOLDEN_FLAGS(n)	(sizeof(struct kho_block_header_ser) + 64 * (n) + 7)

#define GOLDEN_MESSAGE	"the layout or the meaning of the table has changed: " \
			"raise PCI_SER_VERSION and write a new golden table"

/* PCI Express, and ACS with @acs_ctrl enabled of 0x1f */
static void fake_express(struct fake_function *fn, u8 type, u16 acs_ctrl)
{
	fake_set(fn, PCI_STATUS, 2, PCI_STATUS_CAP_LIST, 0);
	fake_set(fn, PCI_CAPABILITY_LIST, 1, 0x40, 0);
	fake_set(fn, 0x40, 4, PCI_CAP_ID_EXP | (type << 4 | 2) << 16, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE, 4, PCI_EXT_CAP_ID_ACS | 1 << 16, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_ACS_CAP, 2, 0x1f, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_ACS_CTRL, 2, acs_ctrl, 0x1f);
}

static void fake_sriov(struct fake_function *fn, int pos, int next)
{
	fake_set(fn, PCI_CFG_SPACE_SIZE, 4,
		 PCI_EXT_CAP_ID_ACS | 1 << 16 | pos << 20, 0);
	fake_set(fn, pos, 4, PCI_EXT_CAP_ID_SRIOV | 1 << 16 | next << 20, 0);
	fake_set(fn, pos + PCI_SRIOV_INITIAL_VF, 4, 8 << 16 | 8, 0);
	fake_set(fn, pos + PCI_SRIOV_NUM_VF, 2, 0, 0xffff);
	fake_set(fn, pos + PCI_SRIOV_VF_OFFSET, 4, 1 << 16 | 8, 0);
	fake_set(fn, pos + PCI_SRIOV_SUP_PGSIZE, 4, 1, 0);
	fake_set(fn, pos + PCI_SRIOV_SYS_PGSIZE, 4, 1, 1);
	fake_set(fn, pos + PCI_SRIOV_BAR, 4,
		 0xa0000000 | PCI_BASE_ADDRESS_MEM_TYPE_64, ~0x3fff);
	fake_set(fn, pos + PCI_SRIOV_BAR + 4, 4, 0, ~0);
}

static struct fake_host *fake_golden(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *fn = fake_bridge(test, host, GOLDEN_PORT, 1, 5);

	fake_express(fn, PCI_EXP_TYPE_ROOT_PORT, 0x1d);
	fake_set(fn, 0x40 + PCI_EXP_RTCTL, 4,
		 PCI_EXP_RTCAP_RRS_SV << 16 | PCI_EXP_RTCTL_RRS_SVE, 0);
	fake_set(fn, 0x40 + PCI_EXP_DEVCAP2, 4, PCI_EXP_DEVCAP2_ARI, 0);
	fake_set(fn, 0x40 + PCI_EXP_DEVCTL2, 2, PCI_EXP_DEVCTL2_ARI,
		 PCI_EXP_DEVCTL2_ARI);
	fake_set(fn, PCI_IO_BASE, 2, 0x1010, 0xf0f0);
	fake_set(fn, PCI_PREF_MEMORY_BASE, 4, 0x00010001 | 0x9ff09000, 0xfff0fff0);
	fake_set(fn, PCI_PREF_BASE_UPPER32, 4, 0, ~0);
	fake_set(fn, PCI_PREF_LIMIT_UPPER32, 4, 0, ~0);

	fn = fake_endpoint(test, host, GOLDEN_NIC);
	fake_express(fn, PCI_EXP_TYPE_ENDPOINT, 0x1c);
	fake_set(fn, 0x180, 4, PCI_EXT_CAP_ID_ARI | 1 << 16, 0);
	fake_set(fn, 0x180 + PCI_ARI_CAP, 2, 1 << 8, 0);
	fake_sriov(fn, 0x120, 0x180);
	/* 8 GiB */
	fake_set(fn, PCI_BASE_ADDRESS_2, 4, PCI_BASE_ADDRESS_MEM_TYPE_64, 0);
	fake_set(fn, PCI_BASE_ADDRESS_3, 4, 0x80, ~1);
	fake_set(fn, PCI_ROM_ADDRESS, 4, 0x88000000, 0xffff0001);

	fn = fake_endpoint(test, host, GOLDEN_OTHER);
	fake_set(fn, PCI_VENDOR_ID, 4, 0x0077 << 16 | FAKE_VENDOR, 0);
	/* Interrupt Disable can't be set, but is */
	fake_set(fn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
		 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	fake_scan(test, host);
	return host;
}

static void write_golden_table(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	struct pci_dev *dev = fake_dev(test, host, GOLDEN_NIC);
	struct pci_ser ser;

	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "fake-vfio"));
	fake_dev(test, host, GOLDEN_OTHER)->broken_intx_masking = 1;
	file_preserve(test);
	preserve(test, host, GOLDEN_NIC);
	preserve(test, host, GOLDEN_OTHER);

	ser = *pci_outgoing.ser;
	KUNIT_EXPECT_EQ(test, ser.devices,
			kho_block_set_head_pa(&pci_outgoing.blocks));
	ser.devices = 0;
	KUNIT_EXPECT_MEMEQ_MSG(test, golden_ser, &ser, sizeof(golden_ser),
			       GOLDEN_MESSAGE);
	KUNIT_EXPECT_MEMEQ_MSG(test, golden_block,
			       phys_to_virt(pci_outgoing.ser->devices),
			       sizeof(golden_block), GOLDEN_MESSAGE);
	KUNIT_EXPECT_EQ_MSG(test, 102, PCI_SER_VERSION, GOLDEN_MESSAGE);
	KUNIT_EXPECT_STREQ_MSG(test, "pci", pci_liveupdate_flb.compatible,
			       GOLDEN_MESSAGE);
}

static struct fake_table *golden_table(struct kunit *test)
{
	struct fake_table *table = fake_table(test, 2);

	memcpy(fake_table_ser(table), golden_ser, sizeof(golden_ser));
	memcpy(fake_table_block(table, 0), golden_block, sizeof(golden_block));
	fake_table_link(table);
	return table;
}

/* Version 101 of that */
static struct fake_table *older_table(struct kunit *test)
{
	struct fake_table *table = golden_table(test);
	u8 *block = (void *)fake_table_block(table, 0);

	fake_table_ser(table)->version = 101;
	block[GOLDEN_FLAGS(0)] &= ~2;
	block[GOLDEN_FLAGS(1)] &= ~2;
	return table;
}

static void set_version(u32 version)
{
	guard(mutex)(&pci_liveupdate_mutex);

	pci_outgoing_set_version(version);
}

/* The next kernel is an older one; that kexec fails, and the one after it isn't. */
static void write_older_table(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	struct pci_dev *dev = fake_dev(test, host, GOLDEN_NIC);
	struct fake_table *older = older_table(test);
	u64 next;

	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "fake-vfio"));
	fake_dev(test, host, GOLDEN_OTHER)->broken_intx_masking = 1;
	file_preserve(test);
	preserve(test, host, GOLDEN_NIC);
	set_version(101);
	preserve(test, host, GOLDEN_OTHER);
	set_version(101);
	next = pci_outgoing.ser->devices;
	KUNIT_EXPECT_EQ(test, 101, pci_outgoing.ser->version);
	KUNIT_EXPECT_MEMEQ(test, fake_table_block(older, 0), phys_to_virt(next),
			   sizeof(golden_block));

	set_version(102);
	KUNIT_EXPECT_EQ(test, 102, pci_outgoing.ser->version);
	KUNIT_EXPECT_MEMEQ(test, golden_block, phys_to_virt(next), sizeof(golden_block));
}

static void read_older_table(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	struct fake_table *table;

	fake_host_unscan(host);
	table = older_table(test);
	fake_retrieve(fake_table_pa(table));
	KUNIT_ASSERT_FALSE(test, pci_incoming.quarantined);
	fake_scan(test, host);
	KUNIT_EXPECT_EQ(test, 1, fake_dev(test, host, GOLDEN_NIC)->liveupdate.incoming);
	fake_finish();

	/* The flag is one that this version doesn't know */
	table = golden_table(test);
	fake_table_ser(table)->version = 101;
	expect_quarantine(test, table);
}

/* Whoever preserved it gave its user 4096 bytes; this kernel has 256. */
static void lost_ext_config(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	struct pci_dev *dev;

	fake_host_unscan(host);
	fake_retrieve(fake_table_pa(golden_table(test)));
	fake_scan(test, host);
	dev = fake_dev(test, host, GOLDEN_NIC);
	KUNIT_EXPECT_NULL(test, pci_incoming_unfit(dev));
	dev->cfg_size = PCI_CFG_SPACE_SIZE;
	KUNIT_EXPECT_NOT_NULL(test, pci_incoming_unfit(dev));
	KUNIT_EXPECT_NULL(test, pci_liveupdate_get_incoming(FAKE_DOMAIN, GOLDEN_NIC));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, GOLDEN_NIC)) &
			   PCI_COMMAND_MASTER);
	/* It never had any */
	KUNIT_EXPECT_NULL(test, pci_incoming_unfit(fake_dev(test, host, GOLDEN_OTHER)));
}

/* Before a host is scanned that has the devices in it. */
static void read_golden_table(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	const struct pci_dev_ser *rec;
	u32 bars[PCI_STD_NUM_BARS] = {}, rom = 0;
	struct resource *rom_res;
	struct fake_table *table;
	struct fake_function *fn;
	struct pci_dev *dev;

	fake_host_unscan(host);
	fn = fake_function(host, GOLDEN_NIC);
	table = golden_table(test);
	fake_retrieve(fake_table_pa(table));
	KUNIT_ASSERT_FALSE_MSG(test, pci_incoming.quarantined, GOLDEN_MESSAGE);

	clear_changes(host);
	fake_scan(test, host);
	KUNIT_EXPECT_EQ(test, 0, fn->nr_changes);
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, GOLDEN_PORT)->nr_changes);
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, GOLDEN_OTHER)->nr_changes);

	dev = fake_dev(test, host, GOLDEN_NIC);
	rec = dev->liveupdate.record;
	KUNIT_ASSERT_EQ(test, 1, dev->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, FAKE_DOMAIN, rec->domain);
	KUNIT_EXPECT_EQ(test, GOLDEN_NIC, rec->bdf);
	KUNIT_EXPECT_EQ(test, 0x1c, rec->acs_ctrl);
	KUNIT_EXPECT_EQ(test, 0x1c, dev->liveupdate.acs_ctrl);
	KUNIT_EXPECT_TRUE(test, dev->liveupdate.acs_adopted);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_bar_masks(dev, 6, PCI_BASE_ADDRESS_0,
							 bars, false));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_bar_masks(dev, 1, PCI_ROM_ADDRESS,
							 &rom, true));
	KUNIT_EXPECT_EQ(test, 0xfffff000, bars[0]);
	KUNIT_EXPECT_EQ(test, 0, bars[2]);
	KUNIT_EXPECT_EQ(test, 0xfffffffe, bars[3]);
	KUNIT_EXPECT_EQ(test, 0, bars[4]);
	KUNIT_EXPECT_EQ(test, 0xffff0000, rom);
	KUNIT_EXPECT_EQ(test, SZ_4K, resource_size(&dev->resource[0]));
	KUNIT_EXPECT_EQ(test, SZ_8G, resource_size(&dev->resource[2]));
	rom_res = &dev->resource[PCI_ROM_RESOURCE];
	KUNIT_EXPECT_EQ(test, SZ_64K, resource_size(rom_res));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_bar_masks(dev, PCI_SRIOV_NUM_BARS,
							 dev->sriov->pos + PCI_SRIOV_BAR,
							 bars, false));
	KUNIT_EXPECT_EQ(test, 0xffffc000, bars[0]);
	KUNIT_EXPECT_EQ(test, 0xffffffff, bars[1]);
	KUNIT_EXPECT_EQ(test, 1, dev->sriov->max_VF_buses);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_can_init_sriov(dev));
	KUNIT_EXPECT_TRUE(test, dev->is_physfn);
	KUNIT_EXPECT_STREQ(test, "fake-vfio", rec->driver);
	KUNIT_EXPECT_PTR_EQ(test, &fake_driver, dev->driver);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_adopt_msi(dev));
	/* A ROM that is off may get another address */
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_resource(dev, &dev->resource[0]));
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_keep_resource(dev, rom_res));

	dev = fake_dev(test, host, GOLDEN_OTHER);
	KUNIT_EXPECT_EQ(test, 1, dev->liveupdate.incoming);
	KUNIT_EXPECT_TRUE(test, dev->broken_intx_masking);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_can_init_sriov(dev));
	KUNIT_EXPECT_STREQ(test, "", dev->liveupdate.record->driver);
	KUNIT_EXPECT_NULL(test, dev->driver);

	dev = fake_dev(test, host, GOLDEN_PORT);
	KUNIT_EXPECT_EQ(test, 2, dev->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, 1, dev->liveupdate.record->secondary);
	KUNIT_EXPECT_EQ(test, 5, dev->liveupdate.record->subordinate);
	KUNIT_EXPECT_EQ(test, 0x1d, dev->liveupdate.acs_ctrl);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_bridge_windows(dev));
	KUNIT_EXPECT_TRUE(test, dev->io_window);
	KUNIT_EXPECT_TRUE(test, dev->pref_window);
	KUNIT_EXPECT_TRUE(test, dev->pref_64_window);
	KUNIT_EXPECT_TRUE(test, dev->ari_enabled);
	KUNIT_EXPECT_TRUE(test, dev->config_rrs_sv);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_defer_services(dev));

	/* Put back after a reset, left alone without one */
	dev = fake_dev(test, host, GOLDEN_NIC);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_acs(dev));
	KUNIT_EXPECT_EQ(test, 0, fn->nr_changes);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_ACS_CTRL, 2, 0, 0x1f);
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_keep_acs(dev));
	KUNIT_EXPECT_EQ(test, 0x1c, fn->config[PCI_CFG_SPACE_SIZE + PCI_ACS_CTRL]);
}

/* ACS and ARI that came back with other settings are adopted as they are. */
static void adopt_other_settings(struct kunit *test)
{
	struct fake_host *host = fake_golden(test);
	struct fake_function *port;
	struct fake_table *table;
	struct pci_dev *dev;

	fake_host_unscan(host);
	port = fake_function(host, GOLDEN_PORT);
	fake_set(port, 0x40 + PCI_EXP_DEVCTL2, 2, 0, PCI_EXP_DEVCTL2_ARI);
	fake_set(port, PCI_CFG_SPACE_SIZE + PCI_ACS_CTRL, 2, 0x01, 0x1f);
	table = golden_table(test);
	fake_retrieve(fake_table_pa(table));
	clear_changes(host);
	fake_scan(test, host);

	dev = fake_dev(test, host, GOLDEN_PORT);
	KUNIT_EXPECT_EQ(test, 2, dev->liveupdate.incoming);
	KUNIT_EXPECT_EQ(test, 0, port->nr_changes);
	KUNIT_EXPECT_EQ(test, 0x01, dev->liveupdate.acs_ctrl);
	KUNIT_EXPECT_FALSE(test, dev->ari_enabled);
}

/* What devices at the ends of one link share */

#define LINK_PORT	PCI_DEVID(0, PCI_DEVFN(0, 0))
#define LINK_NIC	PCI_DEVID(1, PCI_DEVFN(0, 0))
#define LINK_OTHER	PCI_DEVID(1, PCI_DEVFN(0, 1))

/* A root port and a device with two functions, not scanned yet */
static struct fake_host *fake_link(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);

	fake_express(fake_bridge(test, host, LINK_PORT, 1, 1), PCI_EXP_TYPE_ROOT_PORT, 0);
	fake_express(fake_endpoint(test, host, LINK_NIC), PCI_EXP_TYPE_ENDPOINT, 0);
	fake_express(fake_endpoint(test, host, LINK_OTHER), PCI_EXP_TYPE_ENDPOINT, 0);
	return host;
}

/* The NIC is preserved, and the next kernel has enumerated the device. */
static void next_kernel_with_link(struct kunit *test, struct fake_host *host)
{
	preserve(test, host, LINK_NIC);
	next_kernel(test, host);
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, LINK_PORT)->nr_changes);
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, LINK_NIC)->nr_changes);
}

#define MSI_POS		0x80

static void fake_msi(struct fake_function *fn)
{
	fake_set(fn, 0x41, 1, MSI_POS, 0);
	fake_set(fn, MSI_POS, 2, PCI_CAP_ID_MSI, 0);
}

/* Enumeration would turn it off before this kernel is the previous one. */
static void fake_msi_on(struct fake_function *fn)
{
	fake_set(fn, MSI_POS + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE, PCI_MSI_FLAGS_ENABLE);
}

static bool fake_msi_is_on(struct fake_function *fn)
{
	return fn->config[MSI_POS + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE;
}

/* The user had MSI on, and the driver doesn't use it. */
static void turn_msi_off(struct kunit *test)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *fn = fake_function(host, LINK_NIC);
	struct pci_dev *dev;

	fake_msi(fn);
	fake_scan(test, host);
	fake_msi_on(fn);
	file_preserve(test);
	next_kernel_with_link(test, host);
	dev = fake_dev(test, host, LINK_NIC);
	KUNIT_EXPECT_EQ(test, MSI_POS, dev->msi_cap);
	KUNIT_EXPECT_EQ(test, DMA_BIT_MASK(32), dev->msi_addr_mask);
	KUNIT_EXPECT_TRUE(test, fake_msi_is_on(fn));

	pci_liveupdate_finish(dev);
	KUNIT_EXPECT_FALSE(test, fake_msi_is_on(fn));
}

static void notify_again(void *unused)
{
	bus_register_notifier(&pci_bus_type, &pci_liveupdate_bus_nb);
}

/* The last file is finished when the driver core has the devices, and hasn't told of them. */
static void finish_while_added(struct kunit *test)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *port = fake_function(host, LINK_PORT);

	fake_msi(port);
	fake_scan(test, host);
	fake_msi_on(port);
	file_preserve(test);
	preserve(test, host, LINK_NIC);

	bus_unregister_notifier(&pci_bus_type, &pci_liveupdate_bus_nb);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, notify_again, NULL));
	next_kernel(test, host);
	fake_finish();
	KUNIT_EXPECT_EQ(test, 1, fake_dev(test, host, LINK_PORT)->liveupdate.incoming);
	/* Memory that it could write to isn't its user's any more */
	KUNIT_EXPECT_FALSE(test, fake_command(fake_function(host, LINK_NIC)) & PCI_COMMAND_MASTER);
	kunit_release_action(test, notify_again, NULL);

	pci_incoming_register(fake_dev(test, host, LINK_PORT));
	pci_incoming_register(fake_dev(test, host, LINK_NIC));
	expect_ordinary(test, host, LINK_PORT);
	expect_ordinary(test, host, LINK_NIC);
	KUNIT_EXPECT_FALSE(test, fake_msi_is_on(port));
}

static int fake_map_irq(const struct pci_dev *dev, u8 slot, u8 pin)
{
	return 5;
}

/* Where the kernel says which interrupt a pin is. The register is for software only. */
static void keep_interrupt_line(struct kunit *test)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *fn = fake_function(host, LINK_NIC);
	struct pci_dev *dev;

	fake_set(fn, PCI_INTERRUPT_LINE, 1, 7, 0xff);
	fake_set(fn, PCI_INTERRUPT_PIN, 1, 1, 0);
	fake_scan(test, host);
	file_preserve(test);
	next_kernel_with_link(test, host);

	dev = fake_dev(test, host, LINK_NIC);
	pci_find_host_bridge(dev->bus)->map_irq = fake_map_irq;
	pci_assign_irq(dev);
	KUNIT_EXPECT_EQ(test, 5, dev->irq);
	KUNIT_EXPECT_EQ(test, 7, fn->config[PCI_INTERRUPT_LINE]);

	pci_liveupdate_finish(dev);
	pci_assign_irq(dev);
	KUNIT_EXPECT_EQ(test, 5, fn->config[PCI_INTERRUPT_LINE]);
}

#ifdef CONFIG_PCI_IDE
/* Looking for mailboxes and streams would write to them. */
static void leave_mailboxes(struct kunit *test)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *port = fake_function(host, LINK_PORT);

	fake_scan(test, host);
	fake_set(fake_function(host, LINK_NIC), PCI_CFG_SPACE_SIZE, 4,
		 PCI_EXT_CAP_ID_DOE | 1 << 16, 0);
	fake_set(port, PCI_CFG_SPACE_SIZE, 4, PCI_EXT_CAP_ID_IDE | 1 << 16, 0);
	fake_set(port, PCI_CFG_SPACE_SIZE + PCI_IDE_CAP, 4, PCI_IDE_CAP_SELECTIVE, 0);

	file_preserve(test);
	next_kernel_with_link(test, host);
	KUNIT_EXPECT_EQ(test, 0, fake_dev(test, host, LINK_PORT)->ide_cap);
}
#endif

#ifdef CONFIG_PCIE_PTM
static struct fake_host *fake_ptm(struct kunit *test, u32 port_ctrl)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *fn;
	unsigned long bdf;

	xa_for_each(&host->functions, bdf, fn) {
		fake_set(fn, PCI_CFG_SPACE_SIZE, 4, PCI_EXT_CAP_ID_PTM | 1 << 16, 0);
		fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_PTM_CAP, 4, PCI_PTM_CAP_REQ, 0);
		fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_PTM_CTRL, 4, 0, 0xff03);
	}
	fn = fake_function(host, LINK_PORT);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_PTM_CAP, 4, PCI_PTM_CAP_RES | PCI_PTM_CAP_ROOT, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_PTM_CTRL, 4, port_ctrl, 0xff03);
	fake_scan(test, host);
	file_preserve(test);
	return host;
}

/* The driver of another function turns PTM on, and off again. */
static void switch_ptm(struct kunit *test, struct fake_host *host)
{
	struct pci_dev *other = fake_dev(test, host, LINK_OTHER);

	clear_changes(host);
	KUNIT_EXPECT_EQ(test, 0, pci_enable_ptm(other));
	pci_disable_ptm(other);
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, LINK_PORT)->nr_changes);
	KUNIT_EXPECT_NE(test, 0, fake_function(host, LINK_OTHER)->nr_changes);
}

static void keep_ptm_on(struct kunit *test)
{
	/* As firmware has left it: this kernel doesn't know of a user */
	struct fake_host *host = fake_ptm(test, PCI_PTM_CTRL_ENABLE | PCI_PTM_CTRL_ROOT);
	struct pci_dev *port;
	int users;

	preserve(test, host, LINK_NIC);
	switch_ptm(test, host);
	KUNIT_EXPECT_FALSE(test, pcie_ptm_enabled(fake_dev(test, host, LINK_PORT)));
	unpreserve(test, host, LINK_NIC);

	next_kernel_with_link(test, host);
	port = fake_dev(test, host, LINK_PORT);
	switch_ptm(test, host);
	/* A driver that ignores that enabling has failed disables it all the same */
	users = atomic_read(&port->ptm_enable_cnt);
	atomic_set(&port->ptm_enable_cnt, 1);
	pci_disable_ptm(fake_dev(test, host, LINK_OTHER));
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, LINK_PORT)->nr_changes);
	atomic_set(&fake_dev(test, host, LINK_OTHER)->ptm_enable_cnt, 0);
	atomic_set(&port->ptm_enable_cnt, users);

	pci_liveupdate_finish(fake_dev(test, host, LINK_NIC));
	switch_ptm(test, host);
}

static void keep_ptm_off(struct kunit *test)
{
	struct fake_host *host = fake_ptm(test, 0);
	struct pci_dev *other;

	next_kernel_with_link(test, host);
	other = fake_dev(test, host, LINK_OTHER);
	clear_changes(host);
	KUNIT_EXPECT_EQ(test, -EINVAL, pci_enable_ptm(other));
	KUNIT_EXPECT_EQ(test, 0, fake_function(host, LINK_PORT)->nr_changes);

	pci_liveupdate_finish(fake_dev(test, host, LINK_NIC));
	KUNIT_EXPECT_EQ(test, 0, pci_enable_ptm(other));
	KUNIT_EXPECT_TRUE(test, fake_function(host, LINK_PORT)->config[PCI_CFG_SPACE_SIZE +
								       PCI_PTM_CTRL] &
			  PCI_PTM_CTRL_ENABLE);
}
#endif

#ifdef CONFIG_PCIEASPM
static u8 link_control(struct fake_host *host, u16 bdf)
{
	return fake_function(host, bdf)->config[0x40 + PCI_EXP_LNKCTL];
}

/* ASPM is on, and both ends could use a common clock, which isn't set up. */
static void adopt_link(struct kunit *test)
{
	struct fake_host *host = fake_link(test);
	struct fake_function *fn;
	unsigned long bdf;

	xa_for_each(&host->functions, bdf, fn) {
		/* Any latency is fine */
		fake_set(fn, 0x40 + PCI_EXP_DEVCAP, 4, PCI_EXP_DEVCAP_RBER |
			 PCI_EXP_DEVCAP_L0S | PCI_EXP_DEVCAP_L1, 0);
		fake_set(fn, 0x40 + PCI_EXP_LNKCAP, 4, PCI_EXP_LNKCAP_ASPM_L0S |
			 PCI_EXP_LNKCAP_ASPM_L1, 0);
	}
	fake_scan(test, host);
	xa_for_each(&host->functions, bdf, fn) {
		fake_set(fn, 0x40 + PCI_EXP_LNKCTL, 2, PCI_EXP_LNKCTL_ASPMC,
			 PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_CCC);
		fake_set(fn, 0x40 + PCI_EXP_LNKSTA, 2, PCI_EXP_LNKSTA_SLC, 0);
	}

	file_preserve(test);
	next_kernel_with_link(test, host);
	KUNIT_EXPECT_EQ(test, 0, pci_disable_link_state(fake_dev(test, host, LINK_NIC),
							PCIE_LINK_STATE_L1));
	KUNIT_EXPECT_EQ(test, PCI_EXP_LNKCTL_ASPMC, link_control(host, LINK_PORT));
	KUNIT_EXPECT_EQ(test, PCI_EXP_LNKCTL_ASPMC, link_control(host, LINK_NIC));

	/* What it was is known: only what is turned off changes */
	pci_liveupdate_finish(fake_dev(test, host, LINK_NIC));
	pci_disable_link_state(fake_dev(test, host, LINK_NIC), PCIE_LINK_STATE_L1);
	KUNIT_EXPECT_EQ(test, PCI_EXP_LNKCTL_ASPM_L0S, link_control(host, LINK_PORT));
	KUNIT_EXPECT_EQ(test, PCI_EXP_LNKCTL_ASPM_L0S, link_control(host, LINK_NIC));
}
#endif

/* BAR 0 of a device without a driver can be resized, but not while it is preserved. */
static void refuse_resize(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *fn = fake_endpoint(test, host, 0);
	struct pci_dev *dev;

	fake_express(fn, PCI_EXP_TYPE_RC_END, 0);
	fake_set(fn, PCI_BASE_ADDRESS_0, 4, 0x80000000, ~0xfffff);
	fake_set(fn, PCI_CFG_SPACE_SIZE, 4, PCI_EXT_CAP_ID_REBAR | 1 << 16, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_REBAR_CAP, 4, 0x3 << 4, 0);
	fake_set(fn, PCI_CFG_SPACE_SIZE + PCI_REBAR_CTRL, 4, 1 << 5, 0x3f << 8);
	fake_scan(test, host);
	file_preserve(test);
	preserve(test, host, 0);
	next_kernel(test, host);

	dev = fake_dev(test, host, 0);
	fake_set(fn, PCI_COMMAND, 2, 0, 0);
	clear_changes(host);
	KUNIT_EXPECT_EQ(test, -EBUSY, pci_resize_resource(dev, 0, 1, 0));
	KUNIT_EXPECT_EQ(test, 0, fn->nr_changes);

	/* There are no addresses for it in this fake host */
	pci_liveupdate_finish(dev);
	KUNIT_EXPECT_EQ(test, -EINVAL, pci_resize_resource(dev, 0, 1, 0));
}

#ifdef CONFIG_PCIE_DPC
#define AER_POS		PCI_CFG_SPACE_SIZE
#define DPC_POS		0x160

/* Its link is down. */
static struct fake_function *fake_dpc_port(struct kunit *test, struct fake_host *host, u16 bdf,
					   u8 secondary, u16 dpc_status)
{
	struct fake_function *fn = fake_bridge(test, host, bdf, secondary, secondary);

	fake_express(fn, PCI_EXP_TYPE_ROOT_PORT, 0);
	fake_set(fn, 0x40 + PCI_EXP_LNKCAP, 4, PCI_EXP_LNKCAP_DLLLARC, 0);
	fake_set(fn, AER_POS, 4, PCI_EXT_CAP_ID_ERR | 1 << 16 | DPC_POS << 20, 0);
	memset(&fn->clears[AER_POS + PCI_ERR_UNCOR_STATUS], 0xff, 4);
	fake_set(fn, DPC_POS, 4, PCI_EXT_CAP_ID_DPC | 1 << 16, 0);
	fake_set(fn, DPC_POS + PCI_EXP_DPC_STATUS, 2, dpc_status, 0);
	memset(&fn->clears[DPC_POS + PCI_EXP_DPC_STATUS], 0xff, 2);
	return fn;
}

static void fake_service_release(struct device *dev)
{
}

/* With what devres holds of it, the interrupt for example */
static void fake_service_put(void *data)
{
	struct pcie_device *service = data;

	put_device(&service->device);
	irq_free_desc(service->irq);
}

static struct pcie_device *fake_service(struct kunit *test, struct pci_dev *port)
{
	struct pcie_device *service = kunit_kzalloc(test, sizeof(*service), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, service);
	service->port = port;
	service->irq = irq_alloc_desc(NUMA_NO_NODE);
	KUNIT_ASSERT_GT(test, service->irq, 0);
	irq_set_chip_and_handler(service->irq, &dummy_irq_chip, handle_simple_irq);
	device_initialize(&service->device);
	service->device.release = fake_service_release;
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, fake_service_put, service));
	KUNIT_ASSERT_EQ(test, 0, dev_set_name(&service->device, "fake service"));
	return service;
}

/* Returns its interrupt. */
static int start_dpc(struct kunit *test, struct pci_dev *port)
{
	struct device_driver *driver = driver_find("dpc", &pcie_port_bus_type);
	struct pcie_device *service = fake_service(test, port);

	KUNIT_ASSERT_NOT_NULL(test, driver);
	KUNIT_ASSERT_EQ(test, 0, to_service_driver(driver)->probe(service));
	/* Also waits for the handler's thread */
	synchronize_irq(service->irq);
	return service->irq;
}

/* A card was pulled, and nobody has seen the interrupt of its port, which doesn't come again. */
static void release_contained_port(struct kunit *test)
{
	struct fake_host *host = fake_host(test, FAKE_DOMAIN, 0);
	struct fake_function *contained, *other;
	int irqs[2];
	u16 ports[] = { PCI_DEVID(0, PCI_DEVFN(1, 0)), PCI_DEVID(0, PCI_DEVFN(2, 0)) };

	contained = fake_dpc_port(test, host, ports[0], 1,
				  PCI_EXP_DPC_STATUS_TRIGGER | PCI_EXP_DPC_STATUS_INTERRUPT);
	other = fake_dpc_port(test, host, ports[1], 2, PCI_EXP_DPC_STATUS_INTERRUPT);
	fake_scan(test, host);
	for (int i = 0; i < ARRAY_SIZE(ports); i++) {
		struct pci_dev *port = fake_dev(test, host, ports[i]);

		port->is_hotplug_bridge = true;
		fake_set(fake_function(host, ports[i]), AER_POS + PCI_ERR_UNCOR_STATUS, 4,
			 PCI_ERR_UNC_SURPDN, 0);
		irqs[i] = start_dpc(test, port);
	}

	KUNIT_EXPECT_EQ(test, 0, contained->config[DPC_POS + PCI_EXP_DPC_STATUS]);
	KUNIT_EXPECT_EQ(test, 0, contained->config[AER_POS + PCI_ERR_UNCOR_STATUS]);
	/* Errors of the other one are AER's business */
	KUNIT_EXPECT_EQ(test, 0, other->config[DPC_POS + PCI_EXP_DPC_STATUS]);
	KUNIT_EXPECT_EQ(test, PCI_ERR_UNC_SURPDN & 0xff,
			other->config[AER_POS + PCI_ERR_UNCOR_STATUS]);

	/* Once more, with an interrupt: unless that is cleared, it is the last one */
	contained->config[AER_POS + PCI_ERR_UNCOR_STATUS] = PCI_ERR_UNC_SURPDN;
	contained->config[DPC_POS + PCI_EXP_DPC_STATUS] =
		PCI_EXP_DPC_STATUS_TRIGGER | PCI_EXP_DPC_STATUS_INTERRUPT;
	KUNIT_EXPECT_EQ(test, 0, generic_handle_irq_safe(irqs[0]));
	synchronize_irq(irqs[0]);
	KUNIT_EXPECT_EQ(test, 0, contained->config[DPC_POS + PCI_EXP_DPC_STATUS]);
}
#endif

/* Saved configuration state */

KUNIT_DEFINE_ACTION_WRAPPER(fake_state_free, kfree, const void *);

static struct pci_saved_state *fake_state(struct kunit *test)
{
	static const struct {
		u16 id;
		u8 extended;
		u8 size;
	} caps[] = { { PCI_CAP_ID_EXP, 0, 14 }, { PCI_EXT_CAP_ID_LTR, 1, 4 } };
	struct pci_saved_state *state = pci_alloc_saved_state(192);
	struct pci_cap_saved_data *cap;

	KUNIT_ASSERT_NOT_NULL(test, state);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, fake_state_free, state));
	for (int i = 0; i < 16; i++)
		pci_saved_state_config(state)[i] = 0x01020304 * (i + 1);
	cap = pci_saved_state_caps(state);
	for (int i = 0; i < ARRAY_SIZE(caps); i++) {
		cap->cap_nr = caps[i].id;
		cap->cap_extended = caps[i].extended;
		cap->size = caps[i].size;
		memset(cap->data, 0xa0 + i, cap->size);
		cap = (void *)cap + sizeof(*cap) + cap->size;
	}
	return state;
}

static void saved_state(struct kunit *test)
{
	const size_t size = sizeof(struct pci_state_ser) +
			    3 * sizeof(struct pci_cap_ser) + 14 + 4;
	struct pci_saved_state *in = fake_state(test), *out;
	struct pci_cap_ser *cap;
	u8 *buf;

	/* Of just that size, for KASAN to see what is read behind it */
	buf = kunit_kzalloc(test, size, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, buf);

	/* Nothing is written if it doesn't fit */
	KUNIT_EXPECT_EQ(test, size, pci_liveupdate_write_state(in, NULL, 0));
	KUNIT_EXPECT_EQ(test, size, pci_liveupdate_write_state(in, buf, size - 1));
	KUNIT_EXPECT_NULL(test, memchr_inv(buf, 0, size));
	KUNIT_EXPECT_EQ(test, size, pci_liveupdate_write_state(in, buf, size));

	out = pci_liveupdate_read_state(buf, size);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, out);
	KUNIT_EXPECT_MEMEQ(test, in, out, size);
	kfree(out);

	/* Every length that isn't enough */
	for (size_t len = 0; len < size; len++) {
		u8 *part = kmalloc(len, GFP_KERNEL);

		KUNIT_ASSERT_NOT_NULL(test, part);
		memcpy(part, buf, len);
		out = pci_liveupdate_read_state(part, len);
		KUNIT_EXPECT_PTR_EQ_MSG(test, ERR_PTR(-EINVAL), out, "%zu", len);
		kfree(part);
	}

	/* Sizes that lead nowhere, and out of the buffer */
	cap = (void *)((struct pci_state_ser *)buf)->caps;
	for (int i = 0; i < 3; i++) {
		static const u32 sizes[] = { 0, U32_MAX, S32_MAX };

		cap->size = sizes[i];
		out = pci_liveupdate_read_state(buf, size);
		KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-EINVAL), out);
	}
	for (u32 i = 1; i < size; i++) {
		cap->size = i;
		out = pci_liveupdate_read_state(buf, size);
		/* It need not make sense, but be within the buffer */
		if (!IS_ERR(out))
			kfree(out);
	}
}

/* Failing allocations */

#ifdef CONFIG_FAULT_INJECTION

/* What these tests set in debugfs, and what was there before */
static struct fail_setting {
	const char *dir;
	const char *name;
	size_t size;
	u64 value;
	u64 saved;
} fail_settings[] = {
	/* The allocations that sleep, and those of one page, are to fail as well */
	{ "failslab", "ignore-gfp-wait", sizeof(bool), false },
	{ "failslab", "verbose", sizeof(long), 0 },
	{ "failslab", "task-filter", sizeof(bool), true },
	{ "failslab", "probability", sizeof(long), 0 },
	{ "failslab", "times", sizeof(atomic_t), -1 },
	{ "failslab", "space", sizeof(atomic_t), 0 },
	{ "fail_page_alloc", "ignore-gfp-wait", sizeof(bool), false },
	{ "fail_page_alloc", "verbose", sizeof(long), 0 },
	{ "fail_page_alloc", "min-order", sizeof(u32), 0 },
};

static void restore_fail_settings(void *data)
{
	current->make_it_fail = false;
	for (int i = 0; i < ARRAY_SIZE(fail_settings); i++) {
		struct fail_setting *set = &fail_settings[i];

		memcpy(debugfs_data(set->dir, NULL, set->name), &set->saved, set->size);
	}
}

static void let_allocations_fail(struct kunit *test)
{
	for (int i = 0; i < ARRAY_SIZE(fail_settings); i++) {
		struct fail_setting *set = &fail_settings[i];
		void *data = debugfs_data(set->dir, NULL, set->name);

		if (!data)
			kunit_skip(test, "%s/%s isn't in debugfs", set->dir, set->name);
		memcpy(&set->saved, data, set->size);
	}
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action(test, restore_fail_settings, NULL));
	for (int i = 0; i < ARRAY_SIZE(fail_settings); i++) {
		struct fail_setting *set = &fail_settings[i];

		memcpy(debugfs_data(set->dir, NULL, set->name), &set->value, set->size);
	}
}

/* Whether the allocation that was to fail has come. */
static bool allocation_failed(void)
{
	bool failed = !current->fail_nth;

	current->fail_nth = 0;
	nr_failed += failed;
	return failed;
}

static void fail_flb_preserve(struct kunit *test)
{
	let_allocations_fail(test);
	for (int n = 1, failed = true; failed; n++) {
		int err;

		current->fail_nth = n;
		err = luo_flb_file_preserve(&fake_handler);
		failed = allocation_failed();

		if (err) {
			KUNIT_EXPECT_EQ(test, -ENOMEM, err);
			KUNIT_EXPECT_NULL(test, pci_outgoing.ser);
			KUNIT_EXPECT_EQ(test, nr_preserved_before, nr_preserved());
		} else {
			fake_file_unpreserve();
		}
	}
}

/* The @n-th allocation, with @used slots of the first block in use. */
static bool fail_preserve_at(struct kunit *test, struct pci_dev *dev, int n,
			     int used)
{
	int usage = atomic_read(&dev->dev.power.usage_count), err;
	bool failed;
	int nr;

	file_preserve(test);
	take_slots(test, used);
	nr = nr_preserved();

	current->fail_nth = n;
	err = pci_liveupdate_preserve(dev);
	failed = allocation_failed();

	if (err) {
		KUNIT_EXPECT_EQ(test, -ENOMEM, err);
		KUNIT_EXPECT_NULL(test, dev->liveupdate.outgoing);
		KUNIT_EXPECT_EQ(test, used, pci_outgoing.ser->nr_devices);
		KUNIT_EXPECT_EQ(test, used, nr_records(test));
		KUNIT_EXPECT_EQ(test, nr, nr_preserved());
		KUNIT_EXPECT_EQ(test, usage,
				atomic_read(&dev->dev.power.usage_count));
	} else {
		KUNIT_EXPECT_EQ(test, used + 4, pci_outgoing.ser->nr_devices);
	}

	/* Neither of these has anything to allocate */
	current->fail_nth = 1;
	pci_liveupdate_unpreserve(dev);
	fake_file_unpreserve();
	KUNIT_EXPECT_EQ(test, 1, current->fail_nth);
	current->fail_nth = 0;
	KUNIT_EXPECT_EQ(test, nr_preserved_before, nr_preserved());

	return failed;
}

/* A path of four, when there are no blocks yet and when it needs the second. */
static void fail_preserve(struct kunit *test)
{
	struct fake_host *host = fake_chain(test, 3);
	struct pci_dev *dev = fake_dev(test, host, PCI_DEVID(3, 0));
	int n = 1;

	let_allocations_fail(test);
	while (fail_preserve_at(test, dev, n, 0))
		n++;
	KUNIT_EXPECT_GT(test, n, 2);

	n = 1;
	while (fail_preserve_at(test, dev, n, 61))
		n++;
	KUNIT_EXPECT_GT(test, n, 2);
}

/* Let all fail that come after @size bytes, as xarray tries twice; or none. */
static void fail_after(int size)
{
	atomic_set(debugfs_data("failslab", NULL, "space"), max(size, 0));
	*(unsigned long *)debugfs_data("failslab", NULL, "probability") =
		size < 0 ? 0 : 100;
	current->make_it_fail = size >= 0;
}

/* Whether the table of the previous kernel was used, and all that it is made of. */
static bool retrieved(struct kunit *test, struct fake_table *table)
{
	unsigned int nr_kept = fake_table_nr_preserved(table);
	bool quarantined = pci_incoming.quarantined;

	if (quarantined) {
		KUNIT_EXPECT_TRUE(test, xa_empty(&pci_incoming.index));
		KUNIT_EXPECT_NULL(test, pci_incoming.ser);
		/* All of it is kept, or nothing */
		KUNIT_EXPECT_TRUE(test, !nr_kept || nr_kept == table->nr_pages);
	} else {
		KUNIT_EXPECT_EQ(test, table->nr_pages, nr_kept);
	}

	/* Has nothing to allocate */
	current->fail_nth = 1;
	fake_finish();
	KUNIT_EXPECT_EQ(test, 1, current->fail_nth);
	current->fail_nth = 0;
	if (!quarantined)
		KUNIT_EXPECT_EQ(test, 0, fake_table_nr_preserved(table));
	kunit_release_action(test, fake_table_free, table);

	return !quarantined;
}

static void fail_retrieve(struct kunit *test)
{
	struct fake_host *host = fake_wide(test, 70);
	struct fake_table *table;
	int size = 0;

	let_allocations_fail(test);
	file_preserve(test);
	for (int i = 0; i < 70; i++)
		preserve(test, host, PCI_DEVID(1, i));

	for (int n = 1, failed = true; failed; n++) {
		table = fake_handover(test);
		current->fail_nth = n;
		fake_retrieve(fake_table_pa(table));
		failed = allocation_failed();
		KUNIT_EXPECT_TRUE(test, retrieved(test, table) || failed);
	}

	for (bool ok = false; !ok; size += 8) {
		table = fake_handover(test);
		fail_after(size);
		fake_retrieve(fake_table_pa(table));
		fail_after(-1);
		ok = retrieved(test, table);
		nr_failed += !ok;
	}
	KUNIT_EXPECT_GT(test, size, 8 * sizeof(void *) * XA_CHUNK_SIZE);
}

/* Without an override another driver could bind, but only after finish. */
static void fail_override(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *dev = fake_dev(test, host, LEFT_0);

	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, "fake-vfio"));
	let_allocations_fail(test);
	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	dev = fake_dev(test, host, LEFT_0);
	KUNIT_ASSERT_EQ(test, 0, device_set_driver_override(&dev->dev, ""));

	/* Once more what was done when it was found */
	pm_runtime_put_noidle(&dev->dev);
	scoped_guard(mutex, &pci_liveupdate_mutex) {
		current->fail_nth = 1;
		pci_incoming_device_add(&pci_incoming, dev);
		KUNIT_EXPECT_TRUE(test, allocation_failed());
	}
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(dev));
	KUNIT_EXPECT_EQ(test, 1, pci_liveupdate_match_driver(dev, &fake_driver.driver));
	KUNIT_EXPECT_EQ(test, 0, pci_liveupdate_match_driver(dev, &fake_native_driver.driver));
}

static void fail_register(struct kunit *test)
{
	int n = 1;

	let_allocations_fail(test);
	for (bool failed = true; failed; n++) {
		struct liveupdate_file_handler handler = {
			.ops = &fake_file_ops,
			.compatible = "pci-liveupdate-kunit-2",
		};
		int err;

		KUNIT_ASSERT_EQ(test, 0, liveupdate_register_file_handler(&handler));
		current->fail_nth = n;
		err = pci_liveupdate_register_flb(&handler);
		failed = allocation_failed();
		/* Of the FLBs of LUO's own test nobody is told */
		if (err || !IS_ENABLED(CONFIG_LIVEUPDATE_TEST))
			KUNIT_EXPECT_EQ(test, failed ? -ENOMEM : 0, err);
		if (!err)
			pci_liveupdate_unregister_flb(&handler);
		liveupdate_unregister_file_handler(&handler);
	}
	KUNIT_EXPECT_GT(test, n, 2);
}

static void fail_read_state(struct kunit *test)
{
	struct pci_saved_state *in = fake_state(test), *out;
	size_t size = pci_liveupdate_write_state(in, NULL, 0);
	u8 *buf = kunit_kzalloc(test, size, GFP_KERNEL);
	int n = 1;

	let_allocations_fail(test);
	KUNIT_ASSERT_NOT_NULL(test, buf);
	pci_liveupdate_write_state(in, buf, size);
	for (bool failed = true; failed; n++) {
		current->fail_nth = n;
		out = pci_liveupdate_read_state(buf, size);
		failed = allocation_failed();
		if (IS_ERR(out)) {
			KUNIT_EXPECT_PTR_EQ(test, ERR_PTR(-ENOMEM), out);
		} else {
			KUNIT_EXPECT_MEMEQ(test, in, out, size);
			kfree(out);
		}
	}
	KUNIT_EXPECT_GT(test, n, 2);
}

#endif

/* Hostile tables: what consistent means, said once more */

/* A table's pages as oracle_read() has found them, and the records in use */
struct oracle {
	struct fake_table *table;
	unsigned long visited[BITS_TO_LONGS(64)];
	u32 version;
	const struct pci_dev_ser *recs[1024];
	unsigned int nr;
	/* Of one domain, for each bus number: */
	const struct pci_dev_ser *to[256];	/* the bridge to it */
	const struct pci_dev_ser *owner[256];	/* the lowest bridge that has it */
	unsigned int nr_below[256];		/* the devices below the bridge to it */
};

static int oracle_page(struct oracle *o, u64 pa)
{
	for (unsigned int i = 0; i < o->table->nr_pages; i++) {
		if (page_to_phys(o->table->pages[i]) == pa)
			return i;
	}
	return -1;
}

/* Follow the chain, through memory that is the table's and only once. */
static bool oracle_read(struct oracle *o, u64 pa)
{
	struct kho_block_header_ser *block;
	struct pci_ser *ser;
	int page = oracle_page(o, pa);

	if (page < 0)
		return false;
	ser = page_address(o->table->pages[page]);
	if (ser->version < 101 || ser->version > 102 || ser->reserved)
		return false;
	o->version = ser->version;
	set_bit(page, o->visited);

	for (pa = ser->devices; pa; pa = block->next) {
		struct pci_dev_ser *rec;

		page = oracle_page(o, pa);
		if (page < 0 || test_and_set_bit(page, o->visited))
			return false;
		block = page_address(o->table->pages[page]);
		if (!block->count || block->count > 63)
			return false;
		rec = (void *)(block + 1);
		for (int i = 0; i < block->count; i++) {
			if (rec[i].refcount)
				o->recs[o->nr++] = &rec[i];
		}
	}
	return o->nr == ser->nr_devices;
}

static bool oracle_is_bridge(const struct pci_dev_ser *rec)
{
	return rec->flags & PCI_DEV_SER_BRIDGE;
}

/* As pci.h describes a record. */
static bool oracle_record(const struct pci_dev_ser *rec, u32 version)
{
	u16 flags = version > 101 ? rec->flags & ~0x200 : rec->flags;
	const u8 *bytes = (const u8 *)rec;
	bool ended = false;

	for (int i = 32; i < 64; i++) {
		if (ended && bytes[i])
			return false;
		if (!bytes[i])
			ended = true;
	}
	if (!ended)
		return false;
	for (int i = 18; i < 25; i++) {
		if (bytes[i] > 63)
			return false;
		/* Nothing is beside the last BAR, and the ROM */
		if (bytes[i] > 31 && (i >= 23 || bytes[i + 1]))
			return false;
	}
	if (!(rec->flags & 0x40) && rec->acs_ctrl)
		return false;
	switch (rec->device << 16 | rec->vendor) {
	case 0:
	case 0xffff:
	case 0xffff0000:
	case 0xffffffff:
		return false;
	}

	if (!oracle_is_bridge(rec)) {
		for (int i = 25; i < 32; i++) {
			if (i > 25 && bytes[i] > 63)
				return false;
			if (i > 25 && bytes[i] > 31 && (i == 31 || bytes[i + 1]))
				return false;
			if (bytes[i] && !(rec->flags & 0x100))
				return false;
		}
		if (rec->flags & 0x100 && bytes[25] < rec->bdf >> 8)
			return false;
		return !(flags & ~0x162) && rec->refcount == 1;
	}
	return !(flags & ~0xfd) && !bytes[32] && !rec->max_vf_buses &&
	       !memchr_inv(&bytes[28], 0, 4) &&
	       rec->secondary > rec->bdf >> 8 &&
	       rec->subordinate >= rec->secondary;
}

/* Let each bridge take its bus numbers away from the bridge above. */
static bool oracle_buses(struct oracle *o, u32 domain)
{
	memset(o->to, 0, sizeof(o->to));
	memset(o->owner, 0, sizeof(o->owner));
	for (unsigned int i = 0; i < o->nr; i++) {
		const struct pci_dev_ser *rec = o->recs[i];

		if (rec->domain != domain || !oracle_is_bridge(rec))
			continue;
		if (o->to[rec->secondary])
			return false;
		o->to[rec->secondary] = rec;
	}

	/* From the top, as a bridge has a higher number behind it than before it */
	for (int bus = 0; bus < 256; bus++) {
		const struct pci_dev_ser *bridge = o->to[bus], *above;

		if (!bridge)
			continue;
		above = o->owner[bridge->bdf >> 8];
		for (int i = bus; i <= bridge->subordinate; i++) {
			if (o->owner[i] != above)
				return false;
			o->owner[i] = bridge;
		}
	}
	return true;
}

/* All records are on buses that bridges lead to, or on root buses. */
static bool oracle_paths(struct oracle *o, u32 domain)
{
	memset(o->nr_below, 0, sizeof(o->nr_below));
	for (unsigned int i = 0; i < o->nr; i++) {
		const struct pci_dev_ser *rec = o->recs[i];
		u8 bus = rec->bdf >> 8;

		if (rec->domain != domain)
			continue;
		if (o->owner[bus] != o->to[bus])
			return false;
		while (!oracle_is_bridge(rec) && o->to[bus]) {
			o->nr_below[bus]++;
			bus = o->to[bus]->bdf >> 8;
		}
	}
	for (int bus = 0; bus < 256; bus++) {
		if (o->to[bus] && o->to[bus]->refcount != o->nr_below[bus])
			return false;
	}
	return true;
}

static bool oracle_says_consistent(struct oracle *o, u64 pa)
{
	if (!oracle_read(o, pa))
		return false;

	/* Before anything follows bus numbers up */
	for (unsigned int i = 0; i < o->nr; i++) {
		if (!oracle_record(o->recs[i], o->version))
			return false;
	}
	for (unsigned int i = 0; i < o->nr; i++) {
		const struct pci_dev_ser *rec = o->recs[i];
		bool first = true;

		for (unsigned int j = 0; j < i; j++) {
			if (o->recs[j]->domain != rec->domain)
				continue;
			if (o->recs[j]->bdf == rec->bdf)
				return false;
			first = false;
		}
		if (first && !(oracle_buses(o, rec->domain) &&
			       oracle_paths(o, rec->domain)))
			return false;
	}
	return true;
}

/* Hostile tables: making them */

#define TABLES_PER_TOPOLOGY	1000
#define MAX_ROOTS		3
#define MAX_BRIDGES		16

struct hostile {
	unsigned int nr_preserved;
	unsigned int nr_not_preserved;
	unsigned int nr_tables;
	unsigned int nr_accepted;
	unsigned int nr_wrong;
	u32 wrong_seed;
	bool wrong_accepted;
};

static u32 pick(struct rnd_state *rnd, u32 below)
{
	return prandom_u32_state(rnd) % below;
}

/*
 * Parents before their children, but siblings in any order; with numbers left over
 * before and behind them, and up to eight functions of one device.
 */
static void fake_random_bridges(struct kunit *test, struct fake_host *host,
				struct rnd_state *rnd, int nr, u8 *buses)
{
	int parent[MAX_BRIDGES], before[MAX_BRIDGES], size[MAX_BRIDGES];
	int next[MAX_BRIDGES + 1], devfn[MAX_BRIDGES + 1] = {};
	bool backwards = pick(rnd, 2);

	for (int i = 0; i < nr; i++) {
		/* One more for the root bus, which is the last here */
		parent[i] = pick(rnd, i + 1) - 1;
		if (parent[i] < 0)
			parent[i] = MAX_BRIDGES;
		devfn[parent[i]]++;
		before[i] = !pick(rnd, 4);
		size[i] = 1 + before[i] + !pick(rnd, 4);
	}
	for (int i = nr; i--; ) {
		if (parent[i] != MAX_BRIDGES)
			size[parent[i]] += size[i];
	}
	for (int i = 0; !backwards && i <= MAX_BRIDGES; i++)
		devfn[i] = 0;

	next[MAX_BRIDGES] = host->root + 1;
	for (int i = 0; i < nr; i++) {
		int up = parent[i];
		u8 bus = up == MAX_BRIDGES ? host->root : buses[up];

		buses[i] = next[up] + before[i];
		next[up] += size[i];
		next[i] = buses[i] + 1;
		fake_bridge(test, host,
			    PCI_DEVID(bus, backwards ? --devfn[up] : devfn[up]++),
			    buses[i], next[up] - 1);
	}
}

/* What firmware should not, but might do. */
static void fake_random_mistake(struct fake_host *host, struct rnd_state *rnd,
				int nr_bridges)
{
	struct fake_function *fn;
	unsigned long bdf;
	int n = pick(rnd, nr_bridges);

	xa_for_each(&host->functions, bdf, fn) {
		u8 *numbers = &fn->config[PCI_PRIMARY_BUS];

		if (n--)
			continue;
		numbers[1] += pick(rnd, 4);
		numbers[2] = min_t(int, numbers[2] + pick(rnd, 16), host->buses.end);
		break;
	}
}

#define BUSES_PER_ROOT	0x50

static struct fake_host *fake_random(struct kunit *test, struct rnd_state *rnd,
				     int domain, int root)
{
	/* Some have the numbers of the next, too */
	int last = pick(rnd, 4) ? root + BUSES_PER_ROOT - 1 : 0xff;
	struct fake_host *host = fake_host_buses(test, domain, root, last);
	int nr_bridges = pick(rnd, MAX_BRIDGES + 1);
	int nr_endpoints = pick(rnd, 32) ? 1 + pick(rnd, 12) : 100;
	u8 buses[MAX_BRIDGES + 1], devfn[MAX_BRIDGES + 1];

	fake_random_bridges(test, host, rnd, nr_bridges, buses);
	if (nr_bridges && !pick(rnd, 4))
		fake_random_mistake(host, rnd, nr_bridges);
	buses[nr_bridges] = host->root;
	/* Behind the bridges on the same bus */
	memset(devfn, PCI_DEVFN(MAX_BRIDGES, 0), sizeof(devfn));
	for (int i = 0; i < nr_endpoints; i++) {
		int n = pick(rnd, nr_bridges + 1);

		fake_endpoint(test, host, PCI_DEVID(buses[n], devfn[n]++));
	}
	fake_scan(test, host);
	return host;
}

/* Preserve some of the devices; some for a while only, to leave free slots. */
static void preserve_random(struct kunit *test, struct fake_host *host,
			    struct rnd_state *rnd, struct hostile *res)
{
	struct fake_function *fn;
	unsigned long bdf;

	for (int pass = 0; pass < 2; pass++) {
		xa_for_each(&host->functions, bdf, fn) {
			struct pci_dev *dev = fake_find(host, bdf);

			if (!dev || !pci_is_endpoint(dev))
				continue;
			if (dev->liveupdate.outgoing && !pick(rnd, 4))
				pci_liveupdate_unpreserve(dev);
			else if (!dev->liveupdate.outgoing && pick(rnd, 3))
				res->nr_not_preserved += !!pci_liveupdate_preserve(dev);
			res->nr_preserved += !!dev->liveupdate.outgoing;
		}
	}
}

/* What this kernel would hand over, in a form that can be damaged again and again */
struct fake_image {
	struct fake_table *table;
	void *pages;
};

static void fake_image_restore(struct kunit *test, struct fake_image *image)
{
	struct fake_table *table = image->table;

	/* Before one of these is used for another that was given back, too */
	for (unsigned int i = 0; i < table->nr_pages; i++) {
		if (!kunit_kho_is_preserved(table->pages[i]))
			table->pages[i] = NULL;
	}
	for (unsigned int i = 0; i < table->nr_pages; i++) {
		if (!table->pages[i])
			table->pages[i] = kunit_kho_page(test);
		memcpy(page_address(table->pages[i]),
		       image->pages + i * PAGE_SIZE, PAGE_SIZE);
	}
	fake_table_link(table);
}

static void fake_image_save(struct kunit *test, struct fake_image *image,
			    struct fake_table *table)
{
	image->table = table;
	image->pages = kunit_kmalloc_array(test, table->nr_pages, PAGE_SIZE,
					   GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, image->pages);
	for (unsigned int i = 0; i < table->nr_pages; i++)
		memcpy(image->pages + i * PAGE_SIZE,
		       page_address(table->pages[i]), PAGE_SIZE);
}

static struct fake_image *fake_image(struct kunit *test, u32 seed,
				     struct hostile *res)
{
	struct fake_image *image = kunit_kzalloc(test, sizeof(*image), GFP_KERNEL);
	struct fake_host *hosts[MAX_ROOTS];
	struct rnd_state rnd;
	int nr_hosts;

	KUNIT_ASSERT_NOT_NULL(test, image);
	prandom_seed_state(&rnd, seed);
	nr_hosts = 1 + pick(&rnd, MAX_ROOTS);
	for (int i = 0; i < nr_hosts; i++)
		hosts[i] = fake_random(test, &rnd, FAKE_DOMAIN + pick(&rnd, 2),
				       i * BUSES_PER_ROOT);
	file_preserve(test);
	for (int i = 0; i < nr_hosts; i++)
		preserve_random(test, hosts[i], &rnd, res);
	fake_image_save(test, image, fake_handover(test));
	fake_file_unpreserve();
	for (int i = 0; i < nr_hosts; i++)
		kunit_release_action(test, fake_host_destroy, hosts[i]);

	/* What preserve has accepted, retrieve accepts */
	fake_retrieve(fake_table_pa(image->table));
	KUNIT_EXPECT_FALSE_MSG(test, pci_incoming.quarantined,
			       "pci_liveupdate_kunit.seed=%u",
			       seed * TABLES_PER_TOPOLOGY);
	fake_finish();
	return image;
}

static void fake_image_free(struct kunit *test, struct fake_image *image)
{
	kunit_release_action(test, fake_table_free, image->table);
	kunit_kfree(test, image->pages);
	kunit_kfree(test, image);
}

/* Addresses: none, unaligned, the table's own, in RAM, at its end, beyond. */
static u64 pick_address(struct rnd_state *rnd, struct fake_table *table)
{
	u64 pa = page_to_phys(table->pages[pick(rnd, table->nr_pages)]);
	u64 addresses[] = {
		0, pa, pa + 1 + pick(rnd, PAGE_SIZE - 1),
		__pa_symbol(&pci_incoming) & PAGE_MASK,
		virt_to_phys(table->pages) & PAGE_MASK,
		(u64)pick(rnd, max_pfn) << PAGE_SHIFT,
		(u64)max_pfn << PAGE_SHIFT,
		(u64)prandom_u32_state(rnd) << 32,
		~0ULL, pa ^ BIT_ULL(pick(rnd, 64)),
	};

	return addresses[pick(rnd, ARRAY_SIZE(addresses))];
}

static u64 pick_number(struct rnd_state *rnd, u64 old, unsigned int bits)
{
	u64 numbers[] = {
		0, 1, ~0ULL, BIT_ULL(bits - 1), old - 1, old + 1,
		old ^ BIT_ULL(pick(rnd, bits)), prandom_u32_state(rnd),
	};

	return numbers[pick(rnd, ARRAY_SIZE(numbers))];
}

/* One of @nr numbers that stand side by side */
struct field {
	u8 offset;
	u8 size;
	u8 nr;
};

static const struct field ser_fields[] = {
	{ offsetof(struct pci_ser, version), 4, 1 },
	{ offsetof(struct pci_ser, reserved), 4, 1 },
	{ offsetof(struct pci_ser, devices), 8, 1 },
	{ offsetof(struct pci_ser, nr_devices), 8, 1 },
};

static const struct field rec_fields[] = {
	{ offsetof(struct pci_dev_ser, domain), 4, 1 },
	{ offsetof(struct pci_dev_ser, bdf), 2, 1 },
	{ offsetof(struct pci_dev_ser, flags), 2, 1 },
	{ offsetof(struct pci_dev_ser, refcount), 4, 1 },
	{ offsetof(struct pci_dev_ser, vendor), 2, 1 },
	{ offsetof(struct pci_dev_ser, device), 2, 1 },
	{ offsetof(struct pci_dev_ser, acs_ctrl), 2, 1 },
	{ offsetof(struct pci_dev_ser, bar_order), 1, 7 },
	{ offsetof(struct pci_dev_ser, max_vf_buses), 1, 1 },
	{ offsetof(struct pci_dev_ser, vf_bar_order), 1, 6 },
	{ offsetof(struct pci_dev_ser, secondary), 1, 1 },
	{ offsetof(struct pci_dev_ser, subordinate), 1, 1 },
	{ offsetof(struct pci_dev_ser, reserved), 1, 4 },
	{ offsetof(struct pci_dev_ser, driver), 1, 32 },
};

static void damage_field(struct rnd_state *rnd, void *base,
			 const struct field *field)
{
	u64 val = 0;

	base += field->offset + field->size * pick(rnd, field->nr);
	memcpy(&val, base, field->size);
	val = pick_number(rnd, val, 8 * field->size);
	memcpy(base, &val, field->size);
}

static void damage_ser(struct rnd_state *rnd, struct fake_table *table)
{
	struct pci_ser *ser = fake_table_ser(table);

	if (pick(rnd, 4))
		damage_field(rnd, ser, &ser_fields[pick(rnd, ARRAY_SIZE(ser_fields))]);
	else
		ser->devices = pick_address(rnd, table);
}

static void damage_block(struct rnd_state *rnd, struct fake_table *table)
{
	struct kho_block_header_ser *block;

	block = fake_table_block(table, pick(rnd, table->nr_pages - 1));
	switch (pick(rnd, 4)) {
	case 0:
		block->next = pick_address(rnd, table);
		break;
	case 1:
		block->count = pick_number(rnd, block->count, 64);
		break;
	case 2:
		block->count = 62 + pick(rnd, 4);
		break;
	default:
		memset(block, 0, sizeof(*block));
		break;
	}
}

static void damage_record(struct rnd_state *rnd, struct fake_table *table,
			  struct pci_dev_ser *rec, struct pci_dev_ser *other)
{
	struct pci_ser *ser = fake_table_ser(table);

	switch (pick(rnd, 20)) {
	case 0:
		memset(rec->driver, 'a', sizeof(rec->driver));
		break;
	case 1:
		*rec = *other;
		break;
	case 2:
		swap(*rec, *other);
		break;
	case 3:
		rec->bdf += 0x100;
		break;
	case 4:		/* forgotten, and the number is right */
		ser->nr_devices -= !!rec->refcount;
		rec->refcount = 0;
		break;
	case 5:		/* from nowhere, and the number is right */
		ser->nr_devices += !rec->refcount;
		rec->refcount = 1;
		break;
	default:
		damage_field(rnd, rec, &rec_fields[pick(rnd, ARRAY_SIZE(rec_fields))]);
		break;
	}
}

static void damage_bit(struct rnd_state *rnd, struct pci_dev_ser *rec)
{
	((u8 *)rec)[pick(rnd, sizeof(*rec))] ^= BIT(pick(rnd, 8));
}

/* Return: where the kernel is told that the table is. */
static u64 damage(struct rnd_state *rnd, struct fake_table *table)
{
	u64 pa = fake_table_pa(table);
	unsigned int nr = 0;

	for (unsigned int i = 1; i < table->nr_pages; i++)
		nr += fake_table_block(table, i - 1)->count;

	for (int times = pick(rnd, 4); times; times--) {
		u32 what = pick(rnd, 32);

		/* Nothing but the head if no device is preserved */
		if (!what)
			pa = pick_address(rnd, table);
		else if (what < 4 || !nr)
			damage_ser(rnd, table);
		else if (what < 8)
			damage_block(rnd, table);
		else if (what < 12)
			damage_bit(rnd, fake_table_rec(table, pick(rnd, nr)));
		else
			damage_record(rnd, table, fake_table_rec(table, pick(rnd, nr)),
				      fake_table_rec(table, pick(rnd, nr)));
	}
	return pa;
}

/* Each page of the chain is given back, and no other; or all are kept. */
static bool memory_is_right(struct oracle *o, bool accepted)
{
	for (unsigned int i = 0; i < o->table->nr_pages; i++) {
		if (kunit_kho_is_preserved(o->table->pages[i]) !=
		    !(accepted && test_bit(i, o->visited)))
			return false;
	}
	return true;
}

static void try_table(struct kunit *test, struct fake_image *image, u32 seed,
		      struct oracle *o, struct hostile *res)
{
	bool accepted, consistent, right;
	struct rnd_state rnd;
	u64 pa;

	fake_image_restore(test, image);
	prandom_seed_state(&rnd, seed);
	pa = damage(&rnd, image->table);

	bitmap_zero(o->visited, 64);
	o->nr = 0;
	o->table = image->table;
	consistent = oracle_says_consistent(o, pa);

	fake_retrieve(pa);
	accepted = !pci_incoming.quarantined;
	right = memory_is_right(o, false);
	fake_finish();
	right = right && memory_is_right(o, accepted) && !pci_incoming.ser &&
		xa_empty(&pci_incoming.index) && get_taint() == taint_before;

	res->nr_tables++;
	res->nr_accepted += accepted;
	if (accepted == consistent && right)
		return;
	if (!res->nr_wrong++) {
		res->wrong_seed = seed;
		res->wrong_accepted = accepted;
	}
}

static int panic_on_warn_before;

static void set_console(void *level)
{
	console_loglevel = (long)level;
	panic_on_warn = panic_on_warn_before;
}

static void hostile_tables(struct kunit *test)
{
	struct oracle *o = kunit_kzalloc(test, sizeof(*o), GFP_KERNEL);
	void *level = (void *)(long)console_loglevel;
	struct hostile res = {};
	u32 seed = first_seed;
	int err;

	KUNIT_ASSERT_NOT_NULL(test, o);
	panic_on_warn_before = panic_on_warn;
	err = kunit_add_action_or_reset(test, set_console, level);
	KUNIT_ASSERT_EQ(test, 0, err);
	/*
	 * Not a message for each device and for each table, but if it crashes. What was
	 * said before is printed by a thread, which looks at the level.
	 */
	msleep(MSEC_PER_SEC);
	console_loglevel = LOGLEVEL_CRIT + 1;
	/* Nor would anybody see what KASAN or UBSAN says */
	panic_on_warn = true;

	while (res.nr_tables < nr_tables) {
		struct fake_image *image;

		image = fake_image(test, seed / TABLES_PER_TOPOLOGY, &res);
		KUNIT_ASSERT_LE(test, image->table->nr_pages, 64);
		try_table(test, image, seed++, o, &res);
		/* The others take the same locks: lockdep would be half of the time */
		lockdep_off();
		while (res.nr_tables < nr_tables && seed % TABLES_PER_TOPOLOGY) {
			try_table(test, image, seed++, o, &res);
			cond_resched();
		}
		lockdep_on();
		fake_image_free(test, image);
	}

	kunit_release_action(test, set_console, level);
	kunit_info(test, "devices preserved: %u, not preserved: %u\n",
		   res.nr_preserved, res.nr_not_preserved);
	kunit_info(test, "tables tried: %u, %u of them consistent\n",
		   res.nr_tables, res.nr_accepted);
	KUNIT_EXPECT_EQ_MSG(test, 0, res.nr_wrong,
			    "first: pci_liveupdate_kunit.seed=%u pci_liveupdate_kunit.tables=1, %s",
			    res.wrong_seed,
			    res.wrong_accepted ? "accepted" : "refused");
}

/* A bridge that waits for a device that isn't there any more. */
static void remove_incoming_bridge(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;
	struct pci_dev *bridge;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, RIGHT);
	table = end_kernel(test, host);
	kfree(xa_erase(&host->functions, LEFT_0));
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);

	bridge = pci_dev_get(fake_dev(test, host, BRIDGE_LEFT));
	KUNIT_EXPECT_TRUE(test, pci_liveupdate_is_incoming(bridge));
	pci_stop_and_remove_bus_device_locked(bridge);
	KUNIT_EXPECT_FALSE(test, pci_liveupdate_is_incoming(bridge));
	pci_dev_put(bridge);

	/* That above it waits for the end */
	pci_liveupdate_finish(fake_dev(test, host, RIGHT));
	KUNIT_EXPECT_EQ(test, 1,
			fake_dev(test, host, BRIDGE_TOP)->liveupdate.incoming);
	fake_finish();
	expect_ordinary(test, host, BRIDGE_TOP);
}

/* The services of a bridge that somebody has locked are started another time. */
static void restart_when_locked(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct pci_dev *bridge;

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_TRUE(test, delayed_work_pending(&pci_restart_work));
	cancel_delayed_work_sync(&pci_restart_work);

	bridge = fake_dev(test, host, BRIDGE_TOP);
	device_lock(&bridge->dev);
	pci_restart_bridges(&pci_restart_work.work);
	device_unlock(&bridge->dev);
	KUNIT_EXPECT_TRUE(test, delayed_work_pending(&pci_restart_work));
	cancel_delayed_work_sync(&pci_restart_work);

	pci_restart_bridges(&pci_restart_work.work);
	KUNIT_EXPECT_FALSE(test, delayed_work_pending(&pci_restart_work));
}

/* The next live update begins at once: services don't wait until that is over. */
static void preserve_at_once(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);

	file_preserve(test);
	preserve(test, host, LEFT_0);
	next_kernel(test, host);
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	fake_finish();
	KUNIT_EXPECT_TRUE(test, delayed_work_pending(&pci_restart_work));

	file_preserve(test);
	preserve(test, host, LEFT_0);
	KUNIT_EXPECT_FALSE(test, delayed_work_pending(&pci_restart_work));
}

/* debugfs */

/* As seq_read() does it, one page at most. */
static char *read_table(struct kunit *test, struct kho_block_set *blocks)
{
	struct seq_file m = { .private = blocks, .size = PAGE_SIZE };
	const struct seq_operations *ops = &pci_table_sops;
	loff_t pos = 0;
	void *v;

	m.buf = kunit_kzalloc(test, m.size, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, m.buf);
	for (v = ops->start(&m, &pos); v; v = ops->next(&m, v, &pos))
		KUNIT_EXPECT_EQ(test, 0, ops->show(&m, v));
	ops->stop(&m, v);
	KUNIT_EXPECT_LT(test, m.count, m.size);
	return m.buf;
}

/* For root, and about these blocks. */
static void expect_file(struct kunit *test, const char *name,
			struct kho_block_set *blocks)
{
	struct file *file = kunit_kzalloc(test, sizeof(*file), GFP_KERNEL);
	struct dentry *dir = debugfs_lookup("pci_liveupdate", NULL);
	struct dentry *dentry;
	struct seq_file *m;

	KUNIT_ASSERT_NOT_NULL(test, file);
	KUNIT_ASSERT_NOT_NULL(test, dir);
	dentry = debugfs_lookup(name, dir);
	dput(dir);
	KUNIT_ASSERT_NOT_NULL(test, dentry);
	KUNIT_EXPECT_EQ(test, S_IFREG | 0400, d_inode(dentry)->i_mode);
	KUNIT_EXPECT_EQ(test, 0, pci_table_kunit_fops->open(d_inode(dentry), file));
	dput(dentry);

	m = file->private_data;
	KUNIT_ASSERT_NOT_NULL(test, m);
	KUNIT_EXPECT_PTR_EQ(test, blocks, (struct kho_block_set *)m->private);
	seq_release(NULL, file);
}

static void show_tables(struct kunit *test)
{
	struct kho_block_set *outgoing = &pci_outgoing.blocks;
	struct kho_block_set *incoming = &pci_incoming.blocks;
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	expect_file(test, "outgoing", outgoing);
	expect_file(test, "incoming", incoming);

	KUNIT_EXPECT_STREQ(test, "", read_table(test, outgoing));
	KUNIT_EXPECT_STREQ(test, "", read_table(test, incoming));

	file_preserve(test);
	KUNIT_EXPECT_STREQ(test, "", read_table(test, outgoing));
	device_release_driver(&fake_dev(test, host, LEFT_1)->dev);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	KUNIT_EXPECT_STREQ(test, read_table(test, outgoing),
			   "10001:02:00.0 1234:0001 device 1 fake-vfio\n"
			   "10001:01:00.0 1234:0001 bridge 2 02-02\n"
			   "10001:00:00.0 1234:0001 bridge 2 01-03\n"
			   "10001:02:01.0 1234:0001 device 1 -\n");

	table = end_kernel(test, host);
	/* Free slots of a kernel that leaves some */
	fake_table_block(table, 0)->count += 2;
	kfree(xa_erase(&host->functions, LEFT_1));
	fake_retrieve(fake_table_pa(table));
	fake_scan(test, host);
	KUNIT_EXPECT_STREQ(test, read_table(test, incoming),
			   "10001:02:00.0 1234:0001 device 1 fake-vfio incoming\n"
			   "10001:01:00.0 1234:0001 bridge 2 02-02 incoming\n"
			   "10001:00:00.0 1234:0001 bridge 2 01-03 incoming\n"
			   "10001:02:01.0 1234:0001 device 1 - missing\n");
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_STREQ(test, read_table(test, incoming),
			   "10001:02:00.0 1234:0001 device 1 fake-vfio done\n"
			   "10001:01:00.0 1234:0001 bridge 2 02-02 incoming\n"
			   "10001:00:00.0 1234:0001 bridge 2 01-03 incoming\n"
			   "10001:02:01.0 1234:0001 device 1 - missing\n");
	fake_finish();
	KUNIT_EXPECT_STREQ(test, "", read_table(test, incoming));

	file_preserve(test);
	preserve(test, host, LEFT_0);
	table = end_kernel(test, host);
	fake_table_ser(table)->version++;
	fake_retrieve(fake_table_pa(table));
	KUNIT_EXPECT_STREQ(test, "quarantined\n", read_table(test, incoming));
	fake_finish();
	KUNIT_EXPECT_STREQ(test, "", read_table(test, incoming));
}

/* Tracepoints */

#ifdef CONFIG_TRACEPOINTS
/* How often each was hit, by an endpoint and by a bridge, or at all. */
static unsigned int nr_preserve[2], nr_unpreserve[2], nr_adopt[2], nr_finish[2];
static unsigned int nr_quarantine;

static void count_event(void *data, struct pci_dev *dev)
{
	unsigned int *counts = data;

	counts[!pci_is_endpoint(dev)]++;
}

static void count_quarantine(void *data, u64 table, int error)
{
	if (table && error == -EOPNOTSUPP)
		nr_quarantine++;
}

static void unregister_probes(void *data)
{
	unregister_trace_pci_liveupdate_preserve(count_event, nr_preserve);
	unregister_trace_pci_liveupdate_unpreserve(count_event, nr_unpreserve);
	unregister_trace_pci_liveupdate_adopt(count_event, nr_adopt);
	unregister_trace_pci_liveupdate_finish(count_event, nr_finish);
	unregister_trace_pci_liveupdate_quarantine(count_quarantine, NULL);
	tracepoint_synchronize_unregister();
}

static void register_probes(struct kunit *test)
{
	int err;

	memset(nr_preserve, 0, sizeof(nr_preserve));
	memset(nr_unpreserve, 0, sizeof(nr_unpreserve));
	memset(nr_adopt, 0, sizeof(nr_adopt));
	memset(nr_finish, 0, sizeof(nr_finish));
	nr_quarantine = 0;

	err = register_trace_pci_liveupdate_preserve(count_event, nr_preserve) ?:
	      register_trace_pci_liveupdate_unpreserve(count_event, nr_unpreserve) ?:
	      register_trace_pci_liveupdate_adopt(count_event, nr_adopt) ?:
	      register_trace_pci_liveupdate_finish(count_event, nr_finish) ?:
	      register_trace_pci_liveupdate_quarantine(count_quarantine, NULL);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, unregister_probes, NULL));
	KUNIT_ASSERT_EQ(test, 0, err);
}

static void trace_life(struct kunit *test)
{
	struct fake_host *host = fake_tree(test);
	struct fake_table *table;

	register_probes(test);
	file_preserve(test);
	preserve(test, host, LEFT_0);
	preserve(test, host, LEFT_1);
	KUNIT_EXPECT_EQ(test, 2, nr_preserve[0]);
	KUNIT_EXPECT_EQ(test, 2, nr_preserve[1]);
	unpreserve(test, host, LEFT_1);
	KUNIT_EXPECT_EQ(test, 1, nr_unpreserve[0]);
	KUNIT_EXPECT_EQ(test, 0, nr_unpreserve[1]);

	next_kernel(test, host);
	KUNIT_EXPECT_EQ(test, 2, nr_unpreserve[0]);
	KUNIT_EXPECT_EQ(test, 2, nr_unpreserve[1]);
	KUNIT_EXPECT_EQ(test, 1, nr_adopt[0]);
	KUNIT_EXPECT_EQ(test, 2, nr_adopt[1]);
	KUNIT_EXPECT_EQ(test, 0, nr_finish[0]);
	pci_liveupdate_finish(fake_dev(test, host, LEFT_0));
	KUNIT_EXPECT_EQ(test, 1, nr_finish[0]);
	KUNIT_EXPECT_EQ(test, 2, nr_finish[1]);
	fake_finish();

	file_preserve(test);
	preserve(test, host, LEFT_0);
	table = end_kernel(test, host);
	fake_table_ser(table)->version++;
	fake_retrieve(fake_table_pa(table));
	KUNIT_EXPECT_EQ(test, 1, nr_quarantine);
	KUNIT_EXPECT_EQ(test, 1, nr_adopt[0]);
}
#endif

static struct kunit_case liveupdate_cases[] = {
	/* First, as long as there is little left to print: see there */
	KUNIT_CASE_SLOW(hostile_tables),
	KUNIT_CASE(preserve_path),
	KUNIT_CASE(preserve_shared_bridges),
	KUNIT_CASE(preserve_deep_chain),
	KUNIT_CASE(leave_in_any_order),
	KUNIT_CASE(grow_and_shrink),
	KUNIT_CASE(preserve_fails_on_path),
	KUNIT_CASE(preserve_when_it_cannot),
	KUNIT_CASE(preserve_after_rescan),
	KUNIT_CASE(preserve_what_it_cannot),
	KUNIT_CASE(preserve_overlapping_buses),
	KUNIT_CASE(preserve_overlapping_roots),
	KUNIT_CASE(preserve_lost_buses),
	KUNIT_CASE(remove_outgoing),
	KUNIT_CASE(unbind_outgoing),
	KUNIT_CASE(unpreserve_forgotten),
	KUNIT_CASE(unpreserve_damaged),
	KUNIT_CASE(remove_damaged),
	KUNIT_CASE(keep_running),
	KUNIT_CASE(adopt_and_finish),
	KUNIT_CASE(adopt_without_a_write),
	KUNIT_CASE(adopt_for_its_driver),
	KUNIT_CASE(adopt_another_vendor),
	KUNIT_CASE(adopt_another_device),
	KUNIT_CASE(adopt_another_header),
	KUNIT_CASE(adopt_after_reset),
	KUNIT_CASE(adopt_without_bars),
	KUNIT_CASE(adopt_at_zero),
	KUNIT_CASE(adopt_above_4g),
	KUNIT_CASE(adopt_missing),
	KUNIT_CASE(cardbus_waits),
#ifdef CONFIG_PCIE_DPC
	KUNIT_CASE(release_contained_port),
#endif
	KUNIT_CASE(adopt_bridge_without_buses),
	KUNIT_CASE(adopt_other_settings),
	KUNIT_CASE(turn_msi_off),
	KUNIT_CASE(finish_while_added),
	KUNIT_CASE(keep_interrupt_line),
#ifdef CONFIG_PCI_IDE
	KUNIT_CASE(leave_mailboxes),
#endif
#ifdef CONFIG_PCIE_PTM
	KUNIT_CASE(keep_ptm_on),
	KUNIT_CASE(keep_ptm_off),
#endif
#ifdef CONFIG_PCIEASPM
	KUNIT_CASE(adopt_link),
#endif
	KUNIT_CASE(refuse_resize),
	KUNIT_CASE(remove_incoming),
	KUNIT_CASE(abandon),
	KUNIT_CASE(disable_incoming),
	KUNIT_CASE(get_incoming),
	KUNIT_CASE(get_reset),
	KUNIT_CASE(defer_finish),
	KUNIT_CASE(finish_unfinished),
	KUNIT_CASE(finish_while_found),
	KUNIT_CASE(refuse_suspend),
	KUNIT_CASE(two_updates_in_a_row),
	KUNIT_CASE(remove_both),
	KUNIT_CASE(quarantine),
	KUNIT_CASE(quarantine_unaligned),
	KUNIT_CASE(quarantine_empty_block),
	KUNIT_CASE(quarantine_overlapping_buses),
	KUNIT_CASE(quarantine_record),
	KUNIT_CASE(quarantine_other_layout),
	KUNIT_CASE(no_table),
	KUNIT_CASE(write_golden_table),
	KUNIT_CASE(read_golden_table),
	KUNIT_CASE(write_older_table),
	KUNIT_CASE(read_older_table),
	KUNIT_CASE(lost_ext_config),
	KUNIT_CASE(saved_state),
#ifdef CONFIG_FAULT_INJECTION
	KUNIT_CASE(fail_flb_preserve),
	KUNIT_CASE(fail_preserve),
	KUNIT_CASE(fail_retrieve),
	KUNIT_CASE(fail_override),
	KUNIT_CASE(fail_register),
	KUNIT_CASE(fail_read_state),
#endif
	KUNIT_CASE(remove_incoming_bridge),
	KUNIT_CASE(restart_when_locked),
	KUNIT_CASE(preserve_at_once),
	KUNIT_CASE(show_tables),
#ifdef CONFIG_TRACEPOINTS
	KUNIT_CASE(trace_life),
#endif
	{}
};

static struct kunit_suite liveupdate_suite = {
	.name = "pci_liveupdate",
	.suite_init = liveupdate_suite_init,
	.suite_exit = liveupdate_suite_exit,
	.init = liveupdate_test_init,
	.exit = liveupdate_test_exit,
	.test_cases = liveupdate_cases,
};

kunit_test_suite(liveupdate_suite);
