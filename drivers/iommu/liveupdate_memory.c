// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * The memory that devices reach through the page tables of the previous kernel. Its owner
 * may free it as soon as the owner has got it back, and the devices go on until they are
 * finished. So the IOMMU core has references on all of it before anybody can get it back.
 */

#define pr_fmt(fmt) "iommu: liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/generic_pt/iommu.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/iommu.h>
#include <linux/limits.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pfn.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "liveupdate.h"

/**
 * struct iommu_held - A domain of the previous kernel, whose memory is held
 * @domain:    its record
 * @format:    for @visit
 * @visit:     goes through its page tables
 * @nr_rids:   number of requester IDs that use it
 * @nr_leaves: so many leaves have references on their memory, in the order of @visit
 */
struct iommu_held {
	const struct iommu_domain_ser *domain;
	u32 format;
	iommu_visit_fn visit;
	unsigned int nr_rids;
	u64 nr_leaves;
};

/*
 * Protects what is below. Taken with the lock of the tables or the mutex of an IOMMU group
 * held; KHO's locks are taken with it held.
 */
static DEFINE_MUTEX(iommu_held_mutex);

/* Domains by the segments and requester IDs that use them */
static DEFINE_XARRAY(iommu_held_rids);

/**
 * struct iommu_held_walk - A walk through the page tables of a domain
 * @visitor: what is called
 * @held:    the domain
 * @tables:  frame numbers of its page tables that the walk hasn't come to yet
 * @phys:    what is wrong is at this address
 */
struct iommu_held_walk {
	struct pt_iommu_visitor visitor;
	struct iommu_held *held;
	struct xarray tables;
	phys_addr_t phys;
};

static unsigned long iommu_held_key(u32 segment, u16 rid)
{
	return (unsigned long)segment << 16 | rid;
}

static int iommu_held_visit(struct iommu_held_walk *walk)
{
	struct iommu_held *held = walk->held;

	return held->visit(held->domain->top, held->format, &walk->visitor);
}

static int iommu_add_table(const struct iommu_page_ser *rec, void *data)
{
	return xa_err(xa_store(data, PHYS_PFN(rec->phys), xa_mk_value(0), GFP_KERNEL));
}

/* A damaged table may lead to anywhere, or to itself. */
static int iommu_hold_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);

	cond_resched();
	if (xa_erase(&walk->tables, PHYS_PFN(paddr)))
		return 0;

	walk->phys = paddr;
	return -EINVAL;
}

static int iommu_hold_leaf(struct pt_iommu_visitor *visitor, phys_addr_t paddr, size_t size)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);
	int err = kho_get_preserved(paddr, size);

	if (err)
		walk->phys = paddr;
	else
		walk->held->nr_leaves++;
	return err;
}

/* The table was checked; if somebody else has taken it for his own, it means nothing. */
static int iommu_put_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	cond_resched();
	return kho_preserved_size(paddr) == PAGE_SIZE ? 0 : -EINVAL;
}

static int iommu_put_leaf(struct pt_iommu_visitor *visitor, phys_addr_t paddr, size_t size)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);

	if (!walk->held->nr_leaves)
		return -ECANCELED;

	walk->held->nr_leaves--;
	kho_put_preserved(paddr, size);
	return 0;
}

static void iommu_held_free(struct iommu_held *held)
{
	struct iommu_held_walk walk = {
		.visitor = { .table = iommu_put_table, .leaf = iommu_put_leaf },
		.held = held,
	};

	iommu_held_visit(&walk);
	if (held->nr_leaves)
		pr_warn("domain %u: its page tables have changed; what they map stays reserved\n",
			held->domain->id);
	kfree(held);
}

static void iommu_held_put(struct iommu_held *held)
{
	lockdep_assert_held(&iommu_held_mutex);

	if (!--held->nr_rids)
		iommu_held_free(held);
}

static int iommu_held_fill(struct iommu_held *held)
{
	struct iommu_held_walk walk = {
		.visitor = { .table = iommu_hold_table, .leaf = iommu_hold_leaf },
		.held = held,
		.phys = PHYS_ADDR_MAX,
	};
	int err;

	xa_init(&walk.tables);
	err = iommu_incoming_walk_pages(held->domain, iommu_add_table, &walk.tables);
	if (!err)
		err = iommu_held_visit(&walk);
	xa_destroy(&walk.tables);

	if (walk.phys != PHYS_ADDR_MAX)
		pr_err("domain %u: its page tables lead to %pa, where nothing is preserved for it\n",
		       held->domain->id, &walk.phys);
	return err;
}

/* Return NULL if no requester ID uses @domain yet. */
static struct iommu_held *iommu_held_find(const struct iommu_domain_ser *domain)
{
	struct iommu_held *held;
	unsigned long key;

	xa_for_each(&iommu_held_rids, key, held) {
		if (held->domain == domain)
			return held;
	}

	return NULL;
}

static struct iommu_held *iommu_held_get(const struct iommu_domain_ser *domain, u32 format,
					 iommu_visit_fn visit)
{
	struct iommu_held *held = iommu_held_find(domain);
	int err;

	if (held) {
		if (held->format != format) {
			pr_err("domain %u: its page tables have two formats\n", domain->id);
			return ERR_PTR(-EINVAL);
		}
		held->nr_rids++;
		return held;
	}

	held = kzalloc_obj(*held);
	if (!held)
		return ERR_PTR(-ENOMEM);

	*held = (struct iommu_held){
		.domain = domain, .format = format, .visit = visit, .nr_rids = 1,
	};
	err = iommu_held_fill(held);
	if (err) {
		iommu_held_put(held);
		return ERR_PTR(err);
	}

	return held;
}

/**
 * iommu_liveupdate_hold_memory - Hold what the page tables of a requester ID map
 * @rec:    record of the requester ID
 * @domain: record of its page tables
 * @format: how the driver reads these tables; the same for all that use @domain
 * @visit:  goes through them
 *
 * Everything that @visit comes to is checked: the page tables are those that @domain has, and
 * what they map was preserved.
 *
 * Context: boot, before any of the memory can be restored. May sleep.
 * Return: 0; -EINVAL or -ENOENT if the page tables are damaged, -EOVERFLOW if they map a page
 * millions of times, -ENOMEM: then nothing is held for @rec, and it may do no DMA.
 */
int iommu_liveupdate_hold_memory(const struct iommu_rid_ser *rec,
				 const struct iommu_domain_ser *domain, u32 format,
				 iommu_visit_fn visit)
{
	struct iommu_held *held;
	int err;

	guard(mutex)(&iommu_held_mutex);

	held = iommu_held_get(domain, format, visit);
	if (IS_ERR(held))
		return PTR_ERR(held);

	err = xa_insert(&iommu_held_rids, iommu_held_key(rec->segment, rec->rid), held,
			GFP_KERNEL);
	if (err)
		iommu_held_put(held);
	return err;
}
EXPORT_SYMBOL_IF_KUNIT(iommu_liveupdate_hold_memory);

/**
 * iommu_liveupdate_put_memory - End what iommu_liveupdate_hold_memory() began
 * @segment: PCI segment group
 * @rid:     a requester ID, for which nothing may be held
 *
 * Context: no IOMMU translates @rid by page tables of the previous kernel any more. May sleep.
 */
void iommu_liveupdate_put_memory(u32 segment, u16 rid)
{
	struct iommu_held *held;

	guard(mutex)(&iommu_held_mutex);

	held = xa_erase(&iommu_held_rids, iommu_held_key(segment, rid));
	if (held)
		iommu_held_put(held);
}
EXPORT_SYMBOL_IF_KUNIT(iommu_liveupdate_put_memory);

/**
 * iommu_held_put_all - Put the memory of all requester IDs
 *
 * Context: as in iommu_liveupdate_put_memory(), before the page tables are freed.
 */
void iommu_held_put_all(void)
{
	struct iommu_held *held;
	unsigned long key;

	guard(mutex)(&iommu_held_mutex);

	xa_for_each(&iommu_held_rids, key, held) {
		xa_erase(&iommu_held_rids, key);
		iommu_held_put(held);
	}
}
