/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef __IOMMU_LIVEUPDATE_H
#define __IOMMU_LIVEUPDATE_H

#include <linux/types.h>

struct iommu_domain_ser;
struct iommu_page_ser;
struct iommu_rid_ser;
struct iommu_ser;
struct pt_iommu_visitor;

/* What drivers call in the old kernel */
void *iommu_liveupdate_alloc_page(void);
u32 iommu_liveupdate_table_id(void);
void iommu_liveupdate_walk_rids(void (*fn)(struct iommu_rid_ser *rec,
					   const struct iommu_domain_ser *domain,
					   void *data),
				void *data);

/* What drivers call in the next kernel */
typedef int (*iommu_rid_fn)(const struct iommu_rid_ser *rec,
			    const struct iommu_domain_ser *domain, void *data);

int iommu_liveupdate_walk_incoming(iommu_rid_fn fn, void *data);
void iommu_liveupdate_set_release(void (*release)(void));

/* Calls the visitor for page tables in a format that only the driver knows */
typedef int (*iommu_visit_fn)(u64 top, u32 format, struct pt_iommu_visitor *visitor);

int iommu_liveupdate_hold_memory(const struct iommu_rid_ser *rec,
				 const struct iommu_domain_ser *domain, u32 format,
				 iommu_visit_fn visit);
void iommu_liveupdate_put_memory(u32 segment, u16 rid);
void iommu_held_put_all(void);

struct iommu_ser *iommu_incoming_load(u64 pa);
void iommu_incoming_free(struct iommu_ser *ser);
int iommu_incoming_walk_rids(struct iommu_ser *ser, iommu_rid_fn fn, void *data);
bool iommu_incoming_reach_table(phys_addr_t phys, u32 domain);
bool iommu_incoming_has_page(phys_addr_t phys, size_t size);

/* Visible only for the KUnit tests */
#if IS_ENABLED(CONFIG_KUNIT)
void iommu_held_flush(void);
#endif

#endif /* __IOMMU_LIVEUPDATE_H */
