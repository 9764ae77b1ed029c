// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * PCI live update: overview, locks, the life of the tables, and the functions that drivers
 * call. The other parts are in liveupdate_*.c; liveupdate_internal.h declares what all these
 * files share.
 */

/**
 * DOC: PCI Live Update
 *
 * A live update replaces the running kernel with kexec. Drivers that hand the
 * files of their users to the Live Update Orchestrator (LUO) can keep their
 * devices running meanwhile: the devices do DMA, and their registers stay as they
 * are. The PCI core keeps a table of these devices, gives the table to the next
 * kernel, and in both kernels leaves the devices and the bridges above them alone.
 *
 * The table is File-Lifecycle-Bound data (FLB) of LUO: all drivers share the one
 * table of the system. The table is created when the first file whose handler
 * depends on the table is preserved, and freed when the last such file is
 * unpreserved or, in the next kernel, finished. A device whose user comes later than that
 * stays incoming without it, see pci_liveupdate_defer_finish().
 *
 * A device is in up to two of these states:
 *
 * outgoing
 *   This kernel preserves the device for the next kernel.
 *   pci_liveupdate_preserve() adds a record of the device to the outgoing table,
 *   and takes a reference on the record of every bridge between the device and
 *   the root bus. pci_liveupdate_unpreserve() undoes both. At the kexec neither
 *   the device nor these bridges are shut down.
 *
 * incoming
 *   The previous kernel preserved the device for this kernel. Enumeration looks
 *   the device up in the incoming table by domain and BDF, adopts it as it is, and
 *   lets it bind only to the driver that it had. pci_liveupdate_finish() makes the
 *   device ordinary again.
 *
 * A device is both if the next update begins before the previous update is finished,
 * and ordinary if it is neither. &pci_dev.liveupdate holds the state. Each of these
 * functions changes the state with pci_liveupdate_mutex held:
 *
 * ====================  ==============================  =========================
 * From and to           Moved by                        Also held
 * ====================  ==============================  =========================
 * ordinary to outgoing  pci_liveupdate_preserve()       pci_rescan_remove_lock, pci_bus_sem,
 *                                                       &luo_session.mutex
 * outgoing to ordinary  pci_liveupdate_unpreserve()     &luo_session.mutex
 * outgoing to ordinary  pci_outgoing_unbind()           the device lock
 * outgoing to ordinary  pci_liveupdate_remove()         pci_rescan_remove_lock
 * outgoing to ordinary  the last file is unpreserved    LUO's lock of the FLB
 * ordinary to incoming  pci_liveupdate_setup_device()   pci_rescan_remove_lock
 * incoming to ordinary  pci_incoming_register(),        pci_rescan_remove_lock
 *                       too late
 * incoming to ordinary  pci_liveupdate_finish()         &luo_session.mutex, the device
 *                                                       lock, or a driver's
 * incoming to ordinary  pci_liveupdate_abandon(),       &luo_session.mutex, or a
 *                       pci_liveupdate_get_incoming()   driver's locks
 * incoming to ordinary  pci_liveupdate_remove()         pci_rescan_remove_lock
 * incoming to ordinary  the last file is finished       LUO's lock of the FLB
 * ====================  ==============================  =========================
 *
 * pci_liveupdate_preserve() only tries the first two. For a device that is both,
 * pci_liveupdate_remove() ends both states, any other function only one. A bridge
 * becomes outgoing with the first outgoing device below it, and ordinary with the last such
 * device. A bridge becomes incoming when enumeration finds it, and ordinary with the last
 * device that its record counts; or when the last file is finished, unless a device below it
 * has its finish deferred. At boot nothing else runs, and enumeration doesn't hold
 * pci_rescan_remove_lock.
 *
 * The previous kernel has stopped each device that it hasn't handed over. So until the last
 * file is finished, each endpoint that enumeration finds with bus mastering on, and that it
 * can't adopt, is quiesced before anything else looks at it. An incoming table that can't be
 * trusted is not used at all: such a boot is *quarantined*, no device is adopted. A kernel that
 * can't read anything of what the previous kernel handed over, or isn't to, goes on like that
 * until the next boot.
 */

#define pr_fmt(fmt) "PCI: liveupdate: " fmt
#define dev_fmt(fmt) "liveupdate: " fmt

#include <linux/bitfield.h>
#include <linux/cleanup.h>
#include <linux/device/bus.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/iommu_liveupdate.h>
#include <linux/kexec.h>
#include <linux/kexec_handover.h>
#include <linux/kho_block.h>
#include <linux/limits.h>
#include <linux/liveupdate.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/printk.h>
#include <linux/reboot.h>
#include <linux/suspend.h>
#include <linux/xarray.h>

#include "liveupdate.h"
#include "liveupdate_internal.h"
#include "pci.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pci_liveupdate.h>

/*
 * Protects both tables and every device's struct pci_liveupdate, except for the fields
 * whose kernel-doc says what else protects them.
 *
 * Only the mutex of an IOMMU group nests inside it, see iommu_liveupdate_finish(). It nests
 * inside LUO's locks of the session, the file and the FLB (LUO's callbacks take it), inside
 * pci_rescan_remove_lock (enumeration and removal take it) and then pci_bus_sem, and inside
 * device locks (unbinding and drivers take it), vfio's of a device set, and two chains of
 * notifiers: that of reboot, and that of the PCI bus, which is inside device locks. In these
 * nobody may wait for a lock that is outside of it. LUO's FLB locks are also taken inside
 * pci_rescan_remove_lock (by enumeration and removal), device locks, that of a device set, and
 * the PCI bus's chain. So no FLB callback may take any of these, or register a notifier, and
 * pci_liveupdate_preserve(), which LUO calls with &luo_session.mutex held, only tries
 * pci_rescan_remove_lock and pci_bus_sem.
 *
 * pci_liveupdate_preserve() waits for pci_restart_bridges() while LUO and the caller hold
 * locks. So pci_restart_bridges() only tries device locks, except that device_attach()
 * waits for the lock of a bridge without a driver that isn't a port.
 */
DEFINE_MUTEX(pci_liveupdate_mutex);

/*
 * Devices that are incoming although their files are finished. Written under
 * pci_liveupdate_mutex, may be read without it.
 */
static unsigned int pci_nr_deferred;

/* The life of the tables */

static int pci_flb_preserve(struct liveupdate_flb_op_args *args)
{
	struct pci_outgoing *out = &pci_outgoing;
	struct pci_ser *ser;

	ser = kho_alloc_preserve(sizeof(*ser));
	if (IS_ERR(ser))
		return PTR_ERR(ser);

	*ser = (struct pci_ser){ .version = PCI_SER_VERSION };

	scoped_guard(mutex, &pci_liveupdate_mutex)
		WRITE_ONCE(out->ser, ser);

	args->data = virt_to_phys(ser);
	args->obj = out;
	return 0;
}

static void pci_flb_unpreserve(struct liveupdate_flb_op_args *args)
{
	struct pci_outgoing *out = args->obj;

	guard(mutex)(&pci_liveupdate_mutex);

	pci_outgoing_drop_all();
	kho_block_set_destroy(&out->blocks);
	kho_unpreserve_free(out->ser);
	WRITE_ONCE(out->ser, NULL);
}

/* Never fails: LUO would remember an error, and couldn't finish the files. */
static int pci_flb_retrieve(struct liveupdate_flb_op_args *args)
{
	struct pci_incoming *in = &pci_incoming;
	int err;

	guard(mutex)(&pci_liveupdate_mutex);

	err = pci_incoming_load(in, args->data);
	if (err) {
		xa_destroy(&in->index);
		in->ser = NULL;
		in->quarantined = true;
		trace_pci_liveupdate_quarantine(args->data, err);
	}

	args->obj = in;
	return 0;
}

static void pci_flb_finish(struct liveupdate_flb_op_args *args)
{
	struct pci_incoming *in = args->obj;

	guard(mutex)(&pci_liveupdate_mutex);

	if (in->quarantined) {
		in->quarantined = false;
		return;
	}

	pci_incoming_release_all();
	pci_incoming_free(in);
}

static int pci_flb_prepare(struct liveupdate_flb_op_args *args)
{
	guard(mutex)(&pci_liveupdate_mutex);

	pci_outgoing_set_version(args->version);
	return pci_outgoing_check_image();
}

static const struct liveupdate_flb_ops pci_liveupdate_flb_ops = {
	.preserve = pci_flb_preserve,
	.unpreserve = pci_flb_unpreserve,
	.retrieve = pci_flb_retrieve,
	.finish = pci_flb_finish,
	.prepare = pci_flb_prepare,
	.owner = THIS_MODULE,
};

struct liveupdate_flb pci_liveupdate_flb = {
	.ops = &pci_liveupdate_flb_ops,
	.compatible = PCI_LIVEUPDATE_COMPATIBLE,
	.version = PCI_SER_VERSION,
	.oldest = PCI_SER_VERSION_OLDEST,
};

/* The way out of incoming that drivers and removal take */

/*
 * Make a device ordinary. @why says why its DMA is stopped; it is NULL if the driver has taken
 * the device over. Does nothing if the device isn't incoming.
 */
static void pci_incoming_leave(struct pci_dev *dev, const char *why)
{
	bool deferred;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		if (!dev->liveupdate.incoming || !pci_is_endpoint(dev))
			return;
		if (why)
			pci_liveupdate_quiesce(dev, why);
		deferred = dev->liveupdate.finish_deferred;
		dev->liveupdate.finish_deferred = false;
		WRITE_ONCE(pci_nr_deferred, pci_nr_deferred - deferred);
		pci_incoming_release_path(dev);
	}

	/* That may free the page tables, which takes the IOMMU core's locks */
	if (deferred)
		iommu_liveupdate_put_incoming();
}

static int pci_incoming_defer(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (!dev->liveupdate.incoming || !pci_is_endpoint(dev))
		return -EINVAL;
	if (dev->liveupdate.finish_deferred)
		return -EBUSY;

	dev->liveupdate.finish_deferred = true;
	WRITE_ONCE(pci_nr_deferred, pci_nr_deferred + 1);
	return 0;
}

/* What drivers call */

/**
 * pci_liveupdate_register_flb - Let the files of a handler use the PCI table
 * @fh: LUO file handler of a driver that calls pci_liveupdate_preserve()
 *
 * Context: after liveupdate_register_file_handler(). May sleep.
 * Return: 0, or the error of liveupdate_register_flb(): -EOPNOTSUPP if live
 * update is off, -EEXIST if @fh is registered already, -ENOMEM, -ENOSPC.
 */
int pci_liveupdate_register_flb(struct liveupdate_file_handler *fh)
{
	return liveupdate_register_flb(fh, &pci_liveupdate_flb);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_register_flb);

/**
 * pci_liveupdate_unregister_flb - Undo pci_liveupdate_register_flb()
 * @fh: the file handler; no file of it is preserved
 *
 * Context: before liveupdate_unregister_file_handler(). May sleep.
 */
void pci_liveupdate_unregister_flb(struct liveupdate_file_handler *fh)
{
	liveupdate_unregister_flb(fh, &pci_liveupdate_flb);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_unregister_flb);

/**
 * pci_liveupdate_preserve - Keep a device for the next kernel
 * @dev: an endpoint; the caller is its driver and holds a reference
 *
 * Puts the device and all bridges above it into the table, or none of them. From
 * here to finish, neither kernel changes their configuration, except as the driver
 * asks.
 *
 * Context: called from .preserve of a file handler that was registered with
 * pci_liveupdate_register_flb(), with no device lock held. May sleep.
 *
 * Return:
 * * 0: @dev is preserved
 * * -EOPNOTSUPP: live update is off
 * * -EBUSY: @dev is outgoing already, or the table has been handed over
 * * -EINVAL: @dev can't be preserved; a warning says why
 * * -ENODEV: @dev has been removed
 * * -EAGAIN: for a second, a rescan, a hot-plug, a resize or a removal has held
 *   pci_rescan_remove_lock, or a resize or error recovery pci_bus_sem
 * * -EINTR: the caller got a signal while it waited for these locks
 * * -ENOENT: there is no outgoing table, as the caller isn't .preserve
 * * -ENOMEM, -ENOSPC: the table can't grow; nothing has changed
 * * the error of pm_runtime_resume_and_get(): @dev can't be brought to D0
 */
int pci_liveupdate_preserve(struct pci_dev *dev)
{
	struct pci_outgoing *out;
	int err;

	/* Ports start their services now, if they can, rather than while @dev is preserved */
	pci_liveupdate_flush_restart();

	err = liveupdate_flb_get_outgoing(&pci_liveupdate_flb, (void **)&out);
	if (err)
		return err;

	/* A removed device can't be resumed: its runtime PM is disabled */
	err = test_bit(PCI_DEV_REMOVED, &dev->priv_flags) ?
		      -ENODEV : pm_runtime_resume_and_get(&dev->dev);
	if (!err) {
		err = pci_outgoing_preserve(dev);
		/* If @dev is preserved, its record keeps it resumed */
		pm_runtime_put(&dev->dev);
	}

	liveupdate_flb_put_outgoing(&pci_liveupdate_flb);
	return err;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_preserve);

/**
 * pci_liveupdate_unpreserve - Cancel pci_liveupdate_preserve()
 * @dev: the device; nothing happens if @dev isn't outgoing, as after its removal, or
 *       after its driver was unbound
 *
 * Context: called from .unpreserve of the file handler. May sleep.
 */
void pci_liveupdate_unpreserve(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (dev->liveupdate.outgoing && pci_is_endpoint(dev) &&
	    !kexec_in_progress)
		pci_outgoing_put_path(dev, NULL);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_unpreserve);

/**
 * pci_liveupdate_finish - Make an incoming device ordinary
 * @dev: the device, which its driver has taken over; nothing happens if @dev isn't
 *       incoming
 *
 * Turns MSI and MSI-X off if the previous kernel left them enabled and the driver
 * doesn't use them.
 *
 * Context: called from .finish of the file handler, or from the driver's .remove for
 * a device that the driver had taken over; not while the driver allocates interrupt
 * vectors. May sleep.
 */
void pci_liveupdate_finish(struct pci_dev *dev)
{
	pci_incoming_leave(dev, NULL);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_finish);

/**
 * pci_liveupdate_abandon - Give up an incoming device that nobody will finish
 * @dev: the device; nothing happens if @dev isn't incoming
 * @why: what happened, for the administrator
 *
 * Stops the device's DMA, and makes the device ordinary. When the files of the
 * device's user are finished, the memory that the DMA goes to will be used for
 * something else.
 *
 * For a .retrieve that fails, as LUO doesn't call .retrieve again; for a .can_finish of a
 * file that nobody has retrieved; and for a user who has gone after finish was deferred.
 *
 * Context: not while a driver is being bound or allocates interrupt vectors. May
 * sleep.
 */
void pci_liveupdate_abandon(struct pci_dev *dev, const char *why)
{
	pci_incoming_leave(dev, why);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_abandon);

/**
 * pci_liveupdate_defer_finish - Keep a device incoming although its file is finished
 * @dev: the device, whose user hasn't taken it over yet
 *
 * The device, and the bridges above it, stay incoming although the table may be gone, until
 * pci_liveupdate_finish(), pci_liveupdate_abandon() or the removal of @dev. The driver calls one
 * of the first two, whatever becomes of the user. If an IOMMU translates for @dev with page
 * tables of the previous kernel, it goes on. Whose memory @dev uses is up to the driver: the
 * user's files may be gone.
 *
 * Context: called from .finish of the file handler. May sleep.
 * Return: 0; -EINVAL if @dev isn't an incoming device, -EBUSY if it is deferred already.
 */
int pci_liveupdate_defer_finish(struct pci_dev *dev)
{
	int err;

	/* pci_incoming_leave() puts it */
	iommu_liveupdate_get_incoming();
	err = pci_incoming_defer(dev);
	if (err)
		iommu_liveupdate_put_incoming();
	return err;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_defer_finish);

/**
 * pci_liveupdate_is_incoming - Check whether a device is preserved and not finished yet
 * @dev: a device, or a bridge
 *
 * Context: any.
 * Return: true from enumeration to pci_liveupdate_finish() for a device that the
 * previous kernel preserved, and for a bridge as long as there is such a device
 * below it.
 */
bool pci_liveupdate_is_incoming(struct pci_dev *dev)
{
	return READ_ONCE(dev->liveupdate.incoming);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_is_incoming);

/**
 * pci_liveupdate_get_incoming - Find the incoming device that belongs to a file
 * @domain: PCI segment group, from when the file was preserved
 * @bdf:    bus, device and function, as in PCI_DEVID()
 *
 * For .retrieve, and for .can_finish: the device of a file isn't incoming if it is gone,
 * not found yet, given up, or in quarantine. One that was reset, or that has lost its extended
 * configuration space, is given up here. The driver must know whether the device still belonged
 * to the file at the kexec.
 *
 * Context: as for pci_liveupdate_abandon(). May sleep.
 * Return: the device, which the caller releases with pci_dev_put(); NULL if no device
 * is found, or if the device isn't incoming.
 */
struct pci_dev *pci_liveupdate_get_incoming(u32 domain, u16 bdf)
{
	const char *why = NULL;
	struct pci_dev *dev;

	dev = pci_get_domain_bus_and_slot(domain, PCI_BUS_NUM(bdf), bdf & 0xff);
	if (dev)
		why = pci_incoming_unfit(dev);
	if (why)
		pci_incoming_leave(dev, why);
	if (dev && pci_is_endpoint(dev) && pci_liveupdate_is_incoming(dev))
		return dev;

	pci_dev_put(dev);
	return NULL;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_get_incoming);

/**
 * pci_liveupdate_any_incoming - Check whether some device or bridge is still incoming
 *
 * For the .can_finish of a file that can't be read: only then can a device be using memory of
 * the file's session.
 *
 * Context: called from .can_finish of a file handler. May sleep.
 * Return: true if there is a device that nobody has finished or given up, or a bridge above one
 * that isn't there.
 */
bool pci_liveupdate_any_incoming(void)
{
	guard(mutex)(&pci_liveupdate_mutex);

	return xa_marked(&pci_incoming.index, PCI_RECORD_INCOMING);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_any_incoming);

/**
 * pci_liveupdate_was_preserved - Check whether there was a preserved device at an address
 * @domain: PCI segment group
 * @bdf:    bus, device and function, as in PCI_DEVID()
 *
 * For the .can_finish of a file whose device isn't incoming.
 *
 * Context: called from .can_finish of a file handler. May sleep.
 * Return: true if the previous kernel's table has a device there, and enumeration has found one:
 * whatever that is, it is ordinary, or was stopped.
 */
bool pci_liveupdate_was_preserved(u32 domain, u16 bdf)
{
	unsigned long key = pci_record_key(domain, bdf);
	const struct pci_dev_ser *rec;

	guard(mutex)(&pci_liveupdate_mutex);

	rec = xa_load(&pci_incoming.index, key);
	return rec && !(rec->flags & PCI_DEV_SER_BRIDGE) &&
	       xa_get_mark(&pci_incoming.index, key, PCI_RECORD_FOUND);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_was_preserved);

/* What the PCI core asks about outgoing and incoming devices */

/**
 * pci_liveupdate_is_preserved - Check whether a device is outgoing or incoming
 * @dev: a device, or a bridge
 *
 * Context: any.
 * Return: true if @dev is outgoing or incoming, so that the PCI core must not
 * reconfigure it.
 */
bool pci_liveupdate_is_preserved(struct pci_dev *dev)
{
	return READ_ONCE(dev->liveupdate.outgoing) ||
	       READ_ONCE(dev->liveupdate.incoming);
}

/**
 * pci_liveupdate_keep_resource - Check whether a resource must stay as it is
 * @dev: a device, or a bridge
 * @res: one of its resources
 *
 * Context: any.
 * Return: true if @dev is preserved, so that no address may be assigned to @res;
 * false for a disabled ROM whose address isn't written to the device.
 */
bool pci_liveupdate_keep_resource(struct pci_dev *dev, struct resource *res)
{
	if (!pci_liveupdate_is_preserved(dev))
		return false;

	return res != &dev->resource[PCI_ROM_RESOURCE] ||
	       res->flags & IORESOURCE_ROM_ENABLE || dev->rom_bar_overlap;
}

/**
 * pci_liveupdate_keep_master - Check whether a disabled device stays bus master
 * @dev: device or bridge that pci_disable_device() is about to disable
 *
 * Return: true for a preserved bridge, which the devices below it need, and for an
 * incoming device that its driver hasn't taken over with pci_set_master().
 */
bool pci_liveupdate_keep_master(struct pci_dev *dev)
{
	if (pci_is_endpoint(dev))
		return pci_liveupdate_is_incoming(dev) && !dev->is_busmaster;

	return pci_liveupdate_is_preserved(dev);
}

/* There is an outgoing or an incoming table, a quarantine, or a device whose finish is deferred. */
static bool pci_liveupdate_under_way(void)
{
	struct pci_incoming *in;

	if (READ_ONCE(pci_outgoing.ser) || READ_ONCE(pci_nr_deferred))
		return true;
	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return false;

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	return true;
}

/**
 * pci_liveupdate_keep_bus_numbers - Check whether bridges must keep their bus numbers
 *
 * Context: enumeration. May sleep.
 * Return: true while a live update is under way: no bridge that has bus numbers may be given
 * others.
 */
bool pci_liveupdate_keep_bus_numbers(void)
{
	return pci_liveupdate_under_way();
}

static bool pci_bus_numbers_lost(struct pci_dev *bridge, u32 buses, int *max)
{
	u8 subordinate = FIELD_GET(PCI_SUBORDINATE_BUS_MASK, buses);
	u8 primary = FIELD_GET(PCI_PRIMARY_BUS_MASK, buses);
	const struct pci_dev_ser *rec;

	guard(mutex)(&pci_liveupdate_mutex);

	rec = bridge->liveupdate.incoming ? bridge->liveupdate.record :
					    bridge->liveupdate.outgoing;
	if (!rec)
		return false;

	/* The Primary Bus Number may be hard-wired to 0 */
	if (FIELD_GET(PCI_SECONDARY_BUS_MASK, buses) == rec->secondary &&
	    subordinate == rec->subordinate &&
	    (!primary || primary == bridge->bus->number))
		return false;

	if (!bridge->liveupdate.buses_lost)
		pci_warn(bridge, "was reset and has lost its bus numbers [bus %02x-%02x]; restart the users of the devices below, then rescan\n",
			 rec->secondary, rec->subordinate);
	bridge->liveupdate.buses_lost = true;
	if (bridge->liveupdate.incoming)
		pci_clear_master(bridge);

	*max = max3(*max, (int)rec->subordinate, (int)subordinate);
	return true;
}

/**
 * pci_liveupdate_can_scan - Check whether a bridge can be scanned
 * @bridge: the bridge, which is about to be scanned
 * @buses:  the dword that was read from its %PCI_PRIMARY_BUS
 * @max:    highest bus number that is taken; if @bridge has lost its bus numbers,
 *          raised to its subordinate bus, old and new, as the devices that were
 *          below @bridge may still use the old bus numbers
 * @pass:   0 or 1
 *
 * pci_cardbus_scan_bridge_extend() gives a CardBus bridge new numbers in any case, and with
 * pci=assign-busses it takes those of others. Such a bridge waits until no numbers have to
 * be kept.
 *
 * If an incoming bridge has lost its bus numbers, stops DMA from below it: the devices
 * there won't be enumerated, so finish couldn't stop them.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 * Return: false if @bridge is preserved and has lost its bus numbers, or if it would
 * take numbers from another bridge.
 */
bool pci_liveupdate_can_scan(struct pci_dev *bridge, u32 buses, int *max, int pass)
{
	int subordinate = FIELD_GET(PCI_SUBORDINATE_BUS_MASK, buses);

	if (pci_bus_numbers_lost(bridge, buses, max))
		return false;

	if (!pci_is_cardbus_bridge(bridge) || !pcibios_assign_all_busses() ||
	    !pci_liveupdate_keep_bus_numbers())
		return true;

	if (!pass)
		pci_warn(bridge, "CardBus needs new bus numbers; rescan after the live update\n");
	*max = max(*max, subordinate);
	return false;
}

/* What the driver core tells */

/*
 * Ends both states of the device, and puts its references on the bridges above, even if its
 * driver finishes or unpreserves the device only later.
 */
static void pci_liveupdate_remove(struct pci_dev *dev)
{
	pci_incoming_leave(dev, "removed before its live update was finished");

	guard(mutex)(&pci_liveupdate_mutex);

	if (dev->liveupdate.incoming)
		pci_incoming_end(dev);
	pci_outgoing_forget(dev, "removed");
}

static int pci_liveupdate_bus_notify(struct notifier_block *nb, unsigned long action, void *data)
{
	struct pci_dev *dev = to_pci_dev(data);

	switch (action) {
	case BUS_NOTIFY_ADD_DEVICE:
		pci_incoming_register(dev);
		break;
	case BUS_NOTIFY_UNBOUND_DRIVER:
	case BUS_NOTIFY_DRIVER_NOT_BOUND:
		pci_outgoing_unbind(dev);
		break;
	case BUS_NOTIFY_DEL_DEVICE:
		pci_liveupdate_remove(dev);
		break;
	}

	return NOTIFY_DONE;
}

static struct notifier_block pci_liveupdate_bus_nb = {
	.notifier_call = pci_liveupdate_bus_notify,
	/* If the DMA of a device must be stopped, then before its IOMMU translates for it */
	.priority = INT_MAX,
};

/* After pci_bus_type is there, and before anything enumerates */
static int __init pci_liveupdate_init_bus(void)
{
	return bus_register_notifier(&pci_bus_type, &pci_liveupdate_bus_nb);
}
postcore_initcall_sync(pci_liveupdate_init_bus);

/* Kexec, suspend and hibernation */

/*
 * LUO has handed the table over, or has unpreserved everything. A thread that took
 * pci_liveupdate_mutex before kexec_in_progress was set may still be changing the table: wait
 * until it releases the mutex.
 */
static int pci_liveupdate_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	if (!kexec_in_progress)
		return NOTIFY_DONE;

	guard(mutex)(&pci_liveupdate_mutex);

	return NOTIFY_DONE;
}

static struct notifier_block pci_liveupdate_reboot_nb = {
	.notifier_call = pci_liveupdate_reboot,
};

/* Both would stop the devices, and write to their registers when the system is resumed. */
static int pci_liveupdate_pm_notify(struct notifier_block *nb, unsigned long action, void *data)
{
	if (action != PM_SUSPEND_PREPARE && action != PM_HIBERNATION_PREPARE)
		return NOTIFY_DONE;
	if (!pci_liveupdate_under_way())
		return NOTIFY_DONE;

	pr_warn("suspend refused: a live update is under way; finish it, or close its sessions\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block pci_liveupdate_pm_nb = {
	.notifier_call = pci_liveupdate_pm_notify,
};

static int __init pci_liveupdate_init(void)
{
	int err;

	err = register_reboot_notifier(&pci_liveupdate_reboot_nb);
	return err ?: register_pm_notifier(&pci_liveupdate_pm_nb);
}
device_initcall(pci_liveupdate_init);

#ifdef CONFIG_PCI_LIVEUPDATE_KUNIT_TEST
#include "tests/liveupdate_kunit.c"
#include "tests/liveupdate_bench.c"
#endif
