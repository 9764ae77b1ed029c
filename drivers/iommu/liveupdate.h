/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef __IOMMU_LIVEUPDATE_H
#define __IOMMU_LIVEUPDATE_H

#include <linux/types.h>

struct iommu_ser;

struct iommu_ser *iommu_incoming_load(u64 pa);
void iommu_incoming_free(struct iommu_ser *ser);

#endif /* __IOMMU_LIVEUPDATE_H */
