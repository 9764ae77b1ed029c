// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * Devices that this kernel preserves for the next kernel: what it records about them and
 * the bridges above them, when it adds and removes their records, and which devices it
 * leaves alone at the kexec.
 */

#define dev_fmt(fmt) "liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/bitfield.h>
#include <linux/cleanup.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/iommu_liveupdate.h>
#include <linux/kexec.h>
#include <linux/list.h>
#include <linux/liveupdate.h>
#include <linux/lockdep.h>
#include <linux/log2.h>
#include <linux/moduleparam.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/string.h>

#include "liveupdate.h"
#include "liveupdate_internal.h"
#include "pci.h"

#include <trace/events/pci_liveupdate.h>

static_assert(sizeof_field(struct pci_dev_ser, bar_order) == PCI_ROM_RESOURCE + 1);
static_assert(sizeof_field(struct pci_dev_ser, vf_bar_order) == PCI_SRIOV_NUM_BARS);

/* Records */

/* Move the last record into the slot of @dev's record: no slot may stay free. */
static void pci_outgoing_free(struct pci_dev *dev)
{
	struct pci_dev_ser *rec = dev->liveupdate.outgoing;
	struct pci_dev *mover = list_last_entry(&pci_outgoing.devices,
						struct pci_dev, liveupdate.node);

	if (mover != dev) {
		*rec = *pci_outgoing_last();
		WRITE_ONCE(mover->liveupdate.outgoing, rec);
		list_move(&mover->liveupdate.node, &dev->liveupdate.node);
	}

	pci_outgoing_shrink();
}

static void pci_record_bars(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	for (int i = 0; i < PCI_DEV_SER_BARS; i++) {
		struct resource *res = &dev->resource[i];

		/* Enhanced Allocation has no BAR for it (PCIe r7.0, sec 7.8.5) */
		rec->bar_order[i] = res->flags && !(res->flags & IORESOURCE_PCI_EA_BEI) ?
					    ilog2(resource_size(res)) : 0;
	}
}

#ifdef CONFIG_PCI_IOV
static void pci_record_vf_bars(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	if (!dev->is_physfn)
		return;

	rec->flags |= PCI_DEV_SER_SRIOV;
	for (int i = 0; i < PCI_DEV_SER_VF_BARS; i++) {
		u64 size = dev->sriov->barsz[i];

		rec->vf_bar_order[i] = size ? ilog2(size) : 0;
	}
	rec->max_vf_buses = dev->sriov->max_VF_buses;
}
#else
static void pci_record_vf_bars(struct pci_dev *dev, struct pci_dev_ser *rec)
{
}
#endif

static void pci_record_acs(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	if (!dev->acs_cap)
		return;

	pci_read_config_word(dev, dev->acs_cap + PCI_ACS_CTRL, &rec->acs_ctrl);
	rec->flags |= PCI_DEV_SER_ACS;
}

static void pci_record_bridge(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	rec->flags |= PCI_DEV_SER_BRIDGE;
	if (dev->io_window)
		rec->flags |= PCI_DEV_SER_IO_WINDOW;
	if (dev->pref_window)
		rec->flags |= PCI_DEV_SER_PREF_WINDOW;
	if (dev->pref_64_window)
		rec->flags |= PCI_DEV_SER_PREF_64_WINDOW;
	if (pci_ari_forwarding(dev))
		rec->flags |= PCI_DEV_SER_ARI;

	rec->secondary = dev->subordinate->busn_res.start;
	rec->subordinate = dev->subordinate->busn_res.end;
}

/* What a table of this version has that older ones hadn't. */
static void pci_record_version(struct pci_dev *dev, struct pci_dev_ser *rec, u32 version)
{
	rec->flags &= ~PCI_DEV_SER_EXT_CONFIG;
	if (version >= 102 && dev->cfg_size > PCI_CFG_SPACE_SIZE)
		rec->flags |= PCI_DEV_SER_EXT_CONFIG;
}

static void pci_record_endpoint(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	if (dev->driver)
		strscpy(rec->driver, dev->driver->name);
	/* The name of another driver would take a field of its own */
	if (dev->driver && device_match_driver_override(&dev->dev, &dev->driver->driver) > 0)
		rec->flags |= PCI_DEV_SER_OVERRIDE;
	pci_record_vf_bars(dev, rec);
}

static void pci_record_fill(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	memset(rec, 0, sizeof(*rec));
	rec->domain = pci_domain_nr(dev->bus);
	rec->bdf = pci_dev_id(dev);
	rec->vendor = dev->vendor;
	rec->device = dev->device;
	pci_record_bars(dev, rec);
	pci_record_acs(dev, rec);
	if (dev->broken_intx_masking)
		rec->flags |= PCI_DEV_SER_BROKEN_INTX;

	if (pci_is_endpoint(dev))
		pci_record_endpoint(dev, rec);
	else
		pci_record_bridge(dev, rec);
	pci_record_version(dev, rec, PCI_SER_VERSION);
}

/**
 * pci_outgoing_set_version - Make the outgoing table be one of a certain version
 * @version: %PCI_SER_VERSION_OLDEST to %PCI_SER_VERSION
 *
 * Context: pci_liveupdate_mutex is held, and the outgoing table exists.
 */
void pci_outgoing_set_version(u32 version)
{
	struct pci_dev *dev;

	lockdep_assert_held(&pci_liveupdate_mutex);

	pci_outgoing.ser->version = version;
	list_for_each_entry(dev, &pci_outgoing.devices, liveupdate.node)
		pci_record_version(dev, dev->liveupdate.outgoing, version);
}

/* As pcibios_setup(): each of these does without ECAM */
static int pci_image_param(char *param, char *val, const char *doing, void *arg)
{
	static const char * const without[] = { "nommconf", "off", "bios", "conf1", "conf2" };
	bool *ext_config = arg;
	char *option;

	if (!parameq(param, "pci"))
		return 0;

	while ((option = strsep(&val, ","))) {
		if (match_string(without, ARRAY_SIZE(without), option) >= 0)
			*ext_config = false;
	}

	return 0;
}

static int pci_image_check_device(struct pci_dev *dev, bool ext_config)
{
	const char *why;
	int err = 0;

	if (dev->cfg_size > PCI_CFG_SPACE_SIZE && !ext_config) {
		why = "it would lose extended configuration space; load one without pci=nommconf";
		err = -EOPNOTSUPP;
	} else if (pci_is_endpoint(dev)) {
		why = "its IOMMU would be off; load a kernel with the IOMMU options of this one";
		err = iommu_liveupdate_check_image(&dev->dev);
	}
	if (err == -EOPNOTSUPP)
		pci_warn(dev, "live update refused: %s\n", why);

	return err;
}

/**
 * pci_outgoing_check_image - Check that the loaded kernel can take all devices over
 *
 * Context: called from .prepare of the FLB, with pci_liveupdate_mutex held. May sleep.
 * Return: 0; -EOPNOTSUPP after a warning for the first device that would be lost; -ENOMEM.
 */
int pci_outgoing_check_image(void)
{
	bool ext_config = true;
	struct pci_dev *dev;
	int err;

	lockdep_assert_held(&pci_liveupdate_mutex);

	err = liveupdate_image_params(pci_image_param, &ext_config);
	if (err)
		return err;

	list_for_each_entry(dev, &pci_outgoing.devices, liveupdate.node) {
		err = pci_image_check_device(dev, ext_config);
		if (err)
			break;
	}

	return err;
}

/* Devices and their bridges */

static int pci_outgoing_get(struct pci_dev *dev)
{
	struct pci_dev_ser *rec = dev->liveupdate.outgoing;

	if (!rec) {
		rec = pci_outgoing_alloc();
		if (IS_ERR(rec))
			return PTR_ERR(rec);

		pci_record_fill(dev, rec);
		pm_runtime_get_noresume(&dev->dev);
		pci_dev_get(dev);
		list_add_tail(&dev->liveupdate.node, &pci_outgoing.devices);
		WRITE_ONCE(dev->liveupdate.outgoing, rec);
		/*
		 * Nothing shuts it down at the kexec: the last chance of its driver to act is
		 * .freeze of the file handler, and a bridge without Bus Master Enable forwards
		 * nothing upstream (PCIe r7.0, sec 7.5.1.1.3).
		 */
		dev_set_goes_on(&dev->dev);
		trace_pci_liveupdate_preserve(dev);
		pci_dbg(dev, "preserved\n");
	}

	rec->refcount++;
	return 0;
}

static void pci_outgoing_drop(struct pci_dev *dev)
{
	pci_outgoing_free(dev);
	dev_clear_goes_on(&dev->dev);
	WRITE_ONCE(dev->liveupdate.outgoing, NULL);
	list_del(&dev->liveupdate.node);
	trace_pci_liveupdate_unpreserve(dev);
	pci_dbg(dev, "not preserved any more\n");
	pm_runtime_put(&dev->dev);
	pci_dev_put(dev);
}

static void pci_outgoing_put(struct pci_dev *dev)
{
	struct pci_dev_ser *rec = dev->liveupdate.outgoing;

	/* Only report damage: the caller must walk the path to its end. */
	if (!rec || !rec->refcount || (pci_is_endpoint(dev) && rec->refcount != 1))
		pci_err(dev, "record of a preserved path is damaged\n");
	if (!rec)
		return;

	/* An endpoint has one reference, even if its record says otherwise. */
	if (rec->refcount > 1 && !pci_is_endpoint(dev))
		rec->refcount--;
	else
		pci_outgoing_drop(dev);
}

/**
 * pci_outgoing_put_path - Put the references of a device on the records of its path
 * @dev: the device
 * @end: the bridge to stop at, whose reference isn't put; NULL to put the whole path
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_outgoing_put_path(struct pci_dev *dev, struct pci_dev *end)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	for (; dev != end; dev = pci_upstream_bridge(dev))
		pci_outgoing_put(dev);
}

VISIBLE_IF_KUNIT int pci_outgoing_get_path(struct pci_dev *dev)
{
	struct pci_dev *pos;
	int err;

	for (pos = dev; pos; pos = pci_upstream_bridge(pos)) {
		err = pci_outgoing_get(pos);
		if (err) {
			pci_outgoing_put_path(dev, pos);
			return err;
		}
	}

	return 0;
}

static bool pci_bars_can_be_recorded(struct pci_dev *dev)
{
	for (int i = 0; i < PCI_DEV_SER_BARS; i++) {
		struct resource *res = &dev->resource[i];

		if (res->flags && !is_power_of_2(resource_size(res)))
			return false;
	}

	return true;
}

/* Return false for a bridge that was reset or pulled: it has lost its bus numbers. */
static bool pci_has_bus_numbers(struct pci_dev *bridge)
{
	const struct resource *res = &bridge->subordinate->busn_res;
	u32 buses;

	pci_read_config_dword(bridge, PCI_PRIMARY_BUS, &buses);
	return FIELD_GET(PCI_SECONDARY_BUS_MASK, buses) == res->start &&
	       FIELD_GET(PCI_SUBORDINATE_BUS_MASK, buses) == res->end;
}

/* quirk_switchtec_ntb_dma_alias() leaves these devices with Bus Master Enable off. */
static bool pci_is_switchtec_ntb(struct pci_dev *dev)
{
	return (dev->class >> 8) == PCI_CLASS_BRIDGE_OTHER &&
	       (dev->vendor == PCI_VENDOR_ID_MICROSEMI ||
		dev->vendor == PCI_VENDOR_ID_EFAR);
}

/* As REQ_ACS_FLAGS of the IOMMU core */
#define PCI_ACS_ISOLATION	(PCI_ACS_SV | PCI_ACS_RR | PCI_ACS_CR | PCI_ACS_UF)

/*
 * The IOMMU core looks at ACS when it finds a device. Return true if it would put @dev into
 * another group than it did then, as pci_device_group() of the next kernel is going to.
 */
static bool pci_has_lost_isolation(struct pci_dev *dev)
{
	struct iommu_group *group = dev->dev.iommu_group;
	struct pci_dev *pos;

	/* Up to what ACS isolates */
	while ((pos = pci_upstream_bridge(dev)) &&
	       !pci_acs_path_enabled(pos, NULL, PCI_ACS_ISOLATION)) {
		if (pos->dev.iommu_group && pos->dev.iommu_group != group)
			return true;
		dev = pos;
	}

	if (!dev->multifunction || pci_acs_enabled(dev, PCI_ACS_ISOLATION))
		return false;

	list_for_each_entry(pos, &dev->bus->devices, bus_list) {
		if (PCI_SLOT(pos->devfn) == PCI_SLOT(dev->devfn) && pos->dev.iommu_group &&
		    pos->dev.iommu_group != group && !pci_acs_enabled(pos, PCI_ACS_ISOLATION))
			return true;
	}

	return false;
}

/* Return why @dev can't be preserved; NULL if it can be. */
static const char *pci_cannot_preserve(struct pci_dev *dev)
{
	struct device *host = pci_find_host_bridge(dev->bus)->dev.parent;
	struct pci_dev *pos;

	if (!pci_is_endpoint(dev))
		return "a bridge is preserved with the devices below it, not by itself";
	if (dev->is_virtfn)
		return "virtual functions can't be preserved yet";
	if (pci_num_vf(dev))
		return "virtual functions are enabled; disable them (sriov_numvfs) first";
	if (host && dev_is_pci(host))
		return "its host bridge is itself a PCI device (VMD), which can't be preserved yet";
	if (dev->resource[PCI_ROM_RESOURCE].flags & IORESOURCE_ROM_SHADOW)
		return "it is the boot display";
	if (pci_is_switchtec_ntb(dev))
		return "a Switchtec non-transparent bridge can't be preserved yet";
	if (dev->driver && strlen(dev->driver->name) >= PCI_DEV_SER_DRIVER_LEN)
		return "the name of its driver is too long";
	if (dev->dev.iommu && pci_has_lost_isolation(dev))
		return "ACS was turned off since its IOMMU group was made; turn it on again";

	for (pos = dev; pos; pos = pci_upstream_bridge(pos)) {
		if (pos->hdr_type == PCI_HEADER_TYPE_CARDBUS)
			return "devices below a CardBus bridge can't be preserved";
		if (!pci_bars_can_be_recorded(pos))
			return "the size of a BAR was changed by a quirk";
		if (pos->current_state != PCI_D0)
			return "it or a bridge above it isn't in D0";
		if (pci_dev_has_specific_acs(pos))
			return "a quirk emulates ACS for it or for a bridge above it";
		/* The next kernel would refuse a table with such a bridge */
		if (!pos->bus->busn_res.parent)
			return "bus numbers of a bridge above it aren't only its own";
		if (pos != dev && !pci_has_bus_numbers(pos))
			return "a bridge above it has lost its bus numbers";
	}

	return NULL;
}

/* How long to wait for whoever adds or removes devices */
#define PCI_RESCAN_TRIES	100
#define PCI_RESCAN_WAIT_MS	10

static bool pci_trylock_topology(void)
{
	if (!mutex_trylock(&pci_rescan_remove_lock))
		return false;
	if (down_write_trylock(&pci_bus_sem))
		return true;

	pci_unlock_rescan_remove();
	return false;
}

static void pci_unlock_topology(void)
{
	up_write(&pci_bus_sem);
	pci_unlock_rescan_remove();
}

/*
 * Enumeration tests pci_liveupdate_is_preserved() of a bridge and then writes to the bridge, both
 * under pci_rescan_remove_lock; a driver that resizes a BAR of its device, and then assigns what
 * is left, does so under pci_bus_sem. Only try these locks: a removal, or sriov_numvfs, holds the
 * first one while it waits for the users of a device, and the caller may be one of these users;
 * error recovery holds the second one while it waits for device locks.
 */
static int pci_wait_for_topology(struct pci_dev *dev)
{
	for (int i = 0; i < PCI_RESCAN_TRIES; i++) {
		if (pci_trylock_topology())
			return 0;
		if (msleep_interruptible(PCI_RESCAN_WAIT_MS))
			return -EINTR;
	}

	pci_warn(dev, "not preserved: some PCI device is being added, resized, recovered or removed, perhaps until its user closes it; try again\n");
	return -EAGAIN;
}

static int pci_outgoing_try_preserve(struct pci_dev *dev)
{
	const char *why;

	guard(mutex)(&pci_liveupdate_mutex);

	/* The table was handed over: see pci_liveupdate_reboot() */
	if (kexec_in_progress)
		return -EBUSY;
	/* Once pci_liveupdate_remove() has run, nobody drops a record any more */
	if (test_bit(PCI_DEV_REMOVED, &dev->priv_flags))
		return -ENODEV;
	if (dev->liveupdate.outgoing)
		return -EBUSY;

	why = pci_cannot_preserve(dev);
	if (why) {
		pci_warn(dev, "not preserved: %s\n", why);
		return -EINVAL;
	}

	return pci_outgoing_get_path(dev);
}

/**
 * pci_outgoing_preserve - Put a device and the bridges above it into the table
 * @dev: the device, which the caller has resumed
 *
 * Context: called by pci_liveupdate_preserve(), which holds a reference on the outgoing
 * table. May sleep.
 * Return: as pci_liveupdate_preserve().
 */
int pci_outgoing_preserve(struct pci_dev *dev)
{
	unsigned int noio;
	int err;

	err = pci_wait_for_topology(dev);
	if (err)
		return err;

	/* Reclaim may need a disk whose recovery from an error waits for pci_bus_sem */
	noio = memalloc_noio_save();
	err = pci_outgoing_try_preserve(dev);
	memalloc_noio_restore(noio);
	pci_unlock_topology();
	return err;
}

/* Devices that are unbound, removed or left over */

/**
 * pci_outgoing_forget - Drop the record of a device that is lost
 * @dev:  a device, or a bridge, that may be outgoing
 * @what: what has happened to @dev, for the administrator
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_outgoing_forget(struct pci_dev *dev, const char *what)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	/* The table was handed over and can't change: the next kernel will notice. */
	if (!dev->liveupdate.outgoing || kexec_in_progress)
		return;

	pci_warn(dev, "%s while it was preserved; the next kernel won't know of it\n",
		 what);
	/*
	 * The devices below a bridge are removed before the bridge, and each of
	 * them has put its reference on the bridge's record. If the bridge still
	 * has a record, its refcount is wrong. The refcounts of the bridges above
	 * are right, so drop only the record of this bridge.
	 */
	if (pci_is_endpoint(dev))
		pci_outgoing_put_path(dev, NULL);
	else
		pci_outgoing_drop(dev);
}

/**
 * pci_outgoing_unbind - Forget an outgoing device that was unbound
 * @dev: device that its driver has let go of, or hasn't bound to after all
 *
 * The driver has stopped the device, so there is nothing to hand over. An incoming
 * device stays incoming, and waits for its driver to be bound again.
 *
 * Context: the lock of @dev is held. May sleep.
 */
void pci_outgoing_unbind(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (pci_is_endpoint(dev))
		pci_outgoing_forget(dev, "unbound");
}

/**
 * pci_outgoing_drop_all - Drop all records of the table
 *
 * Called before the table is freed, so that no device keeps a pointer to a record, even
 * if a buggy driver didn't unpreserve its device.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_outgoing_drop_all(void)
{
	struct pci_dev *dev, *prev;

	lockdep_assert_held(&pci_liveupdate_mutex);

	list_for_each_entry_safe_reverse(dev, prev, &pci_outgoing.devices,
					 liveupdate.node) {
		if (pci_is_endpoint(dev))
			pci_err(dev, "was still preserved by driver %s when the last file was gone\n",
				dev_driver_string(&dev->dev));
		pci_outgoing_drop(dev);
	}
}

/* Freeze */

/* How long to wait for the lock of a device: a reset may take a second */
#define PCI_LOCK_TRIES		200
#define PCI_LOCK_WAIT_MS	10

static bool pci_is_locked(struct pci_dev *dev)
{
	for (int i = 0; i < PCI_LOCK_TRIES; i++) {
		if (device_trylock(&dev->dev)) {
			device_unlock(&dev->dev);
			return false;
		}
		msleep(PCI_LOCK_WAIT_MS);
	}

	return true;
}

/* Return why no kexec may begin, for @dev's sake; NULL if one may. */
static const char *pci_cannot_leave(struct pci_dev *dev)
{
	/*
	 * A removal holds the lock of the device until its user has let go, and may hold
	 * pci_rescan_remove_lock. device_shutdown() would wait for the lock of a device that
	 * isn't outgoing, and a port's driver for the other one.
	 */
	if (pci_is_locked(dev))
		return "it is being reset, removed or unbound; try again, or stop its user";

	guard(mutex)(&pci_liveupdate_mutex);

	if (pci_is_endpoint(dev) && dev->liveupdate.incoming && !dev->liveupdate.outgoing)
		return "its last live update isn't over; let its user finish it, or remove it";

	return NULL;
}

/**
 * pci_liveupdate_freeze - Check that all PCI devices can do with a kexec
 *
 * Refuses a kexec that couldn't come to its end, as some device is being removed, and one that
 * would lose a device which waits for its user since the last live update.
 *
 * Context: called first thing from .freeze of a file handler, with no device lock held. Each
 * handler does so, as others may not. May sleep.
 * Return: 0; -EBUSY after a warning for each device that is in the way, which says why.
 */
int pci_liveupdate_freeze(void)
{
	struct pci_dev *dev = NULL;
	const char *why;
	int err = 0;

	for_each_pci_dev(dev) {
		why = pci_cannot_leave(dev);
		if (!why)
			continue;
		pci_warn(dev, "live update refused: %s\n", why);
		err = -EBUSY;
	}

	return err;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_freeze);
