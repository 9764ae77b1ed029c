// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * The page tables that the previous kernel handed over: how their table is checked, and
 * how all of it is freed.
 */

#define pr_fmt(fmt) "iommu: liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/block.h>
#include <linux/kho/abi/iommu.h>
#include <linux/kho_block.h>
#include <linux/mm.h>
#include <linux/pfn.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/xarray.h>

#include "liveupdate.h"

/* Mark in iommu_incoming_pages: a walk through the page tables has come to it */
#define IOMMU_PAGE_REACHED	XA_MARK_0

/*
 * All pages of the table that was loaded last, by frame number: for a page table the number of
 * its domain, else 0. Written under the lock of the tables; there is no other user at boot.
 */
static DEFINE_XARRAY(iommu_incoming_pages);

/**
 * struct iommu_check - What is known of a table while it is checked
 * @domains: domains by their number
 * @rids:    requester IDs by segment and ID
 */
struct iommu_check {
	struct xarray domains;
	struct xarray rids;
};

/* Report why the table isn't used. Called only once, for the first error. */
static __printf(1, 2) int iommu_table_err(const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list args;

	va_start(args, fmt);
	vaf.va = &args;
	pr_err("the previous kernel's table isn't used: %pV; its memory stays reserved\n",
	       &vaf);
	va_end(args);
	return -EINVAL;
}

/* Call @fn for each record in a chain of blocks that iommu_check_chain() has checked. */
static int iommu_walk_chain(u64 head, size_t size, int (*fn)(void *rec, void *data),
			    void *data)
{
	const struct kho_block_header_ser *block;
	void *rec;
	int err;

	for (u64 pa = head; pa; pa = block->next) {
		cond_resched();
		block = phys_to_virt(pa);
		rec = (void *)(block + 1);
		for (u64 i = 0; i < block->count; i++, rec += size) {
			err = fn(rec, data);
			if (err)
				return err;
		}
	}

	return 0;
}

/* No page may be in two chains or domains, or twice in one. */
static int iommu_add_page(u64 pa, u32 domain)
{
	int err = xa_insert(&iommu_incoming_pages, PHYS_PFN(pa), xa_mk_value(domain),
			    GFP_KERNEL);

	if (err == -EBUSY)
		return iommu_table_err("the page at %#llx is used twice", pa);
	return err;
}

static int iommu_check_chain(u64 head, size_t size)
{
	const struct kho_block_header_ser *block;
	struct kho_block_set bs;
	int err;

	kho_block_set_init(&bs, size);
	if (!kho_block_set_can_restore(&bs, head))
		return iommu_table_err("a chain of blocks is broken");

	for (u64 pa = head; pa; pa = block->next) {
		block = phys_to_virt(pa);
		err = iommu_add_page(pa, 0);
		if (err)
			return err;
	}

	return 0;
}

static int iommu_check_domain(void *data, void *arg)
{
	struct iommu_domain_ser *rec = data;
	struct iommu_check *check = arg;
	int err;

	if (!rec->id)
		return 0;
	if (rec->reserved)
		return iommu_table_err("domain %u: impossible flags", rec->id);

	err = xa_insert(&check->domains, rec->id, rec, GFP_KERNEL);
	if (err == -EBUSY)
		return iommu_table_err("two domains %u", rec->id);
	if (err)
		return err;

	return iommu_check_chain(rec->pages, sizeof(struct iommu_page_ser));
}

/* What is checked of the pages of one domain */
struct iommu_check_pages {
	const struct iommu_domain_ser *domain;
	u64 nr_pages;
	bool has_top;
};

static int iommu_check_page(void *data, void *arg)
{
	const struct iommu_page_ser *rec = data;
	struct iommu_check_pages *pages = arg;

	if (kho_preserved_size(rec->phys) != PAGE_SIZE)
		return iommu_table_err("domain %u: no page table at %#llx",
				       pages->domain->id, rec->phys);

	pages->nr_pages++;
	if (rec->phys == pages->domain->top)
		pages->has_top = true;
	return iommu_add_page(rec->phys, pages->domain->id);
}

static int iommu_check_other_page(void *data, void *arg)
{
	const struct iommu_page_ser *rec = data;

	if (kho_preserved_size(rec->phys) != PAGE_SIZE)
		return iommu_table_err("no page of an IOMMU at %#llx", rec->phys);
	return iommu_add_page(rec->phys, 0);
}

static int iommu_check_pages(const struct iommu_domain_ser *rec)
{
	struct iommu_check_pages pages = { .domain = rec };
	int err;

	err = iommu_walk_chain(rec->pages, sizeof(struct iommu_page_ser),
			       iommu_check_page, &pages);
	if (err)
		return err;
	if (pages.nr_pages != rec->nr_pages)
		return iommu_table_err("domain %u: %llu pages, not %llu", rec->id,
				       pages.nr_pages, rec->nr_pages);
	if (!pages.has_top)
		return iommu_table_err("domain %u: its top table isn't among its pages",
				       rec->id);

	return 0;
}

static int iommu_check_rid(void *data, void *arg)
{
	struct iommu_rid_ser *rec = data;
	struct iommu_check *check = arg;
	unsigned long key = (unsigned long)rec->segment << 16 | rec->rid;
	int err;

	if (!rec->domain)
		return 0;
	if (!rec->refcount || rec->driver != IOMMU_SER_INTEL)
		return iommu_table_err("requester ID %#x of segment %#x: impossible values",
				       rec->rid, rec->segment);
	if (!xa_load(&check->domains, rec->domain))
		return iommu_table_err("requester ID %#x of segment %#x: no domain %u",
				       rec->rid, rec->segment, rec->domain);

	err = xa_insert(&check->rids, key, rec, GFP_KERNEL);
	if (err == -EBUSY)
		return iommu_table_err("two requester IDs %#x of segment %#x", rec->rid,
				       rec->segment);
	return err;
}

static int iommu_check_table(struct iommu_check *check, struct iommu_ser *ser)
{
	struct iommu_domain_ser *rec;
	unsigned long id;
	int err;

	err = iommu_add_page(virt_to_phys(ser), 0);
	if (!err)
		err = iommu_check_chain(ser->domains, sizeof(*rec));
	if (!err)
		err = iommu_check_chain(ser->rids, sizeof(struct iommu_rid_ser));
	if (!err)
		err = iommu_check_chain(ser->pages, sizeof(struct iommu_page_ser));
	if (!err)
		err = iommu_walk_chain(ser->domains, sizeof(*rec), iommu_check_domain,
				       check);
	if (err)
		return err;

	xa_for_each(&check->domains, id, rec) {
		err = iommu_check_pages(rec);
		if (err)
			return err;
	}

	err = iommu_walk_chain(ser->pages, sizeof(struct iommu_page_ser),
			       iommu_check_other_page, NULL);
	if (err)
		return err;

	return iommu_walk_chain(ser->rids, sizeof(struct iommu_rid_ser), iommu_check_rid,
				check);
}

/**
 * iommu_incoming_load - Check the table of the previous kernel
 * @pa: physical address of its &struct iommu_ser
 *
 * The memory of a table that fails a check stays reserved: a pointer in it may be wrong
 * and lead to memory that something else uses.
 *
 * Context: may sleep.
 * Return: the table; or NULL, after a message that says what is wrong with it.
 */
struct iommu_ser *iommu_incoming_load(u64 pa)
{
	struct iommu_check check;
	struct iommu_ser *ser;
	int err;

	if (kho_preserved_size(pa) != PAGE_SIZE) {
		iommu_table_err("no preserved memory at %#llx", pa);
		return NULL;
	}

	ser = phys_to_virt(pa);
	if (ser->version != IOMMU_SER_VERSION) {
		iommu_table_err("it has version %u, this kernel reads version %u",
				ser->version, IOMMU_SER_VERSION);
		return NULL;
	}
	if (ser->reserved) {
		iommu_table_err("impossible flags");
		return NULL;
	}

	xa_destroy(&iommu_incoming_pages);
	xa_init(&check.domains);
	xa_init(&check.rids);
	err = iommu_check_table(&check, ser);
	xa_destroy(&check.rids);
	xa_destroy(&check.domains);
	if (err == -ENOMEM)
		iommu_table_err("out of memory");
	if (!err)
		return ser;

	xa_destroy(&iommu_incoming_pages);
	return NULL;
}
EXPORT_SYMBOL_IF_KUNIT(iommu_incoming_load);

static int iommu_free_page(void *data, void *arg)
{
	const struct iommu_page_ser *rec = data;

	folio_put(kho_restore_folio(rec->phys));
	return 0;
}

static void iommu_free_chain(u64 head)
{
	u64 next;

	for (u64 pa = head; pa; pa = next) {
		struct kho_block_header_ser *block = phys_to_virt(pa);

		next = block->next;
		kho_restore_free(block);
	}
}

static int iommu_free_domain(void *data, void *arg)
{
	const struct iommu_domain_ser *rec = data;

	if (!rec->id)
		return 0;

	iommu_walk_chain(rec->pages, sizeof(struct iommu_page_ser), iommu_free_page,
			 NULL);
	iommu_free_chain(rec->pages);
	return 0;
}

struct iommu_walk {
	struct iommu_ser *ser;
	const struct iommu_rid_ser *rid;
	iommu_rid_fn fn;
	void *data;
};

static int iommu_walk_domain(void *rec, void *arg)
{
	const struct iommu_domain_ser *domain = rec;
	struct iommu_walk *walk = arg;

	return domain->id == walk->rid->domain ? walk->fn(walk->rid, domain, walk->data) : 0;
}

static int iommu_walk_rid(void *rec, void *arg)
{
	struct iommu_walk *walk = arg;

	walk->rid = rec;
	if (!walk->rid->domain)
		return 0;
	return iommu_walk_chain(walk->ser->domains, sizeof(struct iommu_domain_ser),
				iommu_walk_domain, walk);
}

/**
 * iommu_incoming_walk_rids - Call a function for each requester ID, with its domain
 * @ser:  what iommu_incoming_load() returned
 * @fn:   the function; if it doesn't return 0, it isn't called again
 * @data: for @fn
 *
 * Context: may sleep.
 * Return: 0, or what @fn returned.
 */
int iommu_incoming_walk_rids(struct iommu_ser *ser, iommu_rid_fn fn, void *data)
{
	struct iommu_walk walk = { .ser = ser, .fn = fn, .data = data };

	return iommu_walk_chain(ser->rids, sizeof(struct iommu_rid_ser), iommu_walk_rid,
				&walk);
}

/**
 * iommu_incoming_reach_table - Check what a page table leads to
 * @phys:   physical address of what should be another page table
 * @domain: the number of its domain
 *
 * Context: boot, after iommu_incoming_load(). May sleep.
 * Return: true if there is a page table of @domain, and this is the first call for it.
 */
bool iommu_incoming_reach_table(phys_addr_t phys, u32 domain)
{
	unsigned long pfn = PHYS_PFN(phys);

	if (xa_load(&iommu_incoming_pages, pfn) != xa_mk_value(domain) ||
	    xa_get_mark(&iommu_incoming_pages, pfn, IOMMU_PAGE_REACHED))
		return false;

	xa_set_mark(&iommu_incoming_pages, pfn, IOMMU_PAGE_REACHED);
	return true;
}

/**
 * iommu_incoming_has_page - Check whether memory is part of the table
 * @phys: physical address
 * @size: size in bytes, not 0
 *
 * Context: boot, after iommu_incoming_load().
 * Return: true if a page table, or another page of the table, is there.
 */
bool iommu_incoming_has_page(phys_addr_t phys, size_t size)
{
	unsigned long pfn = PHYS_PFN(phys);

	return xa_find(&iommu_incoming_pages, &pfn, PHYS_PFN(phys + size - 1), XA_PRESENT);
}

/**
 * iommu_incoming_free - Free a table, and the page tables that it leads to
 * @ser: what iommu_incoming_load() returned; no device uses any of the page tables
 *
 * What was consistent then may be so no more: a damaged table could lead to memory that
 * has been given to somebody else since. It is checked again.
 *
 * Context: may sleep.
 */
void iommu_incoming_free(struct iommu_ser *ser)
{
	if (!iommu_incoming_load(virt_to_phys(ser)))
		return;

	iommu_walk_chain(ser->domains, sizeof(struct iommu_domain_ser), iommu_free_domain,
			 NULL);
	iommu_walk_chain(ser->pages, sizeof(struct iommu_page_ser), iommu_free_page, NULL);
	iommu_free_chain(ser->domains);
	iommu_free_chain(ser->rids);
	iommu_free_chain(ser->pages);
	kho_restore_free(ser);
	xa_destroy(&iommu_incoming_pages);
}
EXPORT_SYMBOL_IF_KUNIT(iommu_incoming_free);
