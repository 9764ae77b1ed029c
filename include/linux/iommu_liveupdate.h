/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#ifndef _LINUX_IOMMU_LIVEUPDATE_H
#define _LINUX_IOMMU_LIVEUPDATE_H

#include <linux/errno.h>
#include <linux/types.h>

struct device;
struct iommu_domain;
struct liveupdate_file_handler;

#ifdef CONFIG_IOMMU_LIVEUPDATE
int iommu_liveupdate_register_flb(struct liveupdate_file_handler *fh);
void iommu_liveupdate_unregister_flb(struct liveupdate_file_handler *fh);
int iommu_liveupdate_preserve(struct device *dev, struct iommu_domain *domain);
void iommu_liveupdate_unpreserve(struct device *dev, struct iommu_domain *domain);
int iommu_liveupdate_freeze(struct device *dev, struct iommu_domain *domain);
int iommu_liveupdate_check_image(struct device *dev);
void iommu_liveupdate_finish(struct device *dev);
void iommu_liveupdate_get_incoming(void);
void iommu_liveupdate_put_incoming(void);
#else
static inline int iommu_liveupdate_register_flb(struct liveupdate_file_handler *fh)
{
	return 0;
}

static inline void iommu_liveupdate_unregister_flb(struct liveupdate_file_handler *fh)
{
}

static inline int iommu_liveupdate_preserve(struct device *dev,
					    struct iommu_domain *domain)
{
	return -EOPNOTSUPP;
}

static inline void iommu_liveupdate_unpreserve(struct device *dev,
					       struct iommu_domain *domain)
{
}

static inline int iommu_liveupdate_freeze(struct device *dev,
					  struct iommu_domain *domain)
{
	return 0;
}

static inline int iommu_liveupdate_check_image(struct device *dev)
{
	return 0;
}

static inline void iommu_liveupdate_finish(struct device *dev)
{
}

static inline void iommu_liveupdate_get_incoming(void)
{
}

static inline void iommu_liveupdate_put_incoming(void)
{
}
#endif

#endif /* _LINUX_IOMMU_LIVEUPDATE_H */
