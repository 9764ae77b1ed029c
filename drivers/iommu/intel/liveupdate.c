// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What VT-d tells the next kernel about the devices whose translation it hands over.
 */

#include <linux/iommu.h>
#include <linux/kho/abi/iommu.h>

#include "iommu.h"

/**
 * intel_iommu_liveupdate_rid - Fill in VT-d's part of the record of a requester ID
 * @dev:    device that uses the requester ID
 * @domain: domain that @dev is attached to
 * @rec:    record
 *
 * Context: may sleep.
 * Return: 0; -EOPNOTSUPP in scalable mode, whose tables have more levels than are
 * recorded.
 */
int intel_iommu_liveupdate_rid(struct device *dev, struct iommu_domain *domain,
			       struct iommu_rid_ser *rec)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct dmar_domain *dmar_domain = to_dmar_domain(domain);
	struct pt_iommu_vtdss_hw_info pt_info;

	if (sm_supported(info->iommu) || !intel_domain_is_ss_paging(dmar_domain))
		return -EOPNOTSUPP;

	pt_iommu_vtdss_hw_info(&dmar_domain->sspt, &pt_info);
	rec->intel = (struct intel_iommu_rid_ser){
		.unit = info->iommu->reg_phys,
		.domain_id = domain_id_iommu(dmar_domain, info->iommu),
		.address_width = pt_info.aw,
	};
	return 0;
}
