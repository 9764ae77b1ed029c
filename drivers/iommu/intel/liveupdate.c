// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: VT-d Live Update
 *
 * A context entry says how the requests of one device are translated; in scalable mode it
 * leads to a PASID table, whose first entry does. What the next kernel has to know of them
 * is in a record. Translation is never turned off:
 *
 * shutdown
 *   Each unit that translates for a preserved device gets another root table, with the
 *   context entries of these devices as they are at that moment, and nothing else; in
 *   scalable mode these lead to PASID tables of their own. No other device does DMA from
 *   here on.
 *
 * the next kernel
 *   Before it touches a unit, it checks that the unit uses that root table, in the mode
 *   that this kernel wants. Then it makes its own root table, with entries for these
 *   devices that lead to the page tables of the previous kernel. What these map was
 *   preserved, and isn't freed until finish. Their domain IDs stay reserved until the last
 *   finish.
 *
 * attach
 *   All is prepared, but the context entry stays. So the IOMMU core may attach default
 *   domains, and a user may attach an empty address space, and map its memory afterwards.
 *
 * finish
 *   The context entry is replaced in one store: see domain_context_replace_cb(), and for
 *   scalable mode intel_pasid_replace_sm_context(). If several devices use a requester ID,
 *   the last one's finish does that. A device that isn't attached is blocked.
 *
 * A device that uses ATS has it on all the time: the kernel adopts ATS when it probes the
 * device, and invalidates what the device has cached when the entry is replaced.
 *
 * If a unit can't be taken over, the devices that are waited for are stopped before the
 * unit is.
 */

#define pr_fmt(fmt) "DMAR: liveupdate: " fmt

#include <linux/bitfield.h>
#include <linux/bitmap.h>
#include <linux/bits.h>
#include <linux/cleanup.h>
#include <linux/dmar.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/iommu.h>
#include <linux/kho/abi/iommu.h>
#include <linux/pci-ats.h>
#include <linux/pci.h>
#include <linux/pci_liveupdate.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/xarray.h>

#include "iommu.h"
#include "liveupdate.h"
#include "pasid.h"
#include "../liveupdate.h"

/**
 * struct intel_kept - What a unit has from the previous kernel, until the last finish
 * @dids: domain IDs that are reserved
 * @rids: requester IDs that were adopted, even if they have been switched since. What is
 *        stored is the PASID directory in scalable mode, a value in legacy mode.
 */
struct intel_kept {
	struct xarray dids;
	struct xarray rids;
};

static bool intel_rid_is_live(const struct iommu_rid_ser *rec)
{
	return rec->intel.flags & INTEL_IOMMU_SER_PRESENT;
}

/*
 * A device forgets the translations that it has cached when ATS is turned on again (PCIe
 * r6.0, sec 10.3.8). This kernel may not know of its ATS capability, if it isn't to use it.
 */
static void intel_turn_ats_off(struct pci_dev *pdev)
{
	u16 ats = pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_ATS);
	u16 ctrl;

	if (!ats)
		return;

	pci_read_config_word(pdev, ats + PCI_ATS_CTRL, &ctrl);
	pci_write_config_word(pdev, ats + PCI_ATS_CTRL, ctrl & ~PCI_ATS_CTRL_ENABLE);
}

static void intel_pause(struct pci_dev *pdev, const char *why)
{
	pci_warn(pdev, "liveupdate: DMA paused: %s\n", why);
	pci_clear_master(pdev);
	if (!pci_wait_for_pending_transaction(pdev))
		pci_warn(pdev, "liveupdate: requests are still pending; reset it\n");
	intel_turn_ats_off(pdev);
}

static int intel_rid_is(struct pci_dev *pdev, u16 rid, void *data)
{
	return rid == *(u16 *)data;
}

/* Return the next incoming device after @pdev, whose reference is put, that uses @rid. */
static struct pci_dev *intel_next_user(u32 segment, u16 rid, struct pci_dev *pdev)
{
	for_each_pci_dev(pdev) {
		if (!pci_is_bridge(pdev) && pci_liveupdate_is_incoming(pdev) &&
		    pci_domain_nr(pdev->bus) == segment &&
		    pci_for_each_dma_alias(pdev, intel_rid_is, &rid))
			return pdev;
	}

	return NULL;
}

/* They must not meet their default domain running. */
static void intel_pause_users(const struct iommu_rid_ser *rec, const char *why)
{
	struct pci_dev *pdev = NULL;

	while ((pdev = intel_next_user(rec->segment, rec->rid, pdev)))
		intel_pause(pdev, why);
}

static bool intel_rid_uses_ats(const struct iommu_rid_ser *rec)
{
	u8 flags = rec->intel.flags;

	return rec->intel.mode == INTEL_IOMMU_SER_LEGACY ?
		       (flags >> 2 & 3) == CONTEXT_TT_DEV_IOTLB : flags & INTEL_IOMMU_SER_DTE;
}

/* If this kernel doesn't allow ATS for a device, it can't invalidate what the device caches. */
static bool intel_ats_is_allowed(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	struct pci_dev *pdev = NULL;

	while ((pdev = intel_next_user(rec->segment, rec->rid, pdev))) {
		/* A device that shares its requester ID has no ATS */
		if (pci_dev_id(pdev) == rec->rid &&
		    !(pci_ats_supported(pdev) && dmar_ats_supported(pdev, iommu))) {
			pci_dev_put(pdev);
			return false;
		}
	}

	return true;
}

static bool intel_legacy_flags_ok(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	u8 type = rec->intel.flags >> 2 & 3;

	return !(rec->intel.flags >> 4) &&
	       (type == CONTEXT_TT_MULTI_LEVEL ||
		(type == CONTEXT_TT_DEV_IOTLB && ecap_dev_iotlb_support(iommu->ecap)));
}

/* Without these capabilities the bits are reserved */
static u8 intel_pasid_flags(struct intel_iommu *iommu)
{
	return INTEL_IOMMU_SER_PRESENT |
	       (ecap_smpwc(iommu->ecap) ? INTEL_IOMMU_SER_PWSNP : 0) |
	       (ecap_sc_support(iommu->ecap) ? INTEL_IOMMU_SER_PGSNP : 0) |
	       (ecap_dev_iotlb_support(iommu->ecap) ? INTEL_IOMMU_SER_DTE : 0);
}

static bool intel_flags_ok(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	u8 flags = rec->intel.flags;

	if (memchr_inv(rec->intel.reserved, 0, sizeof(rec->intel.reserved)))
		return false;

	switch (rec->intel.mode) {
	case INTEL_IOMMU_SER_LEGACY:
		return intel_legacy_flags_ok(rec, iommu);
	case INTEL_IOMMU_SER_SECOND_STAGE:
		return ecap_slts(iommu->ecap) &&
		       !(flags & (~intel_pasid_flags(iommu) | INTEL_IOMMU_SER_PGSNP));
	case INTEL_IOMMU_SER_FIRST_STAGE:
		return ecap_flts(iommu->ecap) && !(flags & ~intel_pasid_flags(iommu));
	default:
		return false;
	}
}

static bool intel_width_ok(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	u8 width = rec->intel.address_width;

	if (rec->intel.mode == INTEL_IOMMU_SER_FIRST_STAGE)
		return !width || (width == 1 && cap_fl5lp_support(iommu->cap));

	return width <= 4 && cap_sagaw(iommu->cap) & BIT(width);
}

/* Everything comes from another kernel: nothing may reach the hardware unchecked. */
static const char *intel_rid_check(const struct iommu_rid_ser *rec, struct intel_iommu *iommu)
{
	u64 rtaddr = readq(iommu->reg + DMAR_RTADDR_REG);
	bool legacy = rec->intel.mode == INTEL_IOMMU_SER_LEGACY;
	bool scalable = rtaddr & DMA_RTADDR_SMT;

	if (scalable != sm_supported(iommu))
		return scalable ? "it is to be in legacy mode" :
				  "it is to be in scalable mode";
	if ((rtaddr & VTD_PAGE_MASK) != rec->intel.root)
		return "it uses another root table";
	if (rec->segment != iommu->segment)
		return "it is of another segment";
	if (scalable == legacy || !intel_flags_ok(rec, iommu))
		return "impossible flags";
	if (rec->intel.domain_id < IDA_START_DID ||
	    rec->intel.domain_id >= iommu->max_domain_id)
		return "impossible domain ID";
	if (!intel_width_ok(rec, iommu))
		return "impossible address width";

	return NULL;
}

/* Legacy mode has the same page tables as a second stage. */
#define INTEL_KEPT_FIRST_STAGE	BIT(8)
#define INTEL_KEPT_TOP_LEVEL	GENMASK(7, 0)

/* Of a second stage, width 1 means three levels; of a first stage, 0 means four. */
static u32 intel_kept_format(const struct iommu_rid_ser *rec)
{
	u8 width = rec->intel.address_width;

	if (rec->intel.mode == INTEL_IOMMU_SER_FIRST_STAGE)
		return INTEL_KEPT_FIRST_STAGE | (width + 3);

	return width + 1;
}

static int intel_kept_visit(u64 top, u32 format, struct pt_iommu_visitor *visitor)
{
	u8 top_level = FIELD_GET(INTEL_KEPT_TOP_LEVEL, format);

	if (format & INTEL_KEPT_FIRST_STAGE)
		return pt_iommu_x86_64_visit_top(top, top_level, visitor);

	return pt_iommu_vtdss_visit_top(top, top_level, visitor);
}

/* If this kernel doesn't use the unit of a record, nothing translates for the device. */
static bool intel_rid_has_unit(const struct iommu_rid_ser *rec)
{
	struct dmar_drhd_unit *drhd;
	struct intel_iommu *iommu;

	for_each_active_iommu(iommu, drhd) {
		if (intel_rid_is_of(rec, iommu))
			return true;
	}

	return false;
}

static int intel_kept_add(const struct iommu_rid_ser *rec,
			  const struct iommu_domain_ser *domain, void *data)
{
	struct intel_iommu *iommu = data;
	struct xarray *dids = &iommu->kept->dids;
	const char *why;
	void *other;
	int err;

	if (!intel_rid_has_unit(rec)) {
		pr_err("requester ID %#x of segment %u: no unit at %#llx\n", rec->rid,
		       rec->segment, rec->intel.unit);
		return -EINVAL;
	}
	if (!intel_rid_is_of(rec, iommu))
		return 0;
	if (!intel_rid_is_live(rec)) {
		intel_pause_users(rec, "it was detached before the kexec");
		return 0;
	}

	why = intel_rid_check(rec, iommu);
	if (why) {
		pr_err("%s: %s\n", iommu->name, why);
		return -EINVAL;
	}

	other = xa_cmpxchg(dids, rec->intel.domain_id, NULL, xa_mk_value(domain->id),
			   GFP_KERNEL);
	if (xa_is_err(other))
		return xa_err(other);
	if (other && other != xa_mk_value(domain->id)) {
		pr_err("%s: two domains with one domain ID\n", iommu->name);
		return -EINVAL;
	}
	if (!other) {
		err = ida_alloc_range(&iommu->domain_ida, rec->intel.domain_id,
				      rec->intel.domain_id, GFP_KERNEL);
		if (err < 0) {
			xa_erase(dids, rec->intel.domain_id);
			return err;
		}
	}

	if (intel_rid_uses_ats(rec) && !intel_ats_is_allowed(rec, iommu)) {
		intel_pause_users(rec, "ATS isn't allowed for it any more");
		return 0;
	}

	/* What one user has done to its page tables is no matter of the others */
	if (iommu_liveupdate_hold_memory(rec, domain, intel_kept_format(rec),
					 intel_kept_visit)) {
		intel_pause_users(rec, "what it reaches can't be held");
		return 0;
	}

	return xa_err(xa_store(&iommu->kept->rids, rec->rid, xa_mk_value(0), GFP_KERNEL));
}

/* No device does DMA by way of this unit: it can't be taken over. */
static void intel_kept_put_memory(struct intel_iommu *iommu)
{
	unsigned long rid;
	void *entry;

	xa_for_each(&iommu->kept->rids, rid, entry)
		iommu_liveupdate_put_memory(iommu->segment, rid);
}

static void intel_kept_free(struct intel_iommu *iommu)
{
	unsigned long index;
	void *entry;

	xa_for_each(&iommu->kept->dids, index, entry)
		ida_free(&iommu->domain_ida, index);
	xa_for_each(&iommu->kept->rids, index, entry) {
		if (!xa_is_value(entry))
			intel_kept_free_pasid(entry);
	}
	xa_destroy(&iommu->kept->dids);
	xa_destroy(&iommu->kept->rids);
	kfree(iommu->kept);
	iommu->kept = NULL;
}

/* An entry that still leads to the page tables of the previous kernel */
static void intel_drop_entry(struct intel_iommu *iommu, u16 rid)
{
	u8 bus = PCI_BUS_NUM(rid), devfn = rid & 0xff;
	struct context_entry *context;

	guard(spinlock)(&iommu->lock);

	if (!context_copied(iommu, bus, devfn))
		return;

	context = iommu_context_addr(iommu, bus, devfn, 1);
	if (context)
		copied_context_tear_down(iommu, context, bus, devfn);
	/* That has flushed what legacy mode caches */
	if (sm_supported(iommu)) {
		qi_flush_pasid_cache(iommu, 0, QI_PC_GLOBAL, 0);
		iommu->flush.flush_iotlb(iommu, 0, 0, 0, DMA_TLB_GLOBAL_FLUSH);
	}
}

/**
 * intel_liveupdate_drop_unit - Drop all that a unit has from the previous kernel
 * @iommu: unit, which may have nothing
 *
 * Context: any; iommu->lock isn't held.
 */
void intel_liveupdate_drop_unit(struct intel_iommu *iommu)
{
	unsigned long rid;
	void *entry;

	if (!iommu->kept)
		return;

	xa_for_each(&iommu->kept->rids, rid, entry)
		intel_drop_entry(iommu, rid);
	intel_kept_free(iommu);
}

/* At the last finish, before the page tables are freed */
static void intel_liveupdate_release(void)
{
	struct dmar_drhd_unit *drhd;
	struct intel_iommu *iommu;

	guard(rcu)();

	for_each_iommu(iommu, drhd)
		intel_liveupdate_drop_unit(iommu);
}

static bool intel_translation_is_on(void)
{
	struct dmar_drhd_unit *drhd;
	struct intel_iommu *iommu;

	for_each_iommu(iommu, drhd) {
		if (readl(iommu->reg + DMAR_GSTS_REG) & DMA_GSTS_TES)
			return true;
	}

	return false;
}

/**
 * intel_liveupdate_stop_devices - Stop DMA before a unit is turned off
 *
 * What devices have as addresses would be taken for physical ones. Does nothing if no unit
 * translates.
 *
 * Context: boot, with dmar_global_lock held for writing. May sleep.
 */
void intel_liveupdate_stop_devices(void)
{
	struct pci_dev *pdev = NULL;

	if (!intel_translation_is_on())
		return;

	for_each_pci_dev(pdev) {
		if (!pci_is_bridge(pdev) && pci_liveupdate_is_incoming(pdev))
			intel_pause(pdev, "the IOMMU can't be taken over as it is");
	}

	/* Whatever the units used, they don't from here on */
	iommu_liveupdate_set_release(intel_liveupdate_release);
}

/**
 * intel_liveupdate_can_adopt - Check whether a unit was left on for this kernel
 * @iommu: unit that has translation on
 *
 * Stops all devices that this kernel waits for if @iommu can't be taken over.
 *
 * Context: boot, before the driver writes to @iommu. May sleep.
 * Return: true if intel_liveupdate_copy() is to be called.
 */
bool intel_liveupdate_can_adopt(struct intel_iommu *iommu)
{
	int err = -ENOMEM;

	iommu_liveupdate_set_release(intel_liveupdate_release);

	iommu->kept = kzalloc_obj(*iommu->kept);
	if (iommu->kept) {
		xa_init(&iommu->kept->dids);
		xa_init(&iommu->kept->rids);
		err = iommu_liveupdate_walk_incoming(intel_kept_add, iommu);
		if (!err && !xa_empty(&iommu->kept->rids))
			return true;
	}

	/* Nothing is wrong if no device of this unit does DMA */
	if (err)
		intel_liveupdate_stop_devices();
	if (iommu->kept) {
		intel_kept_put_memory(iommu);
		intel_kept_free(iommu);
	}
	return false;
}

static struct context_entry intel_kept_context(const struct iommu_rid_ser *rec,
					       const struct iommu_domain_ser *domain)
{
	struct context_entry context = { .lo = domain->top | rec->intel.flags };

	context_set_domain_id(&context, rec->intel.domain_id);
	context_set_address_width(&context, rec->intel.address_width);
	return context;
}

static int intel_set_kept_context(struct intel_iommu *iommu, u16 rid,
				  struct context_entry entry)
{
	u8 bus = PCI_BUS_NUM(rid), devfn = rid & 0xff;
	struct context_entry *context;

	guard(spinlock)(&iommu->lock);

	context = iommu_context_addr(iommu, bus, devfn, 1);
	if (!context)
		return -ENOMEM;

	*context = entry;
	__iommu_flush_cache(iommu, context, sizeof(*context));
	set_context_copied(iommu, bus, devfn);
	return 0;
}

static int intel_copy_entry(const struct iommu_rid_ser *rec,
			    const struct iommu_domain_ser *domain, void *data)
{
	struct intel_iommu *iommu = data;
	struct context_entry entry;
	void *dir;
	int err;

	/* Nor one that was detached, or whose memory isn't held */
	if (!intel_rid_is_of(rec, iommu) || !xa_load(&iommu->kept->rids, rec->rid))
		return 0;

	if (!sm_supported(iommu)) {
		entry = intel_kept_context(rec, domain);
	} else {
		dir = intel_kept_alloc_pasid(iommu, rec, domain);
		if (!dir)
			return -ENOMEM;
		err = xa_err(xa_store(&iommu->kept->rids, rec->rid, dir, GFP_KERNEL));
		if (err) {
			intel_kept_free_pasid(dir);
			return err;
		}
		entry = intel_kept_pasid_context(rec, dir);
	}

	return intel_set_kept_context(iommu, rec->rid, entry);
}

/**
 * intel_liveupdate_copy - Take over what a unit has from the previous kernel
 * @iommu: unit for which intel_liveupdate_can_adopt() has returned true; it has an empty
 *         root table, which isn't in use yet
 *
 * Context: boot. May sleep.
 * Return: 0; -ENOMEM, after which @iommu must be turned off, and the devices that this
 * kernel waits for are stopped.
 */
int intel_liveupdate_copy(struct intel_iommu *iommu)
{
	int err = -ENOMEM;

	iommu->copied_tables = bitmap_zalloc(BIT_ULL(16), GFP_KERNEL);
	if (iommu->copied_tables)
		err = iommu_liveupdate_walk_incoming(intel_copy_entry, iommu);
	if (!err)
		return 0;

	intel_liveupdate_stop_devices();
	intel_kept_put_memory(iommu);
	intel_liveupdate_drop_unit(iommu);
	bitmap_free(iommu->copied_tables);
	iommu->copied_tables = NULL;
	return err;
}

/**
 * intel_liveupdate_waits - Check whether an entry must stay until a finish
 * @iommu: unit that has the entry
 * @rid:   requester ID
 *
 * If no incoming device uses @rid, its entry isn't of use: that device wasn't found.
 *
 * Context: may sleep.
 * Return: true if @rid is translated by page tables of the previous kernel until
 * intel_iommu_liveupdate_finish() replaces its entry.
 */
bool intel_liveupdate_waits(struct intel_iommu *iommu, u16 rid)
{
	struct pci_dev *pdev;

	if (!iommu->kept || !context_copied(iommu, PCI_BUS_NUM(rid), rid & 0xff))
		return false;

	pdev = intel_next_user(iommu->segment, rid, NULL);
	pci_dev_put(pdev);
	return pdev;
}

static int intel_rid_is_kept(struct pci_dev *pdev, u16 rid, void *data)
{
	return intel_liveupdate_waits(data, rid);
}

/**
 * intel_liveupdate_is_kept - Check whether a device is as the previous kernel left it
 * @dev: device
 *
 * Context: may sleep.
 * Return: true if one of the requester IDs of @dev is translated by page tables of the
 * previous kernel of a live update.
 */
bool intel_liveupdate_is_kept(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);

	return info->iommu->kept && dev_is_pci(dev) &&
	       pci_for_each_dma_alias(to_pci_dev(dev), intel_rid_is_kept, info->iommu);
}

/**
 * intel_liveupdate_adopt_ats - Leave ATS on if the previous kernel uses it
 * @dev: PCI device that is about to be probed
 *
 * Context: may sleep.
 * Return: true if ATS is on, and @dev is as the previous kernel left it.
 */
bool intel_liveupdate_adopt_ats(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);
	struct pci_dev *pdev = to_pci_dev(dev);
	u16 ctrl;

	if (!info->ats_supported || !intel_liveupdate_is_kept(dev))
		return false;

	pci_read_config_word(pdev, pdev->ats_cap + PCI_ATS_CTRL, &ctrl);
	if (ctrl != (PCI_ATS_CTRL_ENABLE | PCI_ATS_CTRL_STU(VTD_PAGE_SHIFT - PCI_ATS_MIN_STU)))
		return false;

	/* Writes to ATS Control what is there */
	iommu_enable_pci_ats(info);
	return info->ats_enabled;
}

/* All that use a requester ID are in one group, and so attached to one domain. */
static void intel_end_entry(struct pci_dev *pdev, u16 rid, struct device_domain_info *info)
{
	struct intel_iommu *iommu = info->iommu;

	if (!context_copied(iommu, PCI_BUS_NUM(rid), rid & 0xff))
		return;

	if (sm_supported(iommu))
		intel_pasid_replace_sm_context(info->dev, rid);
	else if (info->domain)
		domain_context_replace_cb(pdev, rid, info->domain);
	else if (info->domain_attached)
		context_setup_pass_through_cb(pdev, rid, info->dev);
	else
		intel_drop_entry(iommu, rid);

	/* In legacy mode ATS is on only while a device is attached to a paging domain */
	if (!sm_supported(iommu) && !info->domain)
		iommu_disable_pci_ats(info);
}

static int intel_rid_finish(struct pci_dev *pdev, u16 rid, void *data)
{
	struct device_domain_info *info = data;
	struct intel_iommu *iommu = info->iommu;

	if (intel_liveupdate_waits(iommu, rid))
		return 0;

	intel_end_entry(pdev, rid, info);
	/* If that has failed, the memory is held until the unit is released */
	if (!context_copied(iommu, PCI_BUS_NUM(rid), rid & 0xff))
		iommu_liveupdate_put_memory(iommu->segment, rid);
	return 0;
}

/**
 * intel_iommu_liveupdate_finish - End the use of the previous kernel's tables by a device
 * @dev: device that isn't incoming any more
 *
 * From here on @dev uses the domain that it is attached to. If there is none, it is blocked.
 *
 * Context: called by the IOMMU core with the mutex of the group held. May sleep.
 */
void intel_iommu_liveupdate_finish(struct device *dev)
{
	struct device_domain_info *info = dev_iommu_priv_get(dev);

	if (!info || !info->iommu->kept || !dev_is_pci(dev))
		return;

	pci_for_each_dma_alias(to_pci_dev(dev), intel_rid_finish, info);
	if (!intel_liveupdate_is_kept(dev))
		intel_iommu_set_up_ats(dev);
}
