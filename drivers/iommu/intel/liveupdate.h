/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef __INTEL_IOMMU_LIVEUPDATE_H
#define __INTEL_IOMMU_LIVEUPDATE_H

#include <linux/kho/abi/iommu.h>
#include <linux/types.h>

#include "iommu.h"

static inline bool intel_rid_is_of(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	return rec->driver == IOMMU_SER_INTEL && rec->intel.unit == iommu->reg_phys;
}

/* Scalable mode: the old kernel */
int intel_handover_alloc_pasid(struct context_entry *context);
void intel_handover_copy_pasid(struct intel_iommu *iommu, struct iommu_rid_ser *rec,
			       const struct iommu_domain_ser *domain,
			       const struct context_entry *live,
			       struct context_entry *context);

/* Scalable mode: the next kernel */
void *intel_kept_alloc_pasid(struct intel_iommu *iommu, const struct iommu_rid_ser *rec,
			     const struct iommu_domain_ser *domain);
void intel_kept_free_pasid(void *dir);
struct context_entry intel_kept_pasid_context(const struct iommu_rid_ser *rec, void *dir);

#endif /* __INTEL_IOMMU_LIVEUPDATE_H */
