// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Devices that the previous kernel has preserved: how enumeration finds and adopts them, what
 * it asks about them, and how they become ordinary.
 */

#define dev_fmt(fmt) "liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/liveupdate.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/string_choices.h>
#include <linux/wordpart.h>
#include <linux/xarray.h>

#include "liveupdate.h"
#include "liveupdate_internal.h"
#include "pci.h"

#include <trace/events/pci_liveupdate.h>

/* No driver has this name: a device that had none stays without one. */
#define PCI_LIVEUPDATE_NO_DRIVER	"none"

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
 * The record of @dev; NULL also if enumeration has found a device at this address
 * before: if that was removed, @dev is another one.
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

/* How they become ordinary */

/**
 * pci_incoming_end - End the incoming state of one device or bridge
 * @dev: the device or bridge, which is incoming; those above it stay what they are
 *
 * Context: pci_liveupdate_mutex is held.
 */
void pci_incoming_end(struct pci_dev *dev)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	WRITE_ONCE(dev->liveupdate.incoming, 0);
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

/* The device is ordinary from here on, whatever happens to its bridges. */
static void pci_incoming_release(struct pci_dev *dev)
{
	pci_incoming_end(dev);

	pci_incoming_let_go(dev);

	if (!dev->liveupdate.override_set)
		return;

	dev->liveupdate.override_set = false;
	if (!(dev->liveupdate.record.flags & PCI_DEV_SER_OVERRIDE))
		device_set_driver_override(&dev->dev, "");
}

/**
 * pci_incoming_release_path - Make a device ordinary, and the bridges that were for it
 * @dev: the device, which is incoming
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_incoming_release_path(struct pci_dev *dev)
{
	struct pci_dev *pos = dev;

	lockdep_assert_held(&pci_liveupdate_mutex);

	pci_incoming_release(dev);

	while ((pos = pci_upstream_bridge(pos))) {
		/* Not adopted if it was replaced during the kexec. */
		if (!pos->liveupdate.incoming)
			continue;
		if (pos->liveupdate.incoming == 1)
			pci_incoming_release_bridge(pos);
		else
			WRITE_ONCE(pos->liveupdate.incoming,
				   pos->liveupdate.incoming - 1);
	}
}

/**
 * pci_liveupdate_quiesce - Stop the DMA of a device, and say so
 * @dev: the device
 * @why: what has happened, for the administrator
 *
 * Context: pci_liveupdate_mutex is held.
 */
void pci_liveupdate_quiesce(struct pci_dev *dev, const char *why)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	pci_warn(dev, "DMA stopped: %s; restart its user\n", why);
	pci_clear_master(dev);
}

/**
 * pci_incoming_release_all - Make every device ordinary that is incoming still
 *
 * The memory that their DMA goes to is about to be used for something else: those that
 * no driver has finished are stopped.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_incoming_release_all(void)
{
	struct pci_dev *dev = NULL;

	lockdep_assert_held(&pci_liveupdate_mutex);

	for_each_pci_dev(dev) {
		if (!dev->liveupdate.incoming)
			continue;
		if (!pci_is_endpoint(dev)) {
			pci_incoming_release_bridge(dev);
			continue;
		}
		pci_liveupdate_quiesce(dev, "no driver has finished its live update");
		pci_incoming_release(dev);
	}
}

/* How enumeration adopts them */

/*
 * A reset clears the BARs (PCIe r7.0, sec 7.5.1.2.1), and a new device comes with
 * BARs that are clear. Of one without BARs nothing can be said.
 */
static bool pci_was_reset(struct pci_dev *dev, const struct pci_dev_ser *rec)
{
	int nr_bars = pci_is_endpoint(dev) ? PCI_STD_NUM_BARS : 0;
	bool has_bars = false;
	u32 bar, mask;

	for (int i = 0; i < nr_bars; i++) {
		/* The upper half of a 64-bit BAR has no size, and no flags. */
		mask = rec->bar_order[i] ? ~0xf : ~0;
		pci_read_config_dword(dev, PCI_BASE_ADDRESS_0 + 4 * i, &bar);
		if (bar & mask)
			return false;
		if (rec->bar_order[i])
			has_bars = true;
	}

	return has_bars;
}

static void pci_incoming_adopt_ari(struct pci_dev *bridge)
{
	bool ari = bridge->liveupdate.record.flags & PCI_DEV_SER_ARI;

	bridge->ari_enabled = pci_ari_forwarding(bridge);
	if (bridge->ari_enabled != ari)
		pci_warn(bridge, "ARI Forwarding was %s when it was preserved and is %s; restart the users of the devices below\n",
			 str_on_off(ari), str_on_off(bridge->ari_enabled));
}

static void pci_incoming_adopt_acs(struct pci_dev *dev)
{
	const struct pci_dev_ser *rec = &dev->liveupdate.record;
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

static void pci_incoming_adopt(struct pci_incoming *in, struct pci_dev *dev)
{
	struct pci_dev_ser *rec = pci_incoming_find(in, dev);
	struct pci_bus *bus = dev->bus;
	bool bridge;

	if (!rec)
		return;

	bridge = rec->flags & PCI_DEV_SER_BRIDGE;
	if (rec->vendor != dev->vendor || rec->device != dev->device ||
	    bridge == pci_is_endpoint(dev)) {
		pci_incoming_found(in, dev);
		pci_warn(dev, "[%04x:%04x] found instead of the preserved [%04x:%04x], which is lost; restart its user\n",
			 dev->vendor, dev->device, rec->vendor, rec->device);
		return;
	}

	if (bus->self && !pci_liveupdate_is_incoming(bus->self)) {
		pci_incoming_found(in, dev);
		pci_liveupdate_quiesce(dev, "the bridge above it isn't the preserved one");
		return;
	}

	if (pci_was_reset(dev, rec)) {
		pci_incoming_found(in, dev);
		pci_warn(dev, "reset or replaced since it was preserved; restart its user\n");
		return;
	}

	dev->liveupdate.record = *rec;
	if (rec->flags & PCI_DEV_SER_BROKEN_INTX)
		dev->broken_intx_masking = 1;
	if (bridge)
		pci_incoming_adopt_ari(dev);
	WRITE_ONCE(dev->liveupdate.incoming, rec->refcount);
}

/**
 * pci_liveupdate_setup_device - Look whether a new device is incoming
 * @dev: the device that pci_setup_device() is setting up; its vendor, device and
 *       header type are known and nothing was written to it yet
 *
 * Marks a device or bridge that the previous kernel preserved, so that the rest
 * of enumeration adopts it. In a quarantined boot stops the DMA of an endpoint.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 */
void pci_liveupdate_setup_device(struct pci_dev *dev)
{
	struct pci_incoming *in;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		if (!in->quarantined)
			pci_incoming_adopt(in, dev);
		else if (pci_is_endpoint(dev) &&
			 (pci_command(dev) & PCI_COMMAND_MASTER))
			pci_liveupdate_quiesce(dev, "it may be one of the previous kernel's");
	}

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
}

/* Let @dev bind only to the driver that it had. */
static int pci_incoming_set_driver(struct pci_dev *dev)
{
	const char *driver = dev->liveupdate.record.driver;
	int err;

	if (!driver[0]) {
		driver = PCI_LIVEUPDATE_NO_DRIVER;
		dev->liveupdate.record.flags &= ~PCI_DEV_SER_OVERRIDE;
	}

	err = device_set_driver_override(&dev->dev, driver);
	if (!err)
		dev->liveupdate.override_set = true;
	return err;
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
		in->nr_bridges++;
		return;
	}

	if (pci_incoming_set_driver(dev)) {
		pci_liveupdate_quiesce(dev, "no memory for the name of its driver");
		pci_incoming_release_path(dev);
		return;
	}

	in->nr_devices++;
}

/**
 * pci_liveupdate_device_add - Add a device, bound to the driver that it had
 * @dev: the device, which may be incoming
 *
 * In place of device_add(). A native driver that was faster than userspace would
 * reset an incoming device. Bridges bind as usual. If there is no memory for the
 * name of the driver the device is stopped, as then any driver can bind.
 *
 * The table is held until the device is known to the driver core: only then can
 * pci_flb_finish() see it.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 * Return: the result of device_add().
 */
int pci_liveupdate_device_add(struct pci_dev *dev)
{
	struct pci_incoming *in;
	int ret;

	if (!pci_liveupdate_is_incoming(dev))
		return device_add(&dev->dev);

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in)) {
		/* Found while the last file was being finished. */
		scoped_guard(mutex, &pci_liveupdate_mutex) {
			pci_liveupdate_quiesce(dev, "found after its live update was finished");
			pci_incoming_release(dev);
		}
		return device_add(&dev->dev);
	}

	scoped_guard(mutex, &pci_liveupdate_mutex)
		pci_incoming_device_add(in, dev);

	ret = device_add(&dev->dev);
	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	return ret;
}

/* What enumeration asks */

/* What would be read back from each BAR after writing all ones. */
static void pci_bar_masks(const u8 *order, u32 *masks, unsigned int howmany)
{
	/*
	 * A slot without a size behind one that has one is the upper half of a
	 * 64-bit BAR, or is unused: __pci_read_base() takes all ones for that.
	 */
	for (unsigned int i = 0; i < howmany; i++) {
		u64 mask = order[i] ? GENMASK_ULL(63, order[i]) : 0;

		if (i && order[i - 1] && !order[i])
			masks[i] = upper_32_bits(GENMASK_ULL(63, order[i - 1]));
		else
			masks[i] = lower_32_bits(mask);
	}
}

/**
 * pci_liveupdate_bar_masks - Get the size masks of BARs without writing to them
 * @dev:     device that pci_read_bases() looks at
 * @bars:    [OUT] what would be read back from each BAR after writing all ones
 * @howmany: number of BARs
 * @rom:     [OUT] the same for the ROM BAR
 *
 * Return: true if @dev is incoming, and @bars and @rom are filled in from its
 * record; false if the BARs must be sized.
 */
bool pci_liveupdate_bar_masks(struct pci_dev *dev, u32 *bars,
			      unsigned int howmany, u32 *rom)
{
	const u8 *order = dev->liveupdate.record.bar_order;

	if (!pci_liveupdate_is_incoming(dev))
		return false;

	pci_bar_masks(order, bars, howmany);
	pci_bar_masks(&order[PCI_ROM_RESOURCE], rom, 1);
	return true;
}

/**
 * pci_liveupdate_vf_bar_masks - Get the size masks of VF BARs without writing
 * @dev:  device that sriov_init() looks at
 * @bars: [OUT] what would be read back from each VF BAR after writing all ones
 *
 * Return: true if @dev is incoming, and @bars is filled in from its record; false
 * if the VF BARs must be sized.
 */
bool pci_liveupdate_vf_bar_masks(struct pci_dev *dev, u32 *bars)
{
	if (!pci_liveupdate_is_incoming(dev))
		return false;

	pci_bar_masks(dev->liveupdate.record.vf_bar_order, bars,
		      PCI_DEV_SER_VF_BARS);
	return true;
}

/**
 * pci_liveupdate_max_vf_buses - Learn how many buses virtual functions may need
 * @dev: device that sriov_init() looks at
 * @max: [OUT] highest bus number
 *
 * Return: true if @dev is incoming, and @max is what its record says; false if
 * NumVFs must be stepped to find out.
 */
bool pci_liveupdate_max_vf_buses(struct pci_dev *dev, u8 *max)
{
	if (!pci_liveupdate_is_incoming(dev))
		return false;

	*max = dev->liveupdate.record.max_vf_buses;
	return true;
}

/*
 * Claim the resources that @dev decodes. It doesn't decode a ROM that is off, or the
 * BARs of virtual functions: another device may have their addresses by now.
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
 * pci_liveupdate_claim_resources - Claim what incoming devices on a bus have
 * @bus: bus whose devices are known, those below bridges not yet
 *
 * Before anything is assigned to other devices, so that these are placed around
 * it. Claims the windows of the bridge to @bus, too, if that is incoming.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot.
 */
void pci_liveupdate_claim_resources(struct pci_bus *bus)
{
	struct pci_dev *bridge = bus->self, *dev;

	if (bridge && pci_liveupdate_is_incoming(bridge)) {
		/* Some architectures look at windows only later */
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
 * pci_liveupdate_bridge_windows - Learn which windows a bridge has
 * @bridge: bridge that pci_read_bridge_windows() looks at
 *
 * Return: true if @bridge is incoming, and what its record says was taken over;
 * false if the windows must be probed by writing to them.
 */
bool pci_liveupdate_bridge_windows(struct pci_dev *bridge)
{
	u16 flags = bridge->liveupdate.record.flags;

	if (!pci_liveupdate_is_incoming(bridge))
		return false;

	if (flags & PCI_DEV_SER_IO_WINDOW)
		bridge->io_window = 1;
	if (flags & PCI_DEV_SER_PREF_WINDOW)
		bridge->pref_window = 1;
	if (flags & PCI_DEV_SER_PREF_64_WINDOW)
		bridge->pref_64_window = 1;
	return true;
}

/**
 * pci_liveupdate_can_init_sriov - Ask whether SR-IOV of a device can be used
 * @dev: device that has the capability
 *
 * Return: false if @dev is incoming and the previous kernel has recorded nothing
 * about its virtual functions, as when it was built without SR-IOV.
 */
bool pci_liveupdate_can_init_sriov(struct pci_dev *dev)
{
	return !pci_liveupdate_is_incoming(dev) ||
	       dev->liveupdate.record.flags & PCI_DEV_SER_SRIOV;
}

/**
 * pci_liveupdate_keep_msi - Ask whether MSI and MSI-X stay as they were found
 * @dev: device that has one of them enabled
 *
 * Return: true if @dev is incoming. They are turned off at finish then, if nobody
 * uses them.
 */
bool pci_liveupdate_keep_msi(struct pci_dev *dev)
{
	if (!pci_liveupdate_is_incoming(dev))
		return false;

	dev->liveupdate.msi_adopted = true;
	return true;
}

#ifdef CONFIG_PCIE_PTM
/**
 * pci_liveupdate_ptm_enabled - Count the users of a bridge's PTM
 * @dev: device with the PTM capability that is being enumerated
 *
 * Return: 1 for an incoming bridge that has PTM enabled; so it stays until the
 * bridge is enumerated again. 0 for any other device.
 */
int pci_liveupdate_ptm_enabled(struct pci_dev *dev)
{
	u32 ctrl;

	if (pci_is_endpoint(dev) || !pci_liveupdate_is_incoming(dev))
		return 0;

	pci_read_config_dword(dev, dev->ptm_cap + PCI_PTM_CTRL, &ctrl);
	return ctrl & PCI_PTM_CTRL_ENABLE ? 1 : 0;
}
#endif

/**
 * pci_liveupdate_keep_rrs_sv - Adopt Configuration RRS Software Visibility
 * @dev: root port of which nothing but its ID is known yet
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 * Return: true if there is a record of @dev, and &pci_dev.config_rrs_sv is what
 * the port has enabled.
 */
bool pci_liveupdate_keep_rrs_sv(struct pci_dev *dev)
{
	struct pci_incoming *in;
	struct pci_dev_ser *rec;
	u16 ctl;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return false;

	scoped_guard(mutex, &pci_liveupdate_mutex)
		rec = pci_incoming_find(in, dev);
	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	if (!rec)
		return false;

	pcie_capability_read_word(dev, PCI_EXP_RTCTL, &ctl);
	dev->config_rrs_sv = FIELD_GET(PCI_EXP_RTCTL_RRS_SVE, ctl);
	return true;
}

/**
 * pci_liveupdate_keep_acs - Leave or put ACS Control as it was adopted
 * @dev: device that pci_enable_acs() is about to configure
 *
 * Writes only what a reset has changed, so nothing as long as @dev is incoming.
 *
 * Return: true if nothing is left to do; false if @dev wasn't adopted.
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
