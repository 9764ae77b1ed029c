// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Devices that the previous kernel has preserved: how enumeration finds and adopts them, what
 * enumeration asks about them, and how finish makes them ordinary.
 */

#define dev_fmt(fmt) "liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/idr.h>
#include <linux/iommu.h>
#include <linux/iommu_liveupdate.h>
#include <linux/liveupdate.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/slab.h>
#include <linux/string_choices.h>
#include <linux/wordpart.h>
#include <linux/xarray.h>

#include "liveupdate.h"
#include "liveupdate_internal.h"
#include "pci.h"

#include <trace/events/pci_liveupdate.h>

/* Records of devices */

static u16 pci_command(struct pci_dev *dev)
{
	u16 cmd;

	pci_read_config_word(dev, PCI_COMMAND, &cmd);
	return PCI_POSSIBLE_ERROR(cmd) ? 0 : cmd;
}

static unsigned long pci_dev_key(struct pci_dev *dev)
{
	return pci_record_key(pci_domain_nr(dev->bus), pci_dev_id(dev));
}

/*
 * Return the record of @dev. Return NULL if there is none, or if enumeration has already
 * found a device at @dev's address: that device may be gone, and @dev another device.
 */
VISIBLE_IF_KUNIT struct pci_dev_ser *pci_incoming_find(struct pci_incoming *in,
						       struct pci_dev *dev)
{
	unsigned long key = pci_dev_key(dev);

	return xa_get_mark(&in->index, key, PCI_RECORD_FOUND) ?
		       NULL : xa_load(&in->index, key);
}

static void pci_incoming_found(struct pci_incoming *in, struct pci_dev *dev)
{
	xa_set_mark(&in->index, pci_dev_key(dev), PCI_RECORD_FOUND);
}

/* From incoming to ordinary */

/**
 * pci_incoming_end - End the incoming state of one device or bridge
 * @dev: an incoming device or bridge; the bridges above it keep their state
 *
 * Context: pci_liveupdate_mutex is held.
 */
void pci_incoming_end(struct pci_dev *dev)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	WRITE_ONCE(dev->liveupdate.incoming, 0);
	kfree(dev->liveupdate.record);
	dev->liveupdate.record = NULL;
	xa_clear_mark(&pci_incoming.index, pci_dev_key(dev), PCI_RECORD_INCOMING);
	trace_pci_liveupdate_finish(dev);
	pci_dbg(dev, "ordinary again\n");
}

static void pci_incoming_release_bridge(struct pci_dev *bridge)
{
	pci_incoming_end(bridge);
	bridge->liveupdate.buses_lost = false;
	pci_liveupdate_queue_restart();
}

static void pci_incoming_put_bridge(struct pci_dev *bridge)
{
	if (bridge->liveupdate.incoming == 1)
		pci_incoming_release_bridge(bridge);
	else
		WRITE_ONCE(bridge->liveupdate.incoming, bridge->liveupdate.incoming - 1);
}

/* Make @dev ordinary, but leave the bridges above it to the caller. */
static void pci_incoming_release(struct pci_dev *dev)
{
	pci_incoming_end(dev);
	/* Whoever gets @dev next must not reach what its last user could reach */
	iommu_liveupdate_finish(&dev->dev);

	pci_incoming_let_go(dev);
}

/**
 * pci_incoming_release_path - Make a device and the bridges that only it needs ordinary
 * @dev: an incoming device
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_incoming_release_path(struct pci_dev *dev)
{
	struct pci_dev *pos = dev;

	lockdep_assert_held(&pci_liveupdate_mutex);

	pci_incoming_release(dev);

	while ((pos = pci_upstream_bridge(pos))) {
		/* All bridges above an adopted device are incoming, but never wrap around. */
		if (pos->liveupdate.incoming)
			pci_incoming_put_bridge(pos);
	}
}

/**
 * pci_liveupdate_quiesce - Stop the DMA of a device, and warn about it
 * @dev: the device
 * @why: what has happened, for the administrator
 *
 * Waits for what the device has read and not got yet: its memory may be somebody else's next.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_liveupdate_quiesce(struct pci_dev *dev, const char *why)
{
	u8 pin;

	lockdep_assert_held(&pci_liveupdate_mutex);

	pci_warn(dev, "DMA stopped: %s; restart its user\n", why);
	pci_clear_master(dev);
	/* Nobody handles its INTx, which would take the line away from others */
	pci_read_config_byte(dev, PCI_INTERRUPT_PIN, &pin);
	if (pin)
		pci_intx(dev, 0);
	if (pci_device_is_present(dev) && !pci_wait_for_pending_transaction(dev))
		pci_warn(dev, "requests are still pending; reset it\n");
}

/* Of one that is still being added pci_incoming_register() takes care. */
static bool pci_is_incoming_bridge(struct pci_dev *dev)
{
	return !pci_is_endpoint(dev) && dev->liveupdate.incoming && dev->liveupdate.held;
}

static void pci_incoming_get_bridges(struct pci_dev *dev)
{
	while ((dev = pci_upstream_bridge(dev))) {
		if (dev->liveupdate.incoming)
			WRITE_ONCE(dev->liveupdate.incoming, dev->liveupdate.incoming + 1);
	}
}

/**
 * pci_incoming_release_all - Make every device and bridge that is still incoming ordinary
 *
 * No driver has finished these devices. Stops their DMA, as the memory that it goes to is
 * about to be used for something else. What a device needs whose finish is deferred stays
 * incoming: bridges are counted anew, as some of the devices below may be missing.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_incoming_release_all(void)
{
	struct pci_dev *dev = NULL;

	lockdep_assert_held(&pci_liveupdate_mutex);

	for_each_pci_dev(dev) {
		if (pci_is_incoming_bridge(dev)) {
			/* Until all are counted */
			WRITE_ONCE(dev->liveupdate.incoming, 1);
		} else if (dev->liveupdate.incoming && pci_is_endpoint(dev) &&
			   !dev->liveupdate.finish_deferred) {
			pci_liveupdate_quiesce(dev, "no driver has finished its live update");
			pci_incoming_release(dev);
		}
	}

	for_each_pci_dev(dev) {
		if (dev->liveupdate.finish_deferred)
			pci_incoming_get_bridges(dev);
	}

	for_each_pci_dev(dev) {
		if (pci_is_incoming_bridge(dev))
			pci_incoming_put_bridge(dev);
	}
}

/* From ordinary to incoming */

/*
 * A reset clears the BARs (PCIe r7.0, sec 7.5.1.2.1) and Command (sec 7.5.1.1.3), and both are
 * clear in a new device. One that decodes address 0 wasn't reset. The reset of a bridge, or of a
 * device without BARs, isn't noticed here.
 */
static bool pci_was_reset(struct pci_dev *dev, const struct pci_dev_ser *rec)
{
	int nr_bars = pci_is_endpoint(dev) ? PCI_STD_NUM_BARS : 0;
	bool has_bars = false;
	u32 bar, mask;

	if (pci_command(dev) & (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER))
		return false;

	for (int i = 0; i < nr_bars; i++) {
		/* The upper half of a 64-bit BAR has no size, and no flag bits. */
		mask = rec->bar_order[i] ? ~0xf : ~0;
		pci_read_config_dword(dev, PCI_BASE_ADDRESS_0 + 4 * i, &bar);
		if (bar & mask)
			return false;
		if (rec->bar_order[i])
			has_bars = true;
	}

	return has_bars;
}

/* A kernel that was told not to access it (pci=nommconf), or can't */
static bool pci_lost_ext_config(struct pci_dev *dev, const struct pci_dev_ser *rec)
{
	return rec->flags & PCI_DEV_SER_EXT_CONFIG && dev->cfg_size <= PCI_CFG_SPACE_SIZE;
}

/**
 * pci_incoming_unfit - Check whether an adopted device is still what its user had
 * @dev: device that may be incoming
 *
 * Somebody may have reset it since its adoption: sysfs refuses to, but not each driver of a
 * device beside it, or program that writes to registers.
 *
 * Context: may sleep.
 * Return: NULL, also if @dev isn't incoming; else what is wrong, for the administrator.
 */
const char *pci_incoming_unfit(struct pci_dev *dev)
{
	const struct pci_dev_ser *rec;

	guard(mutex)(&pci_liveupdate_mutex);

	rec = dev->liveupdate.incoming ? dev->liveupdate.record : NULL;
	if (rec && pci_was_reset(dev, rec))
		return "reset before its user was back";
	if (rec && pci_lost_ext_config(dev, rec))
		return "its extended configuration space isn't there";

	return NULL;
}

static void pci_incoming_adopt_ari(struct pci_dev *bridge)
{
	bool ari = bridge->liveupdate.record->flags & PCI_DEV_SER_ARI;

	bridge->ari_enabled = pci_ari_forwarding(bridge);
	if (bridge->ari_enabled != ari)
		pci_warn(bridge, "ARI Forwarding was %s when it was preserved and is %s; restart the users of the devices below\n",
			 str_on_off(ari), str_on_off(bridge->ari_enabled));
}

static void pci_incoming_adopt_acs(struct pci_dev *dev)
{
	const struct pci_dev_ser *rec = dev->liveupdate.record;
	u16 ctrl;

	if (!dev->acs_cap)
		return;

	pci_read_config_word(dev, dev->acs_cap + PCI_ACS_CTRL, &ctrl);
	dev->liveupdate.acs_ctrl = ctrl;
	dev->liveupdate.acs_adopted = true;

	if (rec->flags & PCI_DEV_SER_ACS && rec->acs_ctrl != ctrl)
		pci_warn(dev, "ACS Control was %#06x when it was preserved and is %#06x; check which devices it isolates\n",
			 rec->acs_ctrl, ctrl);
}

/* DOE mailboxes and IDE streams may be in use, so enumeration doesn't look for any. */
static void pci_incoming_init_unused(struct pci_dev *dev)
{
#ifdef CONFIG_PCI_DOE
	xa_init(&dev->doe_mbs);
#endif
#ifdef CONFIG_PCI_IDE
	ida_init(&dev->ide_stream_ida);
#endif
}

/* As long as the bridge is there, its PTM has one user more. */
static void pci_incoming_adopt_ptm(struct pci_dev *bridge)
{
#ifdef CONFIG_PCIE_PTM
	u32 ctrl = 0;

	if (bridge->ptm_cap)
		pci_read_config_dword(bridge, bridge->ptm_cap + PCI_PTM_CTRL, &ctrl);
	if (ctrl & PCI_PTM_CTRL_ENABLE && !PCI_POSSIBLE_ERROR(ctrl))
		atomic_inc(&bridge->ptm_enable_cnt);
#endif
}

/* Return NULL if @dev is adopted or stopped; otherwise why it may not do any DMA. */
static const char *pci_incoming_adopt(struct pci_incoming *in, struct pci_dev *dev)
{
	struct pci_dev_ser *rec = pci_incoming_find(in, dev);
	struct pci_bus *bus = dev->bus;
	bool bridge;

	/* The previous kernel has stopped all others. In a quarantined boot there is no record */
	if (!rec)
		return "it may be one of the previous kernel's";

	/* With any other header type pci_setup_device() fails, and nobody frees the record */
	bridge = rec->flags & PCI_DEV_SER_BRIDGE;
	if (rec->vendor != dev->vendor || rec->device != dev->device ||
	    dev->hdr_type != (bridge ? PCI_HEADER_TYPE_BRIDGE : PCI_HEADER_TYPE_NORMAL)) {
		pci_incoming_found(in, dev);
		pci_warn(dev, "[%04x:%04x] found instead of the preserved [%04x:%04x], which is lost; restart its user\n",
			 dev->vendor, dev->device, rec->vendor, rec->device);
		return "it isn't the preserved device";
	}

	if (bus->self && !pci_liveupdate_is_incoming(bus->self)) {
		pci_incoming_found(in, dev);
		pci_liveupdate_quiesce(dev, "the bridge above it isn't the preserved one");
		return NULL;
	}

	if (pci_was_reset(dev, rec)) {
		pci_incoming_found(in, dev);
		pci_warn(dev, "reset or replaced since it was preserved; restart its user\n");
		return "it was reset";
	}

	dev->liveupdate.record = kmemdup(rec, sizeof(*rec), GFP_KERNEL);
	if (!dev->liveupdate.record) {
		pci_incoming_found(in, dev);
		pci_liveupdate_quiesce(dev, "no memory to adopt it");
		return NULL;
	}

	if (pci_lost_ext_config(dev, rec))
		pci_warn(dev, "only 256 bytes of its configuration space can be accessed, so that ACS and AER are lost; compare pci= on both command lines\n");
	if (rec->flags & PCI_DEV_SER_BROKEN_INTX)
		dev->broken_intx_masking = 1;
	if (bridge)
		pci_incoming_adopt_ari(dev);
	pci_incoming_init_unused(dev);
	WRITE_ONCE(dev->liveupdate.incoming, rec->refcount);
	return NULL;
}

/* Bus Master Enable of host and ISA bridges may be hard-wired, or somebody else's. */
static bool pci_may_do_dma(struct pci_dev *dev)
{
	u32 class = dev->class >> 8;

	return pci_is_endpoint(dev) && class != PCI_CLASS_BRIDGE_HOST &&
	       class != PCI_CLASS_BRIDGE_ISA && pci_command(dev) & PCI_COMMAND_MASTER;
}

/**
 * pci_liveupdate_setup_device - Check whether a new device is incoming, and mark it
 * @dev: the device that pci_setup_device() is setting up; its vendor ID, device ID and
 *       header type are known, and nothing but Configuration RRS Software
 *       Visibility of a root port was written yet
 *
 * Marks a device or bridge that the previous kernel preserved, so that the rest
 * of enumeration adopts it. As long as there is a table, or a quarantine, stops the DMA of
 * any other endpoint that has bus mastering on: nobody answers for it. So it does in a kernel
 * that has lost the table.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 */
void pci_liveupdate_setup_device(struct pci_dev *dev)
{
	struct pci_incoming *in;
	const char *why;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in)) {
		if (liveupdate_is_lost() && pci_may_do_dma(dev)) {
			guard(mutex)(&pci_liveupdate_mutex);
			pci_liveupdate_quiesce(dev, "what the previous kernel handed over is lost");
		}
		return;
	}

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		why = pci_incoming_adopt(in, dev);
		if (why && pci_may_do_dma(dev))
			pci_liveupdate_quiesce(dev, why);
	}

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
}

/* What the administrator had set in the previous kernel holds on after finish. */
static void pci_incoming_set_override(struct pci_dev *dev)
{
	const struct pci_dev_ser *rec = dev->liveupdate.record;

	if (rec->driver[0] && rec->flags & PCI_DEV_SER_OVERRIDE &&
	    device_set_driver_override(&dev->dev, rec->driver))
		pci_warn(dev, "no memory for its driver_override; set it again\n");
}

VISIBLE_IF_KUNIT void pci_incoming_device_add(struct pci_incoming *in, struct pci_dev *dev)
{
	pci_incoming_found(in, dev);
	xa_set_mark(&in->index, pci_dev_key(dev), PCI_RECORD_INCOMING);
	trace_pci_liveupdate_adopt(dev);
	pci_dbg(dev, "adopted\n");
	pci_incoming_adopt_acs(dev);
	pm_runtime_get_noresume(&dev->dev);
	WRITE_ONCE(dev->liveupdate.held, true);

	if (!pci_is_endpoint(dev)) {
		pci_incoming_adopt_ptm(dev);
		in->nr_bridges++;
		return;
	}

	pci_incoming_set_override(dev);
	in->nr_devices++;
}

/**
 * pci_incoming_register - Take note of an incoming device that the driver core knows
 * @dev: device that is being added, and may be incoming
 *
 * If the last file was finished after enumeration had marked @dev, nobody will finish it: the
 * driver core may not have had it for pci_flb_finish() to find, which passes over bridges that
 * are still being added.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot; no driver can bind yet.
 * May sleep.
 */
void pci_incoming_register(struct pci_dev *dev)
{
	struct pci_incoming *in;

	if (!pci_liveupdate_is_incoming(dev))
		return;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		in = NULL;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		if (dev->liveupdate.incoming && in) {
			pci_incoming_device_add(in, dev);
		} else if (dev->liveupdate.incoming) {
			pci_liveupdate_quiesce(dev, "found after its live update was finished");
			pci_incoming_release(dev);
		}
	}

	if (in)
		liveupdate_flb_put_incoming(&pci_liveupdate_flb);
}

/**
 * pci_liveupdate_match_driver - Check whether a driver may bind to a device
 * @dev: the device, which may be incoming
 * @drv: a PCI driver
 *
 * An incoming device binds only to the driver that it had in the previous kernel: any other one
 * would reset it. Its driver_override is the administrator's. Bridges bind as usual.
 *
 * Context: pci_match_device() calls this function in place of device_match_driver_override().
 * May sleep.
 * Return: as device_match_driver_override(): 1 if @drv may bind, whatever IDs it has; 0 if it may
 * not; -1 if that depends on its IDs.
 */
int pci_liveupdate_match_driver(struct pci_dev *dev, const struct device_driver *drv)
{
	if (pci_liveupdate_is_incoming(dev) && pci_is_endpoint(dev)) {
		guard(mutex)(&pci_liveupdate_mutex);

		if (dev->liveupdate.record)
			return !strcmp(dev->liveupdate.record->driver, drv->name);
	}

	return device_match_driver_override(&dev->dev, drv);
}

static int pci_is_of_another_driver(struct device *dev, void *drv)
{
	struct pci_dev *pdev = dev_is_pci(dev) ? to_pci_dev(dev) : NULL;

	lockdep_assert_held(&pci_liveupdate_mutex);

	return pdev && pdev->liveupdate.incoming && pci_is_endpoint(pdev) &&
	       strcmp(pdev->liveupdate.record->driver, ((struct device_driver *)drv)->name);
}

/**
 * pci_liveupdate_check_group - Check whether a driver may use the DMA API for a device
 * @dev: device that is being bound to such a driver
 *
 * If a device in its IOMMU group is incoming, the group belongs to the driver of that device, be
 * it bound already or not: the user of a vfio device couldn't get it back.
 *
 * Context: the lock of @dev is held. May sleep.
 * Return: 0; -EPROBE_DEFER if @dev must wait until the other device is ordinary.
 */
int pci_liveupdate_check_group(struct pci_dev *dev)
{
	struct iommu_group *group;
	int found;

	group = pci_liveupdate_is_incoming(dev) ? NULL : iommu_group_get(&dev->dev);
	if (!group)
		return 0;

	scoped_guard(mutex, &pci_liveupdate_mutex)
		found = iommu_group_for_each_dev(group, dev->dev.driver, pci_is_of_another_driver);
	iommu_group_put(group);

	return found ? dev_err_probe(&dev->dev, -EPROBE_DEFER,
				     "a device in its IOMMU group waits for its user\n") : 0;
}

/* What enumeration asks */

/* Compute what each BAR would read back after all ones were written to it. */
static void pci_bar_masks(const u8 *order, u32 *masks, int count)
{
	/*
	 * A slot without a size after a slot with a size is the upper half of a
	 * 64-bit BAR, or is unused. __pci_read_base() takes a slot with all ones for
	 * unused.
	 */
	for (int i = 0; i < count; i++) {
		u64 mask = order[i] ? GENMASK_ULL(63, order[i]) : 0;

		if (i && order[i - 1] && !order[i])
			masks[i] = upper_32_bits(GENMASK_ULL(63, order[i - 1]));
		else
			masks[i] = lower_32_bits(mask);
	}
}

/**
 * pci_liveupdate_bar_masks - Get the size masks of BARs without writing to them
 * @dev:   device whose BARs __pci_size_bars() sizes
 * @count: number of BARs
 * @pos:   offset of the first one in configuration space
 * @masks: [OUT] what each BAR would read back after all ones were written to it
 * @rom:   the BAR is the ROM BAR
 *
 * Return: true if @dev is incoming, and @masks was filled in from its record; false
 * if the caller must size the BARs.
 */
bool pci_liveupdate_bar_masks(struct pci_dev *dev, int count, unsigned int pos,
			      u32 *masks, bool rom)
{
	const struct pci_dev_ser *rec = dev->liveupdate.record;

	if (!pci_liveupdate_is_incoming(dev))
		return false;

	if (rom)
		pci_bar_masks(&rec->bar_order[PCI_ROM_RESOURCE], masks, count);
	else if (pos == PCI_BASE_ADDRESS_0)
		pci_bar_masks(rec->bar_order, masks, count);
	else
		pci_bar_masks(rec->vf_bar_order, masks, count);
	return true;
}

#ifdef CONFIG_PCI_IOV
/**
 * pci_liveupdate_max_vf_buses - Find out how many buses virtual functions could need
 * @dev: incoming device that sriov_init() sets up
 *
 * In place of compute_max_vf_buses(), which writes every possible NumVFs.
 *
 * Return: 0; &pci_sriov.max_VF_buses is set from the record, the rest from the device.
 */
int pci_liveupdate_max_vf_buses(struct pci_dev *dev)
{
	struct pci_sriov *iov = dev->sriov;

	iov->max_VF_buses = dev->liveupdate.record->max_vf_buses;
	pci_read_config_word(dev, iov->pos + PCI_SRIOV_VF_OFFSET, &iov->offset);
	pci_read_config_word(dev, iov->pos + PCI_SRIOV_VF_STRIDE, &iov->stride);
	return 0;
}
#endif

/*
 * Claim those resources from @first to @end that @dev decodes. @dev doesn't decode a
 * disabled ROM or the BARs of its virtual functions, and another device may have got
 * their addresses by now.
 */
static void pci_incoming_claim(struct pci_dev *dev, int first, int end)
{
	for (int i = first; i < end; i++) {
		struct resource *res = &dev->resource[i];

		if (!res->flags || !res->start || res->parent ||
		    res->flags & (IORESOURCE_UNSET | IORESOURCE_PCI_FIXED))
			continue;
		if (i == PCI_ROM_RESOURCE && !(res->flags & IORESOURCE_ROM_ENABLE))
			continue;
		if (pci_claim_resource(dev, i))
			pci_warn(dev, "%s isn't available to this kernel, so it can't be enabled; compare pci= on both command lines\n",
				 pci_resource_name(dev, i));
	}
}

static bool pci_has_claimed_window(struct pci_dev *bridge)
{
	for (int i = PCI_BRIDGE_RESOURCES; i < PCI_NUM_RESOURCES; i++) {
		if (bridge->resource[i].parent)
			return true;
	}

	return false;
}

/**
 * pci_liveupdate_claim_resources - Claim the resources of incoming devices on a bus
 * @bus: bus whose devices are known; the devices below its bridges aren't known yet
 *
 * Enumeration calls this function before it assigns addresses to other devices, so that
 * it places those around the claimed ones. Also claims the windows of the bridge to @bus
 * if that bridge is incoming.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot.
 */
void pci_liveupdate_claim_resources(struct pci_bus *bus)
{
	struct pci_dev *bridge = bus->self, *dev;

	if (bridge && pci_liveupdate_is_incoming(bridge)) {
		/* Some architectures read the windows only later */
		if (!bridge->resource[PCI_BRIDGE_MEM_WINDOW].flags &&
		    !pci_has_claimed_window(bridge))
			pci_read_bridge_bases(bus);
		pci_incoming_claim(bridge, PCI_BRIDGE_RESOURCES,
				   PCI_NUM_RESOURCES);
	}

	list_for_each_entry(dev, &bus->devices, bus_list) {
		if (pci_liveupdate_is_incoming(dev))
			pci_incoming_claim(dev, 0, PCI_ROM_RESOURCE + 1);
	}
}

/**
 * pci_liveupdate_bridge_windows - Set which windows a bridge has without writing to them
 * @bridge: bridge whose windows pci_read_bridge_windows() is about to probe
 *
 * Return: true if @bridge is incoming, and its windows were set from its record;
 * false if the caller must probe the windows by writing to them.
 */
bool pci_liveupdate_bridge_windows(struct pci_dev *bridge)
{
	u16 flags;

	if (!pci_liveupdate_is_incoming(bridge))
		return false;

	flags = bridge->liveupdate.record->flags;
	if (flags & PCI_DEV_SER_IO_WINDOW)
		bridge->io_window = 1;
	if (flags & PCI_DEV_SER_PREF_WINDOW)
		bridge->pref_window = 1;
	if (flags & PCI_DEV_SER_PREF_64_WINDOW)
		bridge->pref_64_window = 1;
	return true;
}

/**
 * pci_liveupdate_can_init_sriov - Check whether SR-IOV of a device can be used
 * @dev: device that has the SR-IOV capability
 *
 * Return: false if @dev is incoming and the previous kernel recorded nothing about
 * its virtual functions, as when that kernel was built without SR-IOV.
 */
bool pci_liveupdate_can_init_sriov(struct pci_dev *dev)
{
	return !pci_liveupdate_is_incoming(dev) ||
	       dev->liveupdate.record->flags & PCI_DEV_SER_SRIOV;
}

/* Return where a capability is, and its flags in @val; 0 for both if @dev hasn't got it. */
static u16 pci_find_flags(struct pci_dev *dev, int id, int flags, u16 *val)
{
	u16 pos = pci_find_capability(dev, id);

	*val = 0;
	if (pos)
		pci_read_config_word(dev, pos + flags, val);
	return pos;
}

/**
 * pci_liveupdate_adopt_msi - Take MSI and MSI-X over as they are
 * @dev: device that enumeration sets up
 *
 * In place of pci_msi_init() and pci_msix_init(), which turn both off. pci_incoming_let_go()
 * turns off what the driver of @dev doesn't use.
 *
 * Return: true if @dev is incoming; false if the caller must initialize both.
 */
bool pci_liveupdate_adopt_msi(struct pci_dev *dev)
{
	u16 msi, msix;

	if (!pci_liveupdate_is_incoming(dev))
		return false;

	dev->msi_cap = pci_find_flags(dev, PCI_CAP_ID_MSI, PCI_MSI_FLAGS, &msi);
	if (dev->msi_cap && !(msi & PCI_MSI_FLAGS_64BIT))
		dev->msi_addr_mask = DMA_BIT_MASK(32);
	dev->msix_cap = pci_find_flags(dev, PCI_CAP_ID_MSIX, PCI_MSIX_FLAGS, &msix);

	dev->liveupdate.msi_adopted = msi & PCI_MSI_FLAGS_ENABLE ||
				      msix & PCI_MSIX_FLAGS_ENABLE;
	return true;
}

/**
 * pci_liveupdate_keep_acs - Keep ACS Control as it was adopted
 * @dev: device that pci_enable_acs() is about to configure
 *
 * Writes ACS Control only if a reset has changed it, so never while @dev is incoming.
 *
 * Return: true if the caller must not configure ACS; false if @dev wasn't adopted.
 */
bool pci_liveupdate_keep_acs(struct pci_dev *dev)
{
	u16 ctrl;

	if (!dev->liveupdate.acs_adopted)
		return pci_liveupdate_is_incoming(dev);

	pci_read_config_word(dev, dev->acs_cap + PCI_ACS_CTRL, &ctrl);
	if (ctrl != dev->liveupdate.acs_ctrl && !PCI_POSSIBLE_ERROR(ctrl))
		pci_write_config_word(dev, dev->acs_cap + PCI_ACS_CTRL,
				      dev->liveupdate.acs_ctrl);
	return true;
}
