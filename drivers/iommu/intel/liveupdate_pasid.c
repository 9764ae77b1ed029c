// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Scalable mode: PASID tables between the kernels, and until a device is finished. They have
 * one entry, that of requests without PASID. References are to the Virtualization Technology
 * for Directed I/O specification, r5.0.
 */

#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/kho/abi/iommu.h>
#include <linux/sizes.h>

#include "iommu.h"
#include "liveupdate.h"
#include "pasid.h"
#include "../iommu-pages.h"
#include "../liveupdate.h"

/* Of the first 64 bits of a context entry: sec 9.4 */
#define INTEL_CONTEXT_DTE	BIT_ULL(2)

/* Of the second 64 bits of a PASID table entry: sec 9.6 */
#define INTEL_PASID_PWSNP	BIT_ULL(23)
#define INTEL_PASID_PGSNP	BIT_ULL(24)

/* The entry of %IOMMU_NO_PASID, which is the first one of the first table. */
static struct pasid_entry *intel_first_pasid(u64 context_lo)
{
	return get_pasid_table_from_pde(phys_to_virt(context_lo & VTD_PAGE_MASK));
}

static void intel_set_pasid_table(struct pasid_dir_entry *dir, struct pasid_entry *table)
{
	dir->val = virt_to_phys(table) | PASID_PTE_PRESENT;
}

/**
 * intel_handover_alloc_pasid - Make room for a PASID table
 * @context: entry of the root table that is handed over. On return it leads to a PASID table
 *           with no entry, but isn't present.
 *
 * Context: called from &iommu_ops.liveupdate_rid. May sleep.
 * Return: 0; -ENOMEM, -ENOSPC.
 */
int intel_handover_alloc_pasid(struct context_entry *context)
{
	struct pasid_dir_entry *dir;
	struct pasid_entry *table;

	/* What is there is from an earlier attempt to preserve the device */
	if (!context->lo) {
		dir = iommu_liveupdate_alloc_page();
		if (IS_ERR(dir))
			return PTR_ERR(dir);
		context->lo = virt_to_phys(dir);
	}

	dir = phys_to_virt(context->lo);
	if (pasid_pde_is_present(dir))
		return 0;

	table = iommu_liveupdate_alloc_page();
	if (IS_ERR(table))
		return PTR_ERR(table);
	intel_set_pasid_table(dir, table);
	return 0;
}

/**
 * intel_handover_copy_pasid - Copy how a device is translated, and record that
 * @iommu:   unit
 * @rec:     record of the device's requester ID
 * @domain:  record of the page tables that are kept
 * @live:    context entry of the device; if it doesn't lead to @domain, nothing is done
 * @context: entry of the root table that is handed over
 *
 * Context: shutdown, on the last CPU.
 */
void intel_handover_copy_pasid(struct intel_iommu *iommu, struct iommu_rid_ser *rec,
			       const struct iommu_domain_ser *domain,
			       const struct context_entry *live,
			       struct context_entry *context)
{
	struct pasid_entry *pte = intel_first_pasid(live->lo);
	struct pasid_entry *copy = intel_first_pasid(context->lo);
	bool first = rec->intel.mode == INTEL_IOMMU_SER_FIRST_STAGE;

	if (!pte || !pasid_pte_is_present(pte) ||
	    pasid_pte_get_pgtt(pte) != (first ? PASID_ENTRY_PGTT_FL_ONLY :
						PASID_ENTRY_PGTT_SL_ONLY) ||
	    (pte->val[first ? 2 : 0] & VTD_PAGE_MASK) != domain->top)
		return;

	*copy = *pte;
	__iommu_flush_cache(iommu, copy, sizeof(*copy));
	/* RID_PASID is IOMMU_NO_PASID: sec 9.4 */
	context->lo |= (live->lo & INTEL_CONTEXT_DTE) | 1;
	__iommu_flush_cache(iommu, phys_to_virt(context->lo & VTD_PAGE_MASK),
			    sizeof(struct pasid_dir_entry));

	rec->intel.flags = INTEL_IOMMU_SER_PRESENT;
	if (live->lo & INTEL_CONTEXT_DTE)
		rec->intel.flags |= INTEL_IOMMU_SER_DTE;
	if (pte->val[1] & INTEL_PASID_PWSNP)
		rec->intel.flags |= INTEL_IOMMU_SER_PWSNP;
	if (pte->val[1] & INTEL_PASID_PGSNP)
		rec->intel.flags |= INTEL_IOMMU_SER_PGSNP;
	rec->intel.domain_id = pasid_get_domain_id(pte);
	rec->intel.address_width = first ? pte->val[2] >> 2 & 3 : pte->val[0] >> 2 & 7;
}

static void intel_kept_set_pasid(struct intel_iommu *iommu, struct pasid_entry *pte,
				 const struct iommu_rid_ser *rec,
				 const struct iommu_domain_ser *domain)
{
	pasid_set_domain_id(pte, rec->intel.domain_id);
	pasid_set_page_snoop(pte, rec->intel.flags & INTEL_IOMMU_SER_PWSNP);
	if (rec->intel.flags & INTEL_IOMMU_SER_PGSNP)
		pasid_set_pgsnp(pte);

	if (rec->intel.mode == INTEL_IOMMU_SER_FIRST_STAGE) {
		pasid_set_flptr(pte, domain->top);
		pasid_set_flpm(pte, rec->intel.address_width);
		pasid_set_address_width(pte, iommu->agaw);
		pasid_set_translation_type(pte, PASID_ENTRY_PGTT_FL_ONLY);
	} else {
		pasid_set_slptr(pte, domain->top);
		pasid_set_address_width(pte, rec->intel.address_width);
		pasid_set_translation_type(pte, PASID_ENTRY_PGTT_SL_ONLY);
	}

	pasid_set_present(pte);
}

/**
 * intel_kept_alloc_pasid - Allocate a PASID table that leads to the previous kernel's tables
 * @iommu:  unit
 * @rec:    record of a requester ID, whose fields have been checked
 * @domain: record of its page tables
 *
 * Context: boot. May sleep.
 * Return: the PASID directory; NULL if there is no memory.
 */
void *intel_kept_alloc_pasid(struct intel_iommu *iommu, const struct iommu_rid_ser *rec,
			     const struct iommu_domain_ser *domain)
{
	struct pasid_dir_entry *dir;
	struct pasid_entry *table;

	dir = iommu_alloc_pages_node_sz(iommu->node, GFP_KERNEL, SZ_4K);
	if (!dir)
		return NULL;
	table = iommu_alloc_pages_node_sz(iommu->node, GFP_KERNEL, SZ_4K);
	if (!table) {
		iommu_free_pages(dir);
		return NULL;
	}

	intel_kept_set_pasid(iommu, table, rec, domain);
	intel_set_pasid_table(dir, table);
	__iommu_flush_cache(iommu, table, SZ_4K);
	__iommu_flush_cache(iommu, dir, SZ_4K);
	return dir;
}

/**
 * intel_kept_free_pasid - Free a PASID table
 * @dir: what intel_kept_alloc_pasid() returned; no hardware uses it
 *
 * Context: any.
 */
void intel_kept_free_pasid(void *dir)
{
	iommu_free_pages(get_pasid_table_from_pde(dir));
	iommu_free_pages(dir);
}

/**
 * intel_kept_pasid_context - Make a context entry that leads to a PASID table
 * @rec: record of the requester ID
 * @dir: what intel_kept_alloc_pasid() returned
 *
 * Return: the lower half of the entry; the upper one is zero (sec 9.4). One page has the
 * smallest directory that there is.
 */
struct context_entry intel_kept_pasid_context(const struct iommu_rid_ser *rec, void *dir)
{
	struct context_entry context = { .lo = virt_to_phys(dir) | 1 };

	if (rec->intel.flags & INTEL_IOMMU_SER_DTE)
		context.lo |= INTEL_CONTEXT_DTE;
	return context;
}
