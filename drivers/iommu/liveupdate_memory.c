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
#include <linux/align.h>
#include <linux/cleanup.h>
#include <linux/err.h>
#include <linux/generic_pt/iommu.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/iommu.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pfn.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "liveupdate.h"

/**
 * struct iommu_held - A domain of the previous kernel, whose memory is held
 * @id:        its number
 * @format:    for @visit
 * @top:       physical address of its top table
 * @visit:     goes through its page tables
 * @nr_rids:   number of requester IDs that use it; under iommu_held_mutex
 * @nr_leaves: so many leaves have references on their memory, in the order of @visit
 * @node:      in iommu_held_unused once @nr_rids is 0
 */
struct iommu_held {
	u32 id;
	u32 format;
	u64 top;
	iommu_visit_fn visit;
	unsigned int nr_rids;
	u64 nr_leaves;
	struct list_head node;
};

/*
 * Protects what is below. Taken with the lock of the tables or the mutex of an IOMMU group
 * held. References are taken with it held: that is only at boot. A guest may have millions
 * of leaves, so references are put without any lock.
 */
static DEFINE_MUTEX(iommu_held_mutex);

/* Domains by their number */
static DEFINE_XARRAY(iommu_held_domains);

/* Domains by the segments and requester IDs that use them */
static DEFINE_XARRAY(iommu_held_rids);

/* Domains that no requester ID uses */
static LIST_HEAD(iommu_held_unused);

/**
 * struct iommu_held_walk - A walk through the page tables of a domain
 * @visitor: what is called
 * @held:    the domain
 * @phys:    what is wrong is at this address
 */
struct iommu_held_walk {
	struct pt_iommu_visitor visitor;
	struct iommu_held *held;
	phys_addr_t phys;
};

static unsigned long iommu_held_key(u32 segment, u16 rid)
{
	return (unsigned long)segment << 16 | rid;
}

/* A damaged table may lead to anywhere, or to itself. */
static int iommu_hold_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);

	cond_resched();
	walk->phys = paddr;
	return iommu_incoming_reach_table(paddr, walk->held->id) ? 0 : -EINVAL;
}

/* If a device could write to a page table, that couldn't be trusted when references are put. */
static int iommu_hold_leaf(struct pt_iommu_visitor *visitor, phys_addr_t paddr, size_t size)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);
	int err;

	walk->phys = paddr;
	if (!IS_ALIGNED(paddr, size) || iommu_incoming_has_page(paddr, size))
		return -EINVAL;

	err = kho_get_preserved(paddr, size);
	if (!err)
		walk->held->nr_leaves++;
	return err;
}

/* Ends where iommu_hold_table() has refused a table that was reached before. */
static int iommu_put_table(struct pt_iommu_visitor *visitor, phys_addr_t paddr)
{
	struct iommu_held_walk *walk = container_of(visitor, struct iommu_held_walk, visitor);

	cond_resched();
	return walk->held->nr_leaves ? 0 : -ECANCELED;
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

/* Nobody but the caller knows @held any more. */
static void iommu_held_free(struct iommu_held *held)
{
	struct iommu_held_walk walk = {
		.visitor = { .table = iommu_put_table, .leaf = iommu_put_leaf },
		.held = held,
	};

	if (held->nr_leaves)
		held->visit(held->top, held->format, &walk.visitor);
	kfree(held);
}

static void iommu_held_free_unused(struct work_struct *work)
{
	struct iommu_held *held, *next;
	LIST_HEAD(unused);

	scoped_guard(mutex, &iommu_held_mutex)
		list_splice_init(&iommu_held_unused, &unused);

	list_for_each_entry_safe(held, next, &unused, node)
		iommu_held_free(held);
}

static DECLARE_WORK(iommu_held_work, iommu_held_free_unused);

/* Wait until the memory of domains that no requester ID uses is put. */
VISIBLE_IF_KUNIT void iommu_held_flush(void)
{
	flush_work(&iommu_held_work);
}
EXPORT_SYMBOL_IF_KUNIT(iommu_held_flush);

static void iommu_held_put(struct iommu_held *held)
{
	lockdep_assert_held(&iommu_held_mutex);

	if (--held->nr_rids)
		return;

	xa_erase(&iommu_held_domains, held->id);
	list_add_tail(&held->node, &iommu_held_unused);
	queue_work(system_dfl_wq, &iommu_held_work);
}

static const char *iommu_hold_error(int err)
{
	switch (err) {
	case -ENOENT:
		return "where nothing is preserved for it";
	case -EOVERFLOW:
		return "more often than can be counted";
	default:
		return "which is impossible";
	}
}

static int iommu_held_fill(struct iommu_held *held)
{
	struct iommu_held_walk walk = {
		.visitor = { .table = iommu_hold_table, .leaf = iommu_hold_leaf },
		.held = held,
	};
	int err = held->visit(held->top, held->format, &walk.visitor);

	if (err)
		pr_err("domain %u: its page tables lead to %pa, %s\n", held->id, &walk.phys,
		       iommu_hold_error(err));
	return err;
}

static struct iommu_held *iommu_held_new(const struct iommu_domain_ser *domain, u32 format,
					 iommu_visit_fn visit)
{
	struct iommu_held *held = kzalloc_obj(*held);
	int err;

	if (!held)
		return ERR_PTR(-ENOMEM);

	*held = (struct iommu_held){
		.id = domain->id, .format = format, .top = domain->top, .visit = visit,
	};
	err = iommu_held_fill(held);
	if (!err)
		err = xa_err(xa_store(&iommu_held_domains, held->id, held, GFP_KERNEL));
	if (err) {
		iommu_held_free(held);
		return ERR_PTR(err);
	}

	return held;
}

static struct iommu_held *iommu_held_get(const struct iommu_domain_ser *domain, u32 format,
					 iommu_visit_fn visit)
{
	struct iommu_held *held = xa_load(&iommu_held_domains, domain->id);

	if (!held)
		held = iommu_held_new(domain, format, visit);
	if (IS_ERR(held))
		return held;

	if (held->format != format) {
		pr_err("domain %u: its page tables have two formats\n", domain->id);
		return ERR_PTR(-EINVAL);
	}

	held->nr_rids++;
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
 * what they map was preserved, and isn't part of the table.
 *
 * Context: boot, before any of the memory can be restored. May sleep.
 * Return: 0; -EINVAL or -ENOENT if the page tables are damaged, -EOVERFLOW if they map a page
 * millions of times, -ENOMEM: then nothing is held for @rec, and it may do no DMA. A message
 * says what is wrong.
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
 * The references are put a little later, and before iommu_held_put_all() returns.
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

	scoped_guard(mutex, &iommu_held_mutex) {
		xa_for_each(&iommu_held_rids, key, held) {
			xa_erase(&iommu_held_rids, key);
			iommu_held_put(held);
		}
	}

	iommu_held_flush();
}
