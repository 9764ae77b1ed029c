// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: IOMMU Live Update
 *
 * A device that does DMA while the kernel is replaced goes on translating through the
 * page tables of the old kernel, until the new kernel has made others. The IOMMU core
 * hands these tables to the new kernel, under the name %IOMMU_LIVEUPDATE_COMPATIBLE (see
 * include/linux/kho/abi/iommu.h).
 *
 * preserve
 *   Each page of the device's page tables is preserved with KHO. What they map must have
 *   been preserved before, or the device could write to memory that the next kernel uses
 *   for something else. The caller makes sure that nobody changes the tables until
 *   unpreserve.
 *
 * freeze
 *   Makes sure that what the tables map is still preserved. Goes through the tables again
 *   only if something was unpreserved since they were checked.
 *
 * the next kernel
 *   The IOMMU's driver reads the table before it touches an IOMMU, and leaves the devices
 *   in it alone: they go on with the tables of the previous kernel until they are finished.
 *   To attach one to a domain only prepares that. What the tables map is held meanwhile,
 *   even if its owner frees it (see liveupdate_memory.c).
 *
 * finish
 *   A device that is attached to a domain uses that from here on; the hardware is switched
 *   without a moment in between. A device that isn't attached can't do DMA any more. When
 *   the last file is finished, the pages of the old tables are freed.
 *
 * Files that can be preserved use the table by way of iommu_liveupdate_register_flb().
 */

#define pr_fmt(fmt) "iommu: liveupdate: " fmt
#define dev_fmt(fmt) "liveupdate: " fmt

#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/generic_pt/iommu.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/iommu_liveupdate.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/iommu.h>
#include <linux/kho_block.h>
#include <linux/list.h>
#include <linux/liveupdate.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "iommu-priv.h"
#include "liveupdate.h"

/**
 * struct iommu_outgoing_domain - A domain whose page tables are preserved
 * @node:       in iommu_outgoing_domains
 * @domain:     the domain; whoever preserves a device that uses it keeps it
 * @rec:        its record
 * @pages:      records of the pages of its page tables
 * @nr_devices: number of preserved devices that use it
 * @checked:    what kho_nr_unpreserved() was before what it maps was last checked
 */
struct iommu_outgoing_domain {
	struct list_head node;
	struct iommu_domain *domain;
	struct iommu_domain_ser *rec;
	struct kho_block_set pages;
	unsigned int nr_devices;
	unsigned long checked;
};

/*
 * Protects the tables below. Taken with the lock of LUO's session held, and in the FLB's
 * callbacks with that of the FLB; KHO's locks are taken with it held.
 */
static DEFINE_MUTEX(iommu_liveupdate_mutex);

/* The outgoing table; NULL if no file is preserved */
static struct iommu_ser *iommu_outgoing;
static struct kho_block_set iommu_outgoing_domain_recs =
	KHO_BLOCK_SET_INIT(iommu_outgoing_domain_recs, sizeof(struct iommu_domain_ser));
static struct kho_block_set iommu_outgoing_rids =
	KHO_BLOCK_SET_INIT(iommu_outgoing_rids, sizeof(struct iommu_rid_ser));
static struct kho_block_set iommu_outgoing_pages =
	KHO_BLOCK_SET_INIT(iommu_outgoing_pages, sizeof(struct iommu_page_ser));
static u64 iommu_outgoing_nr_pages;
static u32 iommu_outgoing_id;
static LIST_HEAD(iommu_outgoing_domains);

/* The incoming table; NULL if there is none, or if it isn't used because it is damaged */
static struct iommu_ser *iommu_incoming;
/* What a driver does before the incoming table is freed */
static void (*iommu_incoming_release)(void);

static struct liveupdate_flb iommu_liveupdate_flb;

/* Outgoing: records */

/* Add a record at the end, where kho_block_set_grow() has made room. */
static void *iommu_block_append(struct kho_block_set *bs)
{
	struct kho_block_header_ser *ser =
		list_last_entry(&bs->blocks, struct kho_block, list)->ser;

	return (void *)(ser + 1) + ser->count++ * bs->entry_size;
}

/* Domains and requester IDs begin with a u32 that is 0 in a free slot. */
static void *iommu_slot_alloc(struct kho_block_set *bs)
{
	struct kho_block_set_it it;
	u64 nr_used = 0;
	u32 *slot;
	int err;

	kho_block_set_it_init(&it, bs);
	while ((slot = kho_block_set_it_read_entry(&it))) {
		if (!*slot)
			return slot;
		nr_used++;
	}

	err = kho_block_set_grow(bs, nr_used + 1);
	return err ? ERR_PTR(err) : iommu_block_append(bs);
}

/* Outgoing: domains */

struct iommu_keep {
	struct pt_iommu_visitor visitor;
	struct iommu_outgoing_domain *out;
	phys_addr_t stray;
};

static int iommu_keep_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	struct iommu_keep *keep = container_of(visitor, struct iommu_keep, visitor);
	struct iommu_outgoing_domain *out = keep->out;
	struct iommu_page_ser *page;
	int err;

	cond_resched();
	err = kho_block_set_grow(&out->pages, out->rec->nr_pages + 1);
	if (err)
		return err;
	err = kho_preserve_folio(page_folio(phys_to_page(paddr)));
	if (err)
		return err;

	page = iommu_block_append(&out->pages);
	page->phys = paddr;
	/* The top comes first */
	if (!out->rec->nr_pages++)
		out->rec->top = page->phys;
	return 0;
}

static int iommu_skip_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	cond_resched();
	return 0;
}

static int iommu_check_leaf(struct pt_iommu_visitor *visitor, phys_addr_t paddr,
			    size_t size)
{
	struct iommu_keep *keep = container_of(visitor, struct iommu_keep, visitor);

	if (kho_is_preserved(paddr, size))
		return 0;

	keep->stray = paddr;
	return -EINVAL;
}

/* Check what @out maps; and preserve its page tables, if @table is to do that. */
static int iommu_outgoing_walk(struct device *dev, struct iommu_outgoing_domain *out,
			       int (*table)(struct pt_iommu_visitor *, phys_addr_t))
{
	struct pt_iommu *pt = iommupt_from_domain(out->domain);
	struct iommu_keep keep = {
		.visitor = { .table = table, .leaf = iommu_check_leaf },
		.out = out,
		.stray = PHYS_ADDR_MAX,
	};
	unsigned long now = kho_nr_unpreserved();
	int err;

	if (!pt)
		return -EOPNOTSUPP;

	err = pt->ops->visit(pt, &keep.visitor);
	if (!err)
		out->checked = now;
	if (keep.stray != PHYS_ADDR_MAX)
		dev_warn(dev, "its address space maps memory at %pa, which isn't preserved; preserve all its memory before the device, and keep it preserved\n",
			 &keep.stray);
	return err;
}

static void iommu_outgoing_free(struct iommu_outgoing_domain *out)
{
	struct iommu_page_ser *page;
	struct kho_block_set_it it;

	kho_block_set_it_init(&it, &out->pages);
	while ((page = kho_block_set_it_read_entry(&it)))
		kho_unpreserve_folio(virt_to_folio(phys_to_virt(page->phys)));
	kho_block_set_destroy(&out->pages);

	memset(out->rec, 0, sizeof(*out->rec));
	list_del(&out->node);
	kfree(out);
}

static void iommu_outgoing_put(struct iommu_outgoing_domain *out)
{
	if (!--out->nr_devices)
		iommu_outgoing_free(out);
}

static struct iommu_outgoing_domain *iommu_outgoing_find(struct iommu_domain *domain)
{
	struct iommu_outgoing_domain *out;

	lockdep_assert_held(&iommu_liveupdate_mutex);

	list_for_each_entry(out, &iommu_outgoing_domains, node) {
		if (out->domain == domain)
			return out;
	}

	return NULL;
}

static u32 iommu_outgoing_new_id(void)
{
	struct iommu_outgoing_domain *out;
	u32 id = 0;

	/* Newer domains come first, and have higher numbers */
	out = list_first_entry_or_null(&iommu_outgoing_domains,
				       struct iommu_outgoing_domain, node);
	if (out)
		id = out->rec->id;
	return id + 1;
}

/* If @domain is new, its page tables have yet to be walked. */
static struct iommu_outgoing_domain *iommu_outgoing_get(struct iommu_domain *domain)
{
	struct iommu_outgoing_domain *out = iommu_outgoing_find(domain);
	int err;

	if (out) {
		out->nr_devices++;
		return out;
	}

	out = kzalloc_obj(*out);
	if (!out)
		return ERR_PTR(-ENOMEM);

	out->rec = iommu_slot_alloc(&iommu_outgoing_domain_recs);
	if (IS_ERR(out->rec)) {
		err = PTR_ERR(out->rec);
		kfree(out);
		return ERR_PTR(err);
	}
	iommu_outgoing->domains = kho_block_set_head_pa(&iommu_outgoing_domain_recs);

	out->domain = domain;
	out->nr_devices = 1;
	out->rec->id = iommu_outgoing_new_id();
	kho_block_set_init(&out->pages, sizeof(struct iommu_page_ser));
	list_add(&out->node, &iommu_outgoing_domains);
	return out;
}

static int iommu_outgoing_keep(struct device *dev, struct iommu_outgoing_domain *out)
{
	int err;

	if (out->rec->nr_pages)
		return 0;

	err = iommu_outgoing_walk(dev, out, iommu_keep_table);
	if (!err)
		out->rec->pages = kho_block_set_head_pa(&out->pages);
	return err;
}

/* Outgoing: what IOMMU drivers call */

/**
 * iommu_liveupdate_alloc_page - Allocate a page that IOMMUs use between the kernels
 *
 * The page is freed with the table: in this kernel when nothing is preserved any more, in
 * the next one at the last finish.
 *
 * Context: called from &iommu_ops.liveupdate_rid. May sleep.
 * Return: a page of zeros; or an ERR_PTR: -ENOMEM, -ENOSPC.
 */
void *iommu_liveupdate_alloc_page(void)
{
	struct iommu_page_ser *rec;
	void *page;
	int err;

	lockdep_assert_held(&iommu_liveupdate_mutex);

	err = kho_block_set_grow(&iommu_outgoing_pages, iommu_outgoing_nr_pages + 1);
	if (err)
		return ERR_PTR(err);

	page = kho_alloc_preserve(PAGE_SIZE);
	if (IS_ERR(page)) {
		kho_block_set_shrink(&iommu_outgoing_pages, iommu_outgoing_nr_pages);
		return page;
	}

	rec = iommu_block_append(&iommu_outgoing_pages);
	rec->phys = virt_to_phys(page);
	iommu_outgoing_nr_pages++;
	iommu_outgoing->pages = kho_block_set_head_pa(&iommu_outgoing_pages);
	return page;
}

static void iommu_outgoing_free_pages(void)
{
	struct iommu_page_ser *rec;
	struct kho_block_set_it it;

	kho_block_set_it_init(&it, &iommu_outgoing_pages);
	while ((rec = kho_block_set_it_read_entry(&it)))
		kho_unpreserve_free(phys_to_virt(rec->phys));
	kho_block_set_destroy(&iommu_outgoing_pages);
	iommu_outgoing_nr_pages = 0;
}

/**
 * iommu_liveupdate_table_id - Tell one outgoing table from another
 *
 * Context: called from &iommu_ops.liveupdate_rid, or at shutdown on the last CPU.
 * Return: a number that no earlier table had; 0 if there is no outgoing table.
 */
u32 iommu_liveupdate_table_id(void)
{
	return iommu_outgoing ? iommu_outgoing_id : 0;
}

/**
 * iommu_liveupdate_walk_rids - Call a function for each requester ID that is handed over
 * @fn:   the function, which may change the driver's part of @rec
 * @data: for @fn
 *
 * Context: shutdown, on the last CPU. Takes no lock.
 */
void iommu_liveupdate_walk_rids(void (*fn)(struct iommu_rid_ser *rec,
					   const struct iommu_domain_ser *domain,
					   void *data),
				void *data)
{
	struct iommu_outgoing_domain *out;
	struct kho_block_set_it it;
	struct iommu_rid_ser *rec;

	kho_block_set_it_init(&it, &iommu_outgoing_rids);
	while ((rec = kho_block_set_it_read_entry(&it))) {
		list_for_each_entry(out, &iommu_outgoing_domains, node) {
			if (out->rec->id == rec->domain)
				fn(rec, out->rec, data);
		}
	}
}

/* Incoming: what IOMMU drivers call */

/**
 * iommu_liveupdate_walk_incoming - Call a function for each requester ID of the table
 * @fn:   the function; if it doesn't return 0, it isn't called again
 * @data: for @fn
 *
 * Context: boot. May sleep.
 * Return: 0; -ENOENT if there is no incoming table, or it isn't used; or what @fn
 * returned.
 */
int iommu_liveupdate_walk_incoming(iommu_rid_fn fn, void *data)
{
	int err = -ENOENT;
	void *obj;

	if (liveupdate_flb_get_incoming(&iommu_liveupdate_flb, &obj))
		return -ENOENT;

	scoped_guard(mutex, &iommu_liveupdate_mutex) {
		if (iommu_incoming)
			err = iommu_incoming_walk_rids(iommu_incoming, fn, data);
	}

	liveupdate_flb_put_incoming(&iommu_liveupdate_flb);
	return err;
}

/**
 * iommu_liveupdate_set_release - Ask to be called before the incoming table is freed
 * @release: what to call at the last finish; it makes sure that no device uses the page
 *           tables of the previous kernel. May sleep.
 *
 * Without that the table is never freed: IOMMUs that nobody knows of may use it.
 *
 * Context: boot.
 */
void iommu_liveupdate_set_release(void (*release)(void))
{
	guard(mutex)(&iommu_liveupdate_mutex);

	iommu_incoming_release = release;
}

/* Outgoing: requester IDs */

struct iommu_rids {
	struct device *dev;
	struct iommu_domain *domain;
	u32 id;
	unsigned int nr;
};

static struct iommu_rid_ser *iommu_rid_find(u32 segment, u16 rid)
{
	struct iommu_rid_ser *rec;
	struct kho_block_set_it it;

	kho_block_set_it_init(&it, &iommu_outgoing_rids);
	while ((rec = kho_block_set_it_read_entry(&it))) {
		if (rec->domain && rec->segment == segment && rec->rid == rid)
			return rec;
	}

	return NULL;
}

static int iommu_rid_get(struct pci_dev *pdev, u16 rid, void *data)
{
	struct iommu_rids *rids = data;
	struct iommu_rid_ser new = {
		.domain = rids->id,
		.refcount = 1,
		.segment = pci_domain_nr(pdev->bus),
		.rid = rid,
	};
	struct iommu_rid_ser *rec = iommu_rid_find(new.segment, rid);
	int err;

	if (rec) {
		/* Those who share a requester ID are in one group, and so in one domain */
		if (rec->domain != rids->id)
			return -EBUSY;
		rec->refcount++;
		rids->nr++;
		return 0;
	}

	err = dev_iommu_ops(rids->dev)->liveupdate_rid(rids->dev, rids->domain, &new);
	if (err)
		return err;
	rec = iommu_slot_alloc(&iommu_outgoing_rids);
	if (IS_ERR(rec))
		return PTR_ERR(rec);

	*rec = new;
	iommu_outgoing->rids = kho_block_set_head_pa(&iommu_outgoing_rids);
	rids->nr++;
	return 0;
}

/* Stops after as many as iommu_rid_get() got. */
static int iommu_rid_put(struct pci_dev *pdev, u16 rid, void *data)
{
	struct iommu_rid_ser *rec = iommu_rid_find(pci_domain_nr(pdev->bus), rid);
	struct iommu_rids *rids = data;

	if (!rids->nr--)
		return -ENOENT;
	if (rec && !--rec->refcount)
		memset(rec, 0, sizeof(*rec));
	return 0;
}

/*
 * The driver comes first: whatever it can't hand over needs no memory that is preserved,
 * as its DMA is paused.
 */
static int iommu_outgoing_preserve(struct device *dev, struct iommu_domain *domain)
{
	struct iommu_rids rids = { .dev = dev, .domain = domain };
	struct iommu_outgoing_domain *out;
	int err;

	guard(mutex)(&iommu_liveupdate_mutex);

	out = iommu_outgoing_get(domain);
	if (IS_ERR(out))
		return PTR_ERR(out);

	rids.id = out->rec->id;
	err = pci_for_each_dma_alias(to_pci_dev(dev), iommu_rid_get, &rids);
	if (!err)
		err = iommu_outgoing_keep(dev, out);
	if (err) {
		pci_for_each_dma_alias(to_pci_dev(dev), iommu_rid_put, &rids);
		iommu_outgoing_put(out);
	}

	return err;
}

/* The life of the tables */

static int iommu_flb_preserve(struct liveupdate_flb_op_args *args)
{
	struct iommu_ser *ser = kho_alloc_preserve(sizeof(*ser));

	if (IS_ERR(ser))
		return PTR_ERR(ser);

	*ser = (struct iommu_ser){ .version = IOMMU_SER_VERSION };

	scoped_guard(mutex, &iommu_liveupdate_mutex) {
		iommu_outgoing = ser;
		iommu_outgoing_id++;
	}

	args->data = virt_to_phys(ser);
	args->obj = ser;
	return 0;
}

/* The last file was unpreserved, and with it the last domain. */
static void iommu_flb_unpreserve(struct liveupdate_flb_op_args *args)
{
	guard(mutex)(&iommu_liveupdate_mutex);

	iommu_outgoing_free_pages();
	kho_block_set_destroy(&iommu_outgoing_rids);
	kho_block_set_destroy(&iommu_outgoing_domain_recs);
	kho_unpreserve_free(iommu_outgoing);
	iommu_outgoing = NULL;
}

/* Never fails: LUO would remember an error, and couldn't finish the files. */
static int iommu_flb_retrieve(struct liveupdate_flb_op_args *args)
{
	guard(mutex)(&iommu_liveupdate_mutex);

	iommu_incoming = iommu_incoming_load(args->data);
	args->obj = &iommu_incoming;
	return 0;
}

static int iommu_has_rid(const struct iommu_rid_ser *rec,
			 const struct iommu_domain_ser *domain, void *data)
{
	return 1;
}

static void iommu_flb_finish(struct liveupdate_flb_op_args *args)
{
	guard(mutex)(&iommu_liveupdate_mutex);

	if (iommu_incoming_release)
		iommu_incoming_release();
	iommu_held_put_all();

	if (iommu_incoming && !iommu_incoming_release &&
	    iommu_incoming_walk_rids(iommu_incoming, iommu_has_rid, NULL))
		pr_warn("no driver has taken the previous kernel's IOMMUs over, which may still use their tables: the memory of these stays reserved\n");
	else if (iommu_incoming)
		iommu_incoming_free(iommu_incoming);
	iommu_incoming = NULL;
	iommu_incoming_release = NULL;
}

static const struct liveupdate_flb_ops iommu_liveupdate_flb_ops = {
	.preserve = iommu_flb_preserve,
	.unpreserve = iommu_flb_unpreserve,
	.retrieve = iommu_flb_retrieve,
	.finish = iommu_flb_finish,
	.owner = THIS_MODULE,
};

static struct liveupdate_flb iommu_liveupdate_flb = {
	.ops = &iommu_liveupdate_flb_ops,
	.compatible = IOMMU_LIVEUPDATE_COMPATIBLE,
	.version = IOMMU_SER_VERSION,
};

/* What drivers call */

/**
 * iommu_liveupdate_register_flb - Let the files of a handler hand translations over
 * @fh: LUO file handler of a driver whose devices may be attached to a domain. The driver
 *      registers the PCI table after that: what is registered last is finished first, and
 *      the PCI core stops a device before its page tables go.
 *
 * Context: after liveupdate_register_file_handler(). May sleep.
 * Return: 0, or the error of liveupdate_register_flb(): -EOPNOTSUPP if live update is
 * off, -EEXIST if @fh is registered already, -ENOMEM, -ENOSPC.
 */
int iommu_liveupdate_register_flb(struct liveupdate_file_handler *fh)
{
	return liveupdate_register_flb(fh, &iommu_liveupdate_flb);
}
EXPORT_SYMBOL_GPL(iommu_liveupdate_register_flb);

/**
 * iommu_liveupdate_unregister_flb - Undo iommu_liveupdate_register_flb()
 * @fh: the file handler; no file of it is preserved
 *
 * Context: before liveupdate_unregister_file_handler(). May sleep.
 */
void iommu_liveupdate_unregister_flb(struct liveupdate_file_handler *fh)
{
	liveupdate_unregister_flb(fh, &iommu_liveupdate_flb);
}
EXPORT_SYMBOL_GPL(iommu_liveupdate_unregister_flb);

/* What the PCI core calls */

static int iommu_finish_device(struct device *dev, void *data)
{
	if (dev == data)
		dev_iommu_ops(dev)->liveupdate_finish(dev);
	return 0;
}

/**
 * iommu_liveupdate_finish - End the use of the previous kernel's page tables by a device
 * @dev: device that isn't incoming any more
 *
 * From here on @dev uses the domain that it is attached to. If there is none, it is blocked.
 *
 * Context: called by the PCI core when a device is finished, given up or removed. Takes the
 * mutex of the device's group. May sleep.
 */
void iommu_liveupdate_finish(struct device *dev)
{
	struct iommu_group *group;

	/* A device that no IOMMU driver has probed has no tables */
	if (!dev->iommu || !dev->iommu->iommu_dev ||
	    !dev_iommu_ops(dev)->liveupdate_finish)
		return;

	group = iommu_group_get(dev);
	if (!group)
		return;

	/* Nobody attaches or detaches it meanwhile */
	iommu_group_for_each_dev(group, dev, iommu_finish_device);
	iommu_group_put(group);
}

/**
 * iommu_liveupdate_get_incoming - Keep the page tables of the previous kernel
 *
 * If there are none, neither this nor iommu_liveupdate_put_incoming() does anything.
 *
 * Context: called from .finish of a file handler, or as long as another reference is held. May
 * sleep.
 */
void iommu_liveupdate_get_incoming(void)
{
	void *obj;

	liveupdate_flb_get_incoming(&iommu_liveupdate_flb, &obj);
}

/**
 * iommu_liveupdate_put_incoming - Undo iommu_liveupdate_get_incoming()
 *
 * Context: the device for which that was called isn't incoming any more. May sleep.
 */
void iommu_liveupdate_put_incoming(void)
{
	liveupdate_flb_put_incoming(&iommu_liveupdate_flb);
}

/* What iommufd calls */

/**
 * iommu_liveupdate_preserve - Hand the translation of a device to the next kernel
 * @dev:    the device
 * @domain: the domain that @dev is attached to. The caller keeps it, and what it maps,
 *          as it is until iommu_liveupdate_unpreserve().
 *
 * Context: called from .preserve of a file handler that was registered with
 * iommu_liveupdate_register_flb(). May sleep.
 *
 * Return:
 * * 0: the page tables of @domain, and the requester IDs of @dev, are in the table
 * * -EOPNOTSUPP: live update is off, or the IOMMU's driver, the mode it is in, or the
 *   kind of @domain doesn't support this
 * * -EINVAL: @domain maps memory that isn't preserved; a warning says which
 * * -EBUSY: a requester ID of @dev is preserved with another domain
 * * -ENODATA: there is no outgoing table, as the caller isn't .preserve
 * * -ENOMEM, -ENOSPC: the table can't grow
 */
int iommu_liveupdate_preserve(struct device *dev, struct iommu_domain *domain)
{
	void *obj;
	int err;

	if (!dev_is_pci(dev) || !dev_iommu_ops(dev)->liveupdate_rid)
		return -EOPNOTSUPP;

	if (liveupdate_flb_get_outgoing(&iommu_liveupdate_flb, &obj))
		return -ENODATA;

	err = iommu_outgoing_preserve(dev, domain);
	liveupdate_flb_put_outgoing(&iommu_liveupdate_flb);
	return err;
}
EXPORT_SYMBOL_GPL(iommu_liveupdate_preserve);

/**
 * iommu_liveupdate_unpreserve - Cancel iommu_liveupdate_preserve()
 * @dev:    the device
 * @domain: the domain that it was preserved with
 *
 * Context: called from .unpreserve of the file handler, or from .preserve if that fails.
 * May sleep.
 */
void iommu_liveupdate_unpreserve(struct device *dev, struct iommu_domain *domain)
{
	struct iommu_rids rids = { .nr = UINT_MAX };

	guard(mutex)(&iommu_liveupdate_mutex);

	pci_for_each_dma_alias(to_pci_dev(dev), iommu_rid_put, &rids);
	iommu_outgoing_put(iommu_outgoing_find(domain));
}
EXPORT_SYMBOL_GPL(iommu_liveupdate_unpreserve);

/**
 * iommu_liveupdate_freeze - Check that all that a device can reach is still preserved
 * @dev:    the device
 * @domain: the domain that it was preserved with
 *
 * Takes no time unless something was unpreserved since @domain was preserved: LUO lets a
 * VMM close the session of its memory before that of its device.
 *
 * Context: called from .freeze of the file handler. May sleep.
 * Return: 0; -EINVAL if @domain maps memory that isn't preserved any more; a warning says
 * which.
 */
int iommu_liveupdate_freeze(struct device *dev, struct iommu_domain *domain)
{
	struct iommu_outgoing_domain *out;

	guard(mutex)(&iommu_liveupdate_mutex);

	out = iommu_outgoing_find(domain);
	if (out->checked == kho_nr_unpreserved())
		return 0;

	return iommu_outgoing_walk(dev, out, iommu_skip_table);
}
EXPORT_SYMBOL_GPL(iommu_liveupdate_freeze);

/**
 * iommu_liveupdate_check_image - Check that the loaded kernel has a device's IOMMU on
 * @dev: the device
 *
 * Context: called from &liveupdate_flb_ops.prepare. May sleep.
 * Return: 0, also without an IOMMU, or if its driver doesn't know; -EOPNOTSUPP if that kernel
 * will have it off: DMA addresses would mean something else there; -ENOMEM.
 */
int iommu_liveupdate_check_image(struct device *dev)
{
	const struct iommu_ops *ops;

	/* vfio's groups without an IOMMU have none either */
	if (!dev->iommu || !dev->iommu->iommu_dev)
		return 0;

	ops = dev_iommu_ops(dev);
	return ops->liveupdate_check_image ? ops->liveupdate_check_image() : 0;
}
