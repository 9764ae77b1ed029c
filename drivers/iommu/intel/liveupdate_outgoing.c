// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * The old kernel: what the next one has to know of a requester ID, and the root table that
 * a unit uses between the kernels.
 */

#include <linux/dmar.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/kexec.h>
#include <linux/kho/abi/image.h>
#include <linux/kho/abi/iommu.h>
#include <linux/liveupdate.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>
#include <linux/string.h>

#include "iommu.h"
#include "liveupdate.h"
#include "../liveupdate.h"

/* In scalable mode a table has the entries, which are twice as large, of half a bus. */
static u64 *intel_handover_root_entry(struct intel_iommu *iommu, u16 rid)
{
	struct root_entry *root = &iommu->handover_root[PCI_BUS_NUM(rid)];

	return sm_supported(iommu) && rid & 0x80 ? &root->hi : &root->lo;
}

static struct context_entry *intel_handover_context(struct intel_iommu *iommu, u16 rid)
{
	u64 entry = *intel_handover_root_entry(iommu, rid);
	struct context_entry *context = phys_to_virt(entry & VTD_PAGE_MASK);

	return &context[sm_supported(iommu) ? 2 * (rid & 0x7f) : rid & 0xff];
}

/* Make room for the entries of @rid. At shutdown nothing can be allocated. */
static int intel_handover_alloc(struct intel_iommu *iommu, u16 rid)
{
	u64 *entry;
	void *page;

	/* The root table goes with the table that it is part of */
	if (iommu->handover_table != iommu_liveupdate_table_id()) {
		page = iommu_liveupdate_alloc_page();
		if (IS_ERR(page))
			return PTR_ERR(page);
		iommu->handover_root = page;
		iommu->handover_table = iommu_liveupdate_table_id();
	}

	entry = intel_handover_root_entry(iommu, rid);
	if (!*entry) {
		page = iommu_liveupdate_alloc_page();
		if (IS_ERR(page))
			return PTR_ERR(page);
		*entry = virt_to_phys(page) | 1;
	}

	return sm_supported(iommu) ?
		       intel_handover_alloc_pasid(intel_handover_context(iommu, rid)) : 0;
}

static u8 intel_handover_mode(struct intel_iommu *iommu, struct dmar_domain *domain)
{
	if (!sm_supported(iommu))
		return INTEL_IOMMU_SER_LEGACY;

	return intel_domain_is_fs_paging(domain) ? INTEL_IOMMU_SER_FIRST_STAGE :
						   INTEL_IOMMU_SER_SECOND_STAGE;
}

static bool intel_can_hand_over(struct device_domain_info *info, u16 rid)
{
	struct intel_iommu *iommu = info->iommu;
	bool own = rid == PCI_DEVID(info->bus, info->devfn);

	/*
	 * A switch invalidates what the device has cached whose requester ID it is. The next
	 * kernel can't answer page requests to this one.
	 */
	if ((info->ats_enabled && !own) || info->pri_enabled)
		return false;

	/* In scalable mode the alias of a bridge isn't translated for the device below it */
	return sm_supported(iommu) ? own : vtd_can_replace_128();
}

/**
 * intel_iommu_liveupdate_rid - Fill in VT-d's part of the record of a requester ID
 * @dev:    device that uses the requester ID
 * @domain: domain that @dev is attached to
 * @rec:    record
 *
 * What changes before the kexec, intel_liveupdate_hand_over() fills in.
 *
 * Context: called by the IOMMU core with the lock of its table held. May sleep.
 * Return: 0; -EOPNOTSUPP for a device with page requests enabled, or with ATS enabled and another
 * requester ID than its own, in scalable mode for a device behind a conventional bridge, and in
 * legacy mode if the CPU has no CMPXCHG16B; -EBUSY if the requester ID is still translated by
 * page tables of the previous kernel; -ENOMEM, -ENOSPC.
 */
int intel_iommu_liveupdate_rid(struct device *dev, struct iommu_domain *domain,
			       struct iommu_rid_ser *rec)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct intel_iommu *iommu = info->iommu;
	int err;

	if (!intel_can_hand_over(info, rec->rid))
		return -EOPNOTSUPP;
	/* What would be handed over isn't what the device is attached to */
	if (context_copied(iommu, PCI_BUS_NUM(rec->rid), rec->rid & 0xff)) {
		dev_warn(dev, "liveupdate: not preserved: the last live update of a device that shares its requester ID isn't over\n");
		return -EBUSY;
	}

	err = intel_handover_alloc(iommu, rec->rid);
	if (err)
		return err;

	rec->driver = IOMMU_SER_INTEL;
	rec->intel = (struct intel_iommu_rid_ser){
		.unit = iommu->reg_phys,
		.root = virt_to_phys(iommu->handover_root),
		.mode = intel_handover_mode(iommu, to_dmar_domain(domain)),
	};
	return 0;
}

struct intel_handover {
	struct intel_iommu *iommu;
	unsigned int nr_rids;
};

static void intel_handover_copy_context(struct iommu_rid_ser *rec,
					const struct iommu_domain_ser *domain,
					const struct context_entry *live,
					struct context_entry *copy)
{
	if ((live->lo & VTD_PAGE_MASK) != domain->top)
		return;

	*copy = *live;
	rec->intel.flags = live->lo & ~VTD_PAGE_MASK;
	rec->intel.domain_id = context_domain_id(copy);
	rec->intel.address_width = live->hi & 7;
}

/* Copy the live entry of one device, unless it doesn't lead to the tables that are kept. */
static void intel_handover_copy(struct iommu_rid_ser *rec,
				const struct iommu_domain_ser *domain, void *data)
{
	struct intel_handover *handover = data;
	struct intel_iommu *iommu = handover->iommu;
	struct context_entry *live, *copy;

	if (!intel_rid_is_of(rec, iommu))
		return;

	handover->nr_rids++;
	live = iommu_context_addr(iommu, PCI_BUS_NUM(rec->rid), rec->rid & 0xff, 0);
	if (!live || !context_present(live))
		return;

	copy = intel_handover_context(iommu, rec->rid);
	if (sm_supported(iommu))
		intel_handover_copy_pasid(iommu, rec, domain, live, copy);
	else
		intel_handover_copy_context(rec, domain, live, copy);
}

static void intel_handover_flush(struct intel_iommu *iommu)
{
	u64 *entries = (u64 *)iommu->handover_root;

	for (int i = 0; i < VTD_PAGE_SIZE / sizeof(*entries); i++) {
		if (entries[i])
			__iommu_flush_cache(iommu, phys_to_virt(entries[i] & VTD_PAGE_MASK),
					    VTD_PAGE_SIZE);
	}
	__iommu_flush_cache(iommu, entries, VTD_PAGE_SIZE);
}

/* As intel_iommu_setup(), iommu_setup() and parse_acpi() do */
static int intel_image_param(char *param, char *val, const char *doing, void *arg)
{
	bool dmar = parameq(param, "intel_iommu"), *on = arg;
	char *option;

	if (!dmar && !parameq(param, "iommu") && !parameq(param, "acpi"))
		return 0;

	while ((option = strsep(&val, ","))) {
		if (dmar && str_has_prefix(option, "on"))
			on[0] = true;
		else if (str_has_prefix(option, "off"))
			on[!dmar] = false;
	}

	return 0;
}

/**
 * intel_iommu_liveupdate_check_image - Check that the loaded kernel uses VT-d
 *
 * Context: called from &liveupdate_flb_ops.prepare. May sleep.
 * Return: 0; -EOPNOTSUPP if it doesn't; -ENOMEM.
 */
int intel_iommu_liveupdate_check_image(void)
{
	u32 flags = liveupdate_image_flags();
	bool on[2] = {
		flags & LIVEUPDATE_IMAGE_IOMMU || dmar_platform_optin(),
		flags & LIVEUPDATE_IMAGE_INTEL_IOMMU,
	};
	int err = liveupdate_image_params(intel_image_param, on);

	if (err)
		return err;

	return on[0] && on[1] ? 0 : -EOPNOTSUPP;
}

/**
 * intel_liveupdate_hand_over - Leave translation on for preserved devices
 * @iommu: unit that is about to be turned off
 *
 * At any other end of this kernel, a unit that still translates with the page tables of
 * the previous kernel stays on, too: the devices have yet to be stopped.
 *
 * Takes no lock: the CPU that holds it may have been stopped.
 *
 * Context: shutdown, on the last CPU.
 * Return: true if @iommu must not be turned off.
 */
bool intel_liveupdate_hand_over(struct intel_iommu *iommu)
{
	struct intel_handover handover = { .iommu = iommu };

	if (!kexec_in_progress)
		return iommu->kept;
	if (!iommu->handover_root ||
	    iommu->handover_table != iommu_liveupdate_table_id())
		return false;

	iommu_liveupdate_walk_rids(intel_handover_copy, &handover);
	if (!handover.nr_rids)
		return false;

	intel_handover_flush(iommu);

	/* No CPU takes its interrupt; the next kernel reads what was recorded */
	writel(DMA_FECTL_IM, iommu->reg + DMAR_FECTL_REG);

	iommu_flush_write_buffer(iommu);
	iommu->root_entry = iommu->handover_root;
	iommu_set_root_entry(iommu);
	return true;
}
