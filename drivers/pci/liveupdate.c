// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: PCI Live Update
 *
 * A live update replaces the running kernel with kexec. Drivers that hand the
 * files of their users to the Live Update Orchestrator (LUO) can keep their
 * devices running meanwhile: doing DMA, with every register as it is. The PCI
 * core keeps the table of these devices, gives it to the next kernel, and in
 * both kernels leaves the devices and the bridges above them alone.
 *
 * The table is File-Lifecycle-Bound data (FLB) of LUO: there is one in the
 * system, which all drivers share. It comes into being when the first file
 * whose handler depends on it is preserved, and goes when the last such file is
 * unpreserved or, in the next kernel, finished.
 *
 * A device is in up to two of these states:
 *
 * outgoing
 *   This kernel preserves it for the next one. pci_liveupdate_preserve() writes
 *   a record into the outgoing table for the device, and takes a reference on
 *   the record of every bridge between it and the root bus.
 *   pci_liveupdate_unpreserve() cancels that. At the kexec neither the device
 *   nor its bridges are shut down.
 *
 * incoming
 *   The previous kernel preserved it for this one. Enumeration finds it in the
 *   incoming table by domain and BDF, adopts it as it is, and lets it bind only
 *   to the driver that it had. pci_liveupdate_finish() ends this: the device is
 *   ordinary again.
 *
 * A device is both when an update follows before the one before is finished.
 *
 * An incoming table that can't be trusted is not used at all. The boot is then
 * *quarantined* until the last file is finished: no device is incoming, and each
 * endpoint that is found with bus mastering on is quiesced before a driver can
 * bind, as the previous kernel would have done without a live update.
 */

#define pr_fmt(fmt) "PCI: liveupdate: " fmt
#define dev_fmt(fmt) "liveupdate: " fmt

#include <kunit/static_stub.h>
#include <linux/bitfield.h>
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/kexec.h>
#include <linux/kexec_handover.h>
#include <linux/kho_block.h>
#include <linux/list.h>
#include <linux/liveupdate.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string_choices.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "liveupdate.h"
#include "pci.h"
#include "pcie/portdrv.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pci_liveupdate.h>

static_assert(sizeof_field(struct pci_dev_ser, bar_order) == PCI_ROM_RESOURCE + 1);
static_assert(sizeof_field(struct pci_dev_ser, vf_bar_order) == PCI_SRIOV_NUM_BARS);

/* No driver has this name: a device that had none stays without one. */
#define PCI_LIVEUPDATE_NO_DRIVER	"none"

/**
 * struct pci_outgoing - The table for the next kernel.
 * @ser:     Head of the table, NULL if no file needs a table.
 * @blocks:  Blocks with the records. All but the last one are full.
 * @devices: The devices and bridges that have a record, in the order of the records,
 *           by &pci_liveupdate.node. Each is referenced.
 */
struct pci_outgoing {
	struct pci_ser *ser;
	struct kho_block_set blocks;
	struct list_head devices;
};

/* Marks of a record in the index: enumeration has found something at its address */
#define PCI_RECORD_FOUND	XA_MARK_0
/* and that is incoming still. */
#define PCI_RECORD_INCOMING	XA_MARK_1

/**
 * struct pci_incoming - The table of the previous kernel.
 * @ser:         Head of the table.
 * @blocks:      Blocks with the records.
 * @index:       The records, by pci_record_key(), with these marks.
 * @nr_devices:  Number of endpoints that were adopted.
 * @nr_bridges:  Number of bridges that were adopted.
 * @quarantined: The table can't be used; the other fields are empty.
 */
struct pci_incoming {
	struct pci_ser *ser;
	struct kho_block_set blocks;
	struct xarray index;
	unsigned int nr_devices;
	unsigned int nr_bridges;
	bool quarantined;
};

static struct liveupdate_flb pci_liveupdate_flb;

static struct pci_outgoing pci_outgoing = {
	.blocks = KHO_BLOCK_SET_INIT(pci_outgoing.blocks, sizeof(struct pci_dev_ser)),
	.devices = LIST_HEAD_INIT(pci_outgoing.devices),
};

static struct pci_incoming pci_incoming = {
	.blocks = KHO_BLOCK_SET_INIT(pci_incoming.blocks, sizeof(struct pci_dev_ser)),
	.index = XARRAY_INIT(pci_incoming.index, 0),
};

/*
 * Protects both tables and the struct pci_liveupdate of every device.
 *
 * Taken inside LUO's locks (those of the session, the file and the FLB, whose
 * callbacks take it), inside pci_rescan_remove_lock (enumeration, removal) and
 * inside the lock of a device (unbinding, drivers). Nothing of these is taken while
 * it is held. LUO's FLB lock is also taken inside pci_rescan_remove_lock, so no FLB
 * callback may take that one.
 *
 * Preserve waits, inside LUO's locks and those of its caller, for
 * pci_restart_bridges(), which therefore doesn't wait for device locks.
 */
static DEFINE_MUTEX(pci_liveupdate_mutex);

static bool pci_is_endpoint(struct pci_dev *dev)
{
	return dev->hdr_type == PCI_HEADER_TYPE_NORMAL;
}

/* Bridges that are ordinary again */

/* At finish the users of all devices wait to go on: let them go first. */
#define PCI_RESTART_DELAY	HZ

/* Do what was put off: turn stale interrupts off, and let the device sleep. */
static void pci_incoming_let_go(struct pci_dev *dev)
{
	/* They are the previous kernel's if the driver doesn't use them */
	if (dev->liveupdate.msi_adopted && !dev->msi_enabled)
		pci_msi_init(dev);
	if (dev->liveupdate.msi_adopted && !dev->msix_enabled)
		pci_msix_init(dev);

	if (!dev->liveupdate.held)
		return;

	WRITE_ONCE(dev->liveupdate.held, false);
	pm_runtime_put(&dev->dev);
}

static void pci_restart_bridge_locked(struct pci_dev *dev)
{
	if (dev->liveupdate.services_deferred) {
		WRITE_ONCE(dev->liveupdate.services_deferred, false);
		dev->liveupdate.starting = true;
		pcie_portdrv_start_services(dev);
		dev->liveupdate.starting = false;
	}

	pci_incoming_let_go(dev);
}

/* Returns false if it has to be tried again. */
static bool pci_restart_bridge(struct pci_dev *dev)
{
	bool locked, held = READ_ONCE(dev->liveupdate.held);

	/* Not to wait for a bridge that somebody resets, or unbinds */
	if (!held && !READ_ONCE(dev->liveupdate.services_deferred))
		return true;

	pm_runtime_get_sync(&dev->dev);
	/* Who has it may wait for a lock that a caller of preserve holds */
	locked = device_trylock(&dev->dev);
	if (locked) {
		if (system_state == SYSTEM_RUNNING &&
		    device_is_registered(&dev->dev) &&
		    !pci_liveupdate_is_preserved(dev))
			pci_restart_bridge_locked(dev);
		device_unlock(&dev->dev);
	}
	pm_runtime_put(&dev->dev);

	/* The driver of a hotplug controller that wasn't bound before */
	if (locked && held && !dev->driver && !pci_is_pcie(dev) &&
	    device_attach(&dev->dev) < 0)
		pci_warn(dev, "no driver could be bound after the live update; bind one by hand\n");

	return locked;
}

static void pci_restart_bridges(struct work_struct *work)
{
	struct pci_dev *dev = NULL;
	bool again = false;

	for_each_pci_dev(dev) {
		if (!pci_is_endpoint(dev) && !pci_restart_bridge(dev))
			again = true;
	}

	if (again)
		queue_delayed_work(system_freezable_wq, to_delayed_work(work),
				   PCI_RESTART_DELAY);
}

static DECLARE_DELAYED_WORK(pci_restart_work, pci_restart_bridges);

static void pci_queue_restart(void)
{
	mod_delayed_work(system_freezable_wq, &pci_restart_work,
			 PCI_RESTART_DELAY);
}

/* Outgoing: the table */

/* In a block that isn't empty. */
static struct pci_dev_ser *pci_last_record(struct kho_block *block)
{
	return (struct pci_dev_ser *)(block->ser + 1) + block->ser->count - 1;
}

static struct pci_dev_ser *pci_outgoing_alloc(void)
{
	struct pci_outgoing *out = &pci_outgoing;
	struct kho_block *block;
	int err;

	KUNIT_STATIC_STUB_REDIRECT(pci_outgoing_alloc);

	err = kho_block_set_grow(&out->blocks, out->ser->nr_devices + 1);
	if (err)
		return ERR_PTR(err);

	block = list_last_entry(&out->blocks.blocks, struct kho_block, list);
	block->ser->count++;
	out->ser->devices = kho_block_set_head_pa(&out->blocks);
	out->ser->nr_devices++;
	return pci_last_record(block);
}

/* The last record moves to where that of @dev was: there are no free slots. */
static void pci_outgoing_free(struct pci_dev *dev)
{
	struct pci_dev_ser *last, *rec = dev->liveupdate.outgoing;
	struct pci_outgoing *out = &pci_outgoing;
	struct kho_block *block;
	struct pci_dev *mover;

	KUNIT_STATIC_STUB_REDIRECT(pci_outgoing_free, dev);

	block = list_last_entry(&out->blocks.blocks, struct kho_block, list);
	last = pci_last_record(block);
	mover = list_last_entry(&out->devices, struct pci_dev, liveupdate.node);
	if (mover != dev) {
		*rec = *last;
		WRITE_ONCE(mover->liveupdate.outgoing, rec);
		list_move(&mover->liveupdate.node, &dev->liveupdate.node);
	}

	memset(last, 0, sizeof(*last));
	block->ser->count--;
	out->ser->nr_devices--;
	kho_block_set_shrink(&out->blocks, out->ser->nr_devices);
	out->ser->devices = kho_block_set_head_pa(&out->blocks);
}

static void pci_record_bars(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	for (int i = 0; i < PCI_DEV_SER_BARS; i++) {
		struct resource *res = &dev->resource[i];

		rec->bar_order[i] = res->flags ? ilog2(resource_size(res)) : 0;
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

static bool pci_ari_forwarding(struct pci_dev *bridge)
{
	u16 ctl;

	pcie_capability_read_word(bridge, PCI_EXP_DEVCTL2, &ctl);
	return ctl & PCI_EXP_DEVCTL2_ARI;
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

/* One that isn't ours, or that we have taken over from the previous kernel. */
static bool pci_has_own_override(struct pci_dev *dev)
{
	if (dev->liveupdate.override_set)
		return dev->liveupdate.record.flags & PCI_DEV_SER_OVERRIDE;

	return device_has_driver_override(&dev->dev);
}

static void pci_record_endpoint(struct pci_dev *dev, struct pci_dev_ser *rec)
{
	if (dev->driver)
		strscpy(rec->driver, dev->driver->name);
	if (pci_has_own_override(dev))
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
}

/* Outgoing: devices and their bridges */

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
		trace_pci_liveupdate_preserve(dev);
		pci_dbg(dev, "preserved\n");
	}

	rec->refcount++;
	return 0;
}

static void pci_outgoing_drop(struct pci_dev *dev)
{
	pci_outgoing_free(dev);
	WRITE_ONCE(dev->liveupdate.outgoing, NULL);
	list_del(&dev->liveupdate.node);
	trace_pci_liveupdate_unpreserve(dev);
	pci_dbg(dev, "not preserved any more\n");
	pm_runtime_put(&dev->dev);
	if (!pci_is_endpoint(dev))
		pci_queue_restart();
	pci_dev_put(dev);
}

static void pci_outgoing_put(struct pci_dev *dev)
{
	struct pci_dev_ser *rec = dev->liveupdate.outgoing;

	/* The path is walked to its end, whatever is found on it. */
	if (!rec || !rec->refcount || (pci_is_endpoint(dev) && rec->refcount != 1))
		pci_err(dev, "record of a preserved path is damaged\n");
	if (!rec)
		return;

	/* A device has one reference, whatever its record says. */
	if (rec->refcount > 1 && !pci_is_endpoint(dev))
		rec->refcount--;
	else
		pci_outgoing_drop(dev);
}

/* Put the path from @dev up to below @end; all of it if @end is NULL. */
static void pci_outgoing_put_path(struct pci_dev *dev, struct pci_dev *end)
{
	for (; dev != end; dev = pci_upstream_bridge(dev))
		pci_outgoing_put(dev);
}

static int pci_outgoing_get_path(struct pci_dev *dev)
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

/* A bridge that was reset, or pulled, doesn't know them any more. */
static bool pci_has_bus_numbers(struct pci_dev *bridge)
{
	const struct resource *res = &bridge->subordinate->busn_res;
	u32 buses;

	pci_read_config_dword(bridge, PCI_PRIMARY_BUS, &buses);
	return FIELD_GET(PCI_SECONDARY_BUS_MASK, buses) == res->start &&
	       FIELD_GET(PCI_SUBORDINATE_BUS_MASK, buses) == res->end;
}

/* A quirk finds out its DMA aliases, and leaves it with Bus Master Enable off. */
static bool pci_is_switchtec_ntb(struct pci_dev *dev)
{
	return (dev->class >> 8) == PCI_CLASS_BRIDGE_OTHER &&
	       (dev->vendor == PCI_VENDOR_ID_MICROSEMI ||
		dev->vendor == PCI_VENDOR_ID_EFAR);
}

/* Say why @dev can't be preserved; NULL if it can. */
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

	for (pos = dev; pos; pos = pci_upstream_bridge(pos)) {
		if (pos->hdr_type == PCI_HEADER_TYPE_CARDBUS)
			return "devices below a CardBus bridge can't be preserved";
		if (!pci_bars_can_be_recorded(pos))
			return "the size of a BAR was changed by a quirk";
		if (pos->current_state != PCI_D0)
			return "it or a bridge above it isn't in D0";
		if (pci_dev_has_specific_acs(pos))
			return "a quirk emulates ACS for it or for a bridge above it";
		/* The next kernel would refuse the table */
		if (!pos->bus->busn_res.parent)
			return "bus numbers of a bridge above it aren't only its own";
		if (pos != dev && !pci_has_bus_numbers(pos))
			return "a bridge above it has lost its bus numbers";
	}

	return NULL;
}

static int pci_outgoing_preserve(struct pci_dev *dev)
{
	const char *why;

	/*
	 * Who enumerates may be past asking whether a bridge is preserved. Don't
	 * wait: a removal waits for the users of a device, perhaps for this one.
	 */
	ACQUIRE(mutex_try, rescan)(&pci_rescan_remove_lock);
	if (ACQUIRE_ERR(mutex_try, &rescan))
		return -EAGAIN;

	guard(mutex)(&pci_liveupdate_mutex);

	/* The next kernel's table is complete: see pci_liveupdate_keep_running() */
	if (kexec_in_progress)
		return -EBUSY;
	/* pci_liveupdate_remove_device() has been here and won't come again. */
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

/* Outgoing: the life of the table */

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
	struct pci_dev *dev, *prev;

	guard(mutex)(&pci_liveupdate_mutex);

	/* A driver may have a bug. It must not leave pointers into the table. */
	list_for_each_entry_safe_reverse(dev, prev, &out->devices,
					 liveupdate.node) {
		if (pci_is_endpoint(dev))
			pci_err(dev, "was still preserved by driver %s when the last file was gone\n",
				dev_driver_string(&dev->dev));
		pci_outgoing_drop(dev);
	}

	kho_block_set_destroy(&out->blocks);
	kho_unpreserve_free(out->ser);
	WRITE_ONCE(out->ser, NULL);
}

/* Incoming: loading the table */

/* What a record can have in its flags if it is that of a bridge, or isn't. */
#define PCI_RECORD_BRIDGE_FLAGS						\
	(PCI_DEV_SER_FLAGS & ~(PCI_DEV_SER_OVERRIDE | PCI_DEV_SER_SRIOV))
#define PCI_RECORD_ENDPOINT_FLAGS					\
	(PCI_DEV_SER_OVERRIDE | PCI_DEV_SER_BROKEN_INTX |		\
	 PCI_DEV_SER_ACS | PCI_DEV_SER_SRIOV)

/* The one message that says why a boot is quarantined. */
static __printf(1, 2) void pci_table_err(const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list args;

	va_start(args, fmt);
	vaf.va = &args;
	pr_err("the previous kernel's table isn't used: %pV; the devices in it will be stopped, restart their users\n",
	       &vaf);
	va_end(args);
}

static unsigned long pci_record_key(u32 domain, u16 bdf)
{
	return (unsigned long)domain << 16 | bdf;
}

static unsigned long pci_bus_key(u32 domain, u8 bus)
{
	return (unsigned long)domain << 8 | bus;
}

/* Bridges have no driver here, and what is behind the final NUL is zero. */
static bool pci_record_driver_ok(const struct pci_dev_ser *rec)
{
	size_t len = strnlen(rec->driver, sizeof(rec->driver));

	if (len && rec->flags & PCI_DEV_SER_BRIDGE)
		return false;

	return len < sizeof(rec->driver) &&
	       !memchr_inv(rec->driver + len, 0, sizeof(rec->driver) - len);
}

/* A subordinate bus that comes first has no devices, so wrong references. */
static bool pci_record_buses_ok(const struct pci_dev_ser *rec)
{
	return rec->secondary > PCI_BUS_NUM(rec->bdf) &&
	       !memchr_inv(rec->reserved, 0, sizeof(rec->reserved));
}

/* Enumeration takes these for an empty slot. */
static bool pci_record_id_ok(const struct pci_dev_ser *rec)
{
	return (rec->vendor && rec->vendor != U16_MAX) ||
	       (rec->device && rec->device != U16_MAX);
}

static bool pci_record_vfs_ok(const struct pci_dev_ser *rec)
{
	if (!(rec->flags & PCI_DEV_SER_SRIOV))
		return !rec->max_vf_buses &&
		       !memchr_inv(rec->vf_bar_order, 0, sizeof(rec->vf_bar_order));

	for (int i = 0; i < PCI_DEV_SER_VF_BARS; i++) {
		if (rec->vf_bar_order[i] >= BITS_PER_LONG_LONG)
			return false;
	}

	return true;
}

/* Say what is wrong with a record that is in use; NULL if nothing is. */
static const char *pci_record_check(const struct pci_dev_ser *rec)
{
	bool bridge = rec->flags & PCI_DEV_SER_BRIDGE;

	if (rec->flags & ~(bridge ? PCI_RECORD_BRIDGE_FLAGS :
				    PCI_RECORD_ENDPOINT_FLAGS))
		return "impossible flags";
	if (!pci_record_id_ok(rec))
		return "impossible vendor and device ID";
	if (!bridge && rec->refcount != 1)
		return "more than one reference to a device";
	if (bridge && (!pci_record_buses_ok(rec) || rec->max_vf_buses))
		return "impossible bus numbers";
	if (!pci_record_driver_ok(rec))
		return "impossible driver name";
	if (rec->acs_ctrl && !(rec->flags & PCI_DEV_SER_ACS))
		return "ACS Control without ACS";
	for (int i = 0; i < PCI_DEV_SER_BARS; i++) {
		if (rec->bar_order[i] >= BITS_PER_LONG_LONG)
			return "impossible BAR size";
	}
	if (!bridge && !pci_record_vfs_ok(rec))
		return "impossible virtual functions";

	return NULL;
}

static int pci_record_error(const struct pci_dev_ser *rec, const char *why)
{
	pci_table_err("record of %04x:%02x:%02x.%d: %s", rec->domain,
		      PCI_BUS_NUM(rec->bdf), PCI_SLOT(rec->bdf),
		      PCI_FUNC(rec->bdf), why);
	return -EINVAL;
}

/* Put a record into an index where there must be no other with the same @key. */
static int pci_record_insert(struct xarray *index, unsigned long key,
			     struct pci_dev_ser *rec, const char *why)
{
	int err = xa_insert(index, key, rec, GFP_KERNEL);

	return err ? pci_record_error(rec, err == -EBUSY ? why : "out of memory") :
		     0;
}

static int pci_incoming_add(struct pci_incoming *in, struct xarray *buses,
			    struct pci_dev_ser *rec)
{
	const char *why = pci_record_check(rec);
	int err;

	if (why)
		return pci_record_error(rec, why);

	err = pci_record_insert(&in->index,
				pci_record_key(rec->domain, rec->bdf), rec,
				"two records for one device");
	if (!err && rec->flags & PCI_DEV_SER_BRIDGE)
		err = pci_record_insert(buses,
					pci_bus_key(rec->domain, rec->secondary),
					rec, "two bridges to one bus");

	return err;
}

static int pci_incoming_index(struct pci_incoming *in, struct xarray *buses)
{
	struct kho_block_header_ser *block;
	u64 nr_devices = 0;
	int err;

	for (u64 pa = in->ser->devices; pa; pa = block->next) {
		struct pci_dev_ser *rec;

		cond_resched();
		block = phys_to_virt(pa);
		rec = (struct pci_dev_ser *)(block + 1);
		for (u64 i = 0; i < block->count; i++, rec++) {
			if (!rec->refcount)
				continue;
			err = pci_incoming_add(in, buses, rec);
			if (err)
				return err;
			nr_devices++;
		}
	}

	if (nr_devices != in->ser->nr_devices) {
		pci_table_err("it holds %llu records, not %llu", nr_devices,
			      in->ser->nr_devices);
		return -EINVAL;
	}

	return 0;
}

/*
 * What has a bus number that is the bridge's must be below it: all the way up to
 * its secondary bus there are bridges, and their bus numbers are the bridge's, too.
 */
static bool pci_record_below(struct xarray *buses,
			     const struct pci_dev_ser *bridge,
			     const struct pci_dev_ser *rec)
{
	u8 bus = PCI_BUS_NUM(rec->bdf);
	const struct pci_dev_ser *above;

	if (rec->flags & PCI_DEV_SER_BRIDGE &&
	    rec->subordinate > bridge->subordinate)
		return false;
	if (bus == bridge->secondary)
		return true;

	/* The one above is looked at, too, or else is a record of @bridge's bus */
	above = xa_load(buses, pci_bus_key(rec->domain, bus));
	return above && PCI_BUS_NUM(above->bdf) >= bridge->secondary;
}

static int pci_incoming_check_bridge(struct pci_incoming *in,
				     struct xarray *buses,
				     const struct pci_dev_ser *bridge)
{
	unsigned long first = pci_record_key(bridge->domain,
					     PCI_DEVID(bridge->secondary, 0));
	unsigned long last = pci_record_key(bridge->domain,
					    PCI_DEVID(bridge->subordinate, 0xff));
	struct pci_dev_ser *rec;
	u32 nr_devices = 0;
	unsigned long key;

	xa_for_each_range(&in->index, key, rec, first, last) {
		if (!pci_record_below(buses, bridge, rec))
			return pci_record_error(rec, "not below the bridge with its bus number");
		if (!(rec->flags & PCI_DEV_SER_BRIDGE))
			nr_devices++;
	}

	if (nr_devices != bridge->refcount)
		return pci_record_error(bridge, "wrong number of references");

	return 0;
}

/* Fill the index and see whether the records make up paths. */
static int pci_incoming_read(struct pci_incoming *in)
{
	struct pci_dev_ser *bridge;
	struct xarray buses;
	unsigned long key;
	int err;

	xa_init(&buses);
	err = pci_incoming_index(in, &buses);
	xa_for_each(&buses, key, bridge) {
		if (err)
			break;
		cond_resched();
		err = pci_incoming_check_bridge(in, &buses, bridge);
	}
	xa_destroy(&buses);

	return err;
}

static void pci_incoming_free(struct pci_incoming *in)
{
	xa_destroy(&in->index);
	kho_block_set_destroy(&in->blocks);
	kho_restore_free(in->ser);
	in->ser = NULL;
}

/*
 * The memory of a table that isn't used stays reserved: it can't be told what it
 * is, and what the table points to by mistake may be somebody else's.
 */
static int pci_incoming_load(struct pci_incoming *in, u64 pa)
{
	int err;

	if (kho_preserved_size(pa) != PAGE_SIZE) {
		pci_table_err("no preserved memory at %#llx", pa);
		return -EINVAL;
	}

	in->ser = phys_to_virt(pa);
	if (in->ser->version != PCI_SER_VERSION) {
		pci_table_err("it has version %u, this kernel reads version %u",
			      in->ser->version, PCI_SER_VERSION);
		return -EOPNOTSUPP;
	}

	kho_block_set_init(&in->blocks, sizeof(struct pci_dev_ser));
	if (in->ser->reserved ||
	    !kho_block_set_can_restore(&in->blocks, in->ser->devices)) {
		pci_table_err("its chain of blocks is broken");
		return -EINVAL;
	}

	err = pci_incoming_read(in);
	if (err)
		return err;

	err = kho_block_set_restore(&in->blocks, in->ser->devices);
	if (err) {
		pci_table_err("its blocks can't be restored (%pe)", ERR_PTR(err));
		/* They were given back */
		kho_restore_free(in->ser);
	}

	return err;
}

/* Never fails: LUO would remember the error and could not finish the files. */
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

/* Incoming: devices */

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

/* The record of a device that was not found yet: one that comes again is another. */
static struct pci_dev_ser *pci_incoming_find(struct pci_incoming *in,
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

static void pci_incoming_end(struct pci_dev *dev)
{
	WRITE_ONCE(dev->liveupdate.incoming, 0);
	xa_clear_mark(&pci_incoming.index, pci_dev_key(dev), PCI_RECORD_INCOMING);
	trace_pci_liveupdate_finish(dev);
	pci_dbg(dev, "ordinary again\n");
}

static void pci_incoming_release_bridge(struct pci_dev *bridge)
{
	pci_incoming_end(bridge);
	bridge->liveupdate.buses_lost = false;
	pci_queue_restart();
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

static void pci_incoming_release_path(struct pci_dev *dev)
{
	struct pci_dev *pos = dev;

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

static void pci_quiesce(struct pci_dev *dev, const char *why)
{
	pci_warn(dev, "DMA stopped: %s; restart its user\n", why);
	pci_clear_master(dev);
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
		pci_quiesce(dev, "the bridge above it isn't the preserved one");
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
			pci_quiesce(dev, "it may be one of the previous kernel's");
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

static void pci_incoming_device_add(struct pci_incoming *in, struct pci_dev *dev)
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
		pci_quiesce(dev, "no memory for the name of its driver");
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
			pci_quiesce(dev, "found after its live update was finished");
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
 * Not what isn't decoded, and could be at an address that is another's by now: a
 * ROM that is off, and the BARs of virtual functions.
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

/**
 * pci_liveupdate_starts_services - Ask whether services of a port are restarted
 * @port: port that portdrv is bound to
 *
 * Context: the lock of @port is held.
 * Return: true if devices below @port rely on its bus mastering already.
 */
bool pci_liveupdate_starts_services(struct pci_dev *port)
{
	return port->liveupdate.starting;
}

/**
 * pci_liveupdate_keep_bus_numbers - Ask whether bus numbers must stay
 *
 * Context: enumeration. May sleep.
 * Return: true as long as there are outgoing or incoming devices, or a quarantine:
 * no bridge that has bus numbers may be given others.
 */
bool pci_liveupdate_keep_bus_numbers(void)
{
	struct pci_incoming *in;

	if (READ_ONCE(pci_outgoing.ser))
		return true;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return false;

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	return true;
}

/**
 * pci_liveupdate_bus_numbers_ok - Check the bus numbers of a preserved bridge
 * @bridge: the bridge, which is about to be scanned
 * @buses:  its Primary Bus Number register and the two that follow
 * @max:    highest bus number that is taken; raised to that of @bridge, as what
 *          was below it may still use its numbers
 *
 * If an incoming bridge has lost its numbers, DMA from below it is stopped: nobody
 * will find the devices, to stop them at finish.
 *
 * Context: enumeration, with pci_rescan_remove_lock held or at boot. May sleep.
 * Return: false if the bridge has lost its numbers, and must not be scanned.
 */
bool pci_liveupdate_bus_numbers_ok(struct pci_dev *bridge, u32 buses, int *max)
{
	u8 subordinate = FIELD_GET(PCI_SUBORDINATE_BUS_MASK, buses);
	u8 primary = FIELD_GET(PCI_PRIMARY_BUS_MASK, buses);
	const struct pci_dev_ser *rec;

	guard(mutex)(&pci_liveupdate_mutex);

	rec = bridge->liveupdate.incoming ? &bridge->liveupdate.record :
					    bridge->liveupdate.outgoing;
	if (!rec)
		return true;

	/* The Primary Bus Number may be hard-wired to 0 */
	if (FIELD_GET(PCI_SECONDARY_BUS_MASK, buses) == rec->secondary &&
	    subordinate == rec->subordinate &&
	    (!primary || primary == bridge->bus->number))
		return true;

	if (!bridge->liveupdate.buses_lost)
		pci_warn(bridge, "was reset and has lost its bus numbers [bus %02x-%02x]; restart the users of the devices below, then rescan\n",
			 rec->secondary, rec->subordinate);
	bridge->liveupdate.buses_lost = true;
	if (bridge->liveupdate.incoming)
		pci_clear_master(bridge);

	*max = max3(*max, (int)rec->subordinate, (int)subordinate);
	return false;
}

/**
 * pci_liveupdate_defer_services - Ask whether a port's services have to wait
 * @port: port that portdrv is being bound to
 *
 * If so, pcie_portdrv_start_services() is called soon after no device below the
 * port is preserved any more.
 *
 * Context: the lock of @port is held.
 * Return: true if the services must not be started now.
 */
bool pci_liveupdate_defer_services(struct pci_dev *port)
{
	bool defer = pci_liveupdate_is_preserved(port);

	WRITE_ONCE(port->liveupdate.services_deferred, defer);
	return defer;
}

/* Incoming: the end of the table */

static void pci_flb_finish(struct liveupdate_flb_op_args *args)
{
	struct pci_incoming *in = args->obj;
	struct pci_dev *dev = NULL;

	guard(mutex)(&pci_liveupdate_mutex);

	if (in->quarantined) {
		in->quarantined = false;
		return;
	}

	for_each_pci_dev(dev) {
		if (!dev->liveupdate.incoming)
			continue;
		if (!pci_is_endpoint(dev)) {
			pci_incoming_release_bridge(dev);
			continue;
		}
		pci_quiesce(dev, "no driver has finished its live update");
		pci_incoming_release(dev);
	}

	pci_incoming_free(in);
}

static const struct liveupdate_flb_ops pci_liveupdate_flb_ops = {
	.preserve = pci_flb_preserve,
	.unpreserve = pci_flb_unpreserve,
	.retrieve = pci_flb_retrieve,
	.finish = pci_flb_finish,
	.owner = THIS_MODULE,
};

static struct liveupdate_flb pci_liveupdate_flb = {
	.ops = &pci_liveupdate_flb_ops,
	.compatible = PCI_LIVEUPDATE_COMPATIBLE,
};

/* What enumeration found */

static void pci_incoming_report(struct pci_incoming *in)
{
	struct pci_dev_ser *rec;
	unsigned int nr_missing = 0;
	unsigned long key;

	xa_for_each(&in->index, key, rec) {
		if (xa_get_mark(&in->index, key, PCI_RECORD_FOUND))
			continue;
		pr_warn("%04x:%02x:%02x.%d [%04x:%04x] was preserved but is not there; restart its user\n",
			rec->domain, PCI_BUS_NUM(rec->bdf), PCI_SLOT(rec->bdf),
			PCI_FUNC(rec->bdf), rec->vendor, rec->device);
		nr_missing++;
	}

	pr_info("adopted %u devices and %u bridges, %u missing\n",
		in->nr_devices, in->nr_bridges, nr_missing);
}

static int __init pci_liveupdate_report(void)
{
	struct pci_incoming *in;

	if (liveupdate_flb_get_incoming(&pci_liveupdate_flb, (void **)&in))
		return 0;

	scoped_guard(mutex, &pci_liveupdate_mutex) {
		if (!in->quarantined)
			pci_incoming_report(in);
	}

	liveupdate_flb_put_incoming(&pci_liveupdate_flb);
	return 0;
}
late_initcall(pci_liveupdate_report);

/* Both directions: debugfs */

static struct pci_dev_ser *pci_table_record(struct kho_block_set *blocks, u64 nr)
{
	struct kho_block *block;

	list_for_each_entry(block, &blocks->blocks, list) {
		if (nr < block->ser->count)
			return (struct pci_dev_ser *)(block->ser + 1) + nr;
		nr -= block->ser->count;
	}

	return NULL;
}

static void *pci_table_start(struct seq_file *m, loff_t *pos)
	__acquires(&pci_liveupdate_mutex)
{
	struct kho_block_set *blocks = m->private;

	mutex_lock(&pci_liveupdate_mutex);
	if (blocks == &pci_incoming.blocks && pci_incoming.quarantined)
		return *pos ? NULL : SEQ_START_TOKEN;

	return pci_table_record(blocks, *pos);
}

static void *pci_table_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return v == SEQ_START_TOKEN ? NULL : pci_table_record(m->private, *pos);
}

static void pci_table_stop(struct seq_file *m, void *v)
	__releases(&pci_liveupdate_mutex)
{
	mutex_unlock(&pci_liveupdate_mutex);
}

static const char *pci_incoming_state(const struct pci_dev_ser *rec)
{
	unsigned long key = pci_record_key(rec->domain, rec->bdf);

	if (!xa_get_mark(&pci_incoming.index, key, PCI_RECORD_FOUND))
		return " missing";
	if (xa_get_mark(&pci_incoming.index, key, PCI_RECORD_INCOMING))
		return " incoming";
	return " done";
}

static int pci_table_show(struct seq_file *m, void *v)
{
	const struct pci_dev_ser *rec = v;

	if (v == SEQ_START_TOKEN) {
		seq_puts(m, "quarantined\n");
		return 0;
	}

	/* A free slot */
	if (!rec->refcount)
		return 0;

	seq_printf(m, "%04x:%02x:%02x.%d %04x:%04x ", rec->domain,
		   PCI_BUS_NUM(rec->bdf), PCI_SLOT(rec->bdf),
		   PCI_FUNC(rec->bdf), rec->vendor, rec->device);
	if (rec->flags & PCI_DEV_SER_BRIDGE)
		seq_printf(m, "bridge %u %02x-%02x", rec->refcount,
			   rec->secondary, rec->subordinate);
	else
		seq_printf(m, "device %u %s", rec->refcount,
			   rec->driver[0] ? rec->driver : "-");
	if (m->private == &pci_incoming.blocks)
		seq_puts(m, pci_incoming_state(rec));
	seq_putc(m, '\n');
	return 0;
}

static const struct seq_operations pci_table_sops = {
	.start = pci_table_start,
	.next = pci_table_next,
	.stop = pci_table_stop,
	.show = pci_table_show,
};
DEFINE_SEQ_ATTRIBUTE(pci_table);

static int __init pci_liveupdate_debugfs(void)
{
	struct dentry *dir;

	if (!liveupdate_enabled())
		return 0;

	dir = debugfs_create_dir("pci_liveupdate", NULL);
	debugfs_create_file("outgoing", 0400, dir, &pci_outgoing.blocks,
			    &pci_table_fops);
	debugfs_create_file("incoming", 0400, dir, &pci_incoming.blocks,
			    &pci_table_fops);
	return 0;
}
late_initcall(pci_liveupdate_debugfs);

/* Both directions: leaving */

/**
 * pci_liveupdate_keep_resource - Ask whether a resource stays what it is
 * @dev: a device, or a bridge
 * @res: one of its resources
 *
 * Context: any.
 * Return: true if @dev is preserved, so that nothing may be assigned to @res.
 * But to a ROM that is off it can be, as that isn't written to the device.
 */
bool pci_liveupdate_keep_resource(struct pci_dev *dev, struct resource *res)
{
	if (!pci_liveupdate_is_preserved(dev))
		return false;

	return res != &dev->resource[PCI_ROM_RESOURCE] ||
	       res->flags & IORESOURCE_ROM_ENABLE || dev->rom_bar_overlap;
}

/**
 * pci_liveupdate_keep_running - Ask whether to leave a device alone at shutdown
 * @dev: device or bridge that pci_device_shutdown() is about to shut down
 *
 * A kexec with a live update doesn't stop what it preserves: bus mastering stays
 * on, and the driver's .shutdown isn't called, as it would disable the device or
 * the services of the port. The driver's last word was its file handler's
 * .freeze. An image that was loaded without kexec handover gets no table: its
 * kernel wouldn't know of the devices nor keep off the memory that they use.
 *
 * Context: after LUO has handed the table over, with the device lock held. May
 * sleep.
 * Return: true if the device must be left as it is.
 */
bool pci_liveupdate_keep_running(struct pci_dev *dev)
{
	if (!kexec_in_progress)
		return false;

	/* Who changes the table without having seen that must come to its end. */
	guard(mutex)(&pci_liveupdate_mutex);

	return kexec_image->kho.fdt && dev->liveupdate.outgoing;
}

/**
 * pci_liveupdate_keep_master - Ask whether a disabled device goes on with DMA
 * @dev: device or bridge that pci_disable_device() is about to disable
 *
 * Return: true for a bridge that is preserved, as the devices below need it, and for
 * an incoming device that its driver hasn't taken over with pci_set_master().
 */
bool pci_liveupdate_keep_master(struct pci_dev *dev)
{
	if (pci_is_endpoint(dev))
		return pci_liveupdate_is_incoming(dev) && !dev->is_busmaster;

	return pci_liveupdate_is_preserved(dev);
}

/**
 * pci_liveupdate_is_preserved - Ask whether a device may be reconfigured
 * @dev: a device, or a bridge
 *
 * Context: any.
 * Return: true if @dev is outgoing or incoming, so that the PCI core must not
 * change what it is.
 */
bool pci_liveupdate_is_preserved(struct pci_dev *dev)
{
	return READ_ONCE(dev->liveupdate.outgoing) ||
	       READ_ONCE(dev->liveupdate.incoming);
}

static void pci_outgoing_forget(struct pci_dev *dev, const char *what)
{
	/* A table that was handed over is the next kernel's: it finds out. */
	if (!dev->liveupdate.outgoing || kexec_in_progress)
		return;

	pci_warn(dev, "%s while it was preserved; the next kernel won't know of it\n",
		 what);
	/*
	 * The devices below a bridge leave before it does, and put it. If it is
	 * here still its record is damaged, and those above it are right.
	 */
	if (pci_is_endpoint(dev))
		pci_outgoing_put_path(dev, NULL);
	else
		pci_outgoing_drop(dev);
}

/**
 * pci_liveupdate_unbind_device - Forget an outgoing device without a driver
 * @dev: device whose driver's .remove has run
 *
 * The driver has stopped it, so there is nothing to hand over. One that is incoming
 * still waits for its driver to come back.
 *
 * Context: the lock of @dev is held. May sleep.
 */
void pci_liveupdate_unbind_device(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (pci_is_endpoint(dev))
		pci_outgoing_forget(dev, "unbound");
}

/**
 * pci_liveupdate_remove_device - Forget a device that is removed
 * @dev: device whose driver is unbound and whose registration is being undone
 *
 * Whatever its driver does later, the device leaves the tables here, together
 * with its references on the bridges above.
 *
 * Context: pci_rescan_remove_lock is held. May sleep.
 */
void pci_liveupdate_remove_device(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (dev->liveupdate.incoming && pci_is_endpoint(dev)) {
		pci_quiesce(dev, "removed before its live update was finished");
		pci_incoming_release_path(dev);
	} else if (dev->liveupdate.incoming) {
		pci_incoming_end(dev);
	}

	pci_outgoing_forget(dev, "removed");
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
 * here to finish, neither kernel changes their configuration but for what the
 * driver asks for.
 *
 * Context: called from .preserve of a file handler that was registered with
 * pci_liveupdate_register_flb(), not with a device lock held. May sleep.
 *
 * Return:
 * * 0: it is preserved
 * * -EOPNOTSUPP: live update is off
 * * -EBUSY: @dev is outgoing already, or the table has been handed over
 * * -EINVAL: a kind of device that can't be preserved; a warning says why
 * * -ENODEV: @dev has been removed
 * * -EAGAIN: a rescan, a hot-plug or a removal is going on; try again
 * * -ENOENT: there is no outgoing table: not called from .preserve
 * * -ENOMEM, -ENOSPC: the table can't grow; nothing has changed
 * * what pm_runtime_resume_and_get() returned: it can't be brought to D0
 */
int pci_liveupdate_preserve(struct pci_dev *dev)
{
	struct pci_outgoing *out;
	int err;

	err = liveupdate_flb_get_outgoing(&pci_liveupdate_flb, (void **)&out);
	if (err)
		return err;

	/* Runtime PM of a removed device is off */
	err = test_bit(PCI_DEV_REMOVED, &dev->priv_flags) ?
		      -ENODEV : pm_runtime_resume_and_get(&dev->dev);
	if (!err) {
		err = pci_outgoing_preserve(dev);
		/* From here on its record keeps it resumed */
		pm_runtime_put(&dev->dev);
	}

	/* What hasn't seen yet that bridges are preserved has to come to its end */
	if (!err)
		flush_work(&pci_restart_work.work);

	liveupdate_flb_put_outgoing(&pci_liveupdate_flb);
	return err;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_preserve);

/**
 * pci_liveupdate_unpreserve - Cancel pci_liveupdate_preserve()
 * @dev: the device; nothing happens if it isn't outgoing, as after its removal or
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
 * @dev: the device, which its driver has adopted; nothing happens if it isn't
 *       incoming
 *
 * MSI and MSI-X that the previous kernel has left enabled are turned off if the
 * driver doesn't use them.
 *
 * Context: called from .finish of the file handler, or from the driver's .remove for
 * a device that it had taken over; not while the driver allocates interrupt vectors.
 * May sleep.
 */
void pci_liveupdate_finish(struct pci_dev *dev)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (dev->liveupdate.incoming && pci_is_endpoint(dev))
		pci_incoming_release_path(dev);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_finish);

/**
 * pci_liveupdate_abandon - Give up an incoming device that nobody will finish
 * @dev: the device; nothing happens if it isn't incoming
 * @why: what happened, for the administrator
 *
 * Stops the device's DMA, as the memory that it goes to will be used for something
 * else when the files of its user are finished. The device is ordinary then.
 *
 * For a .retrieve that fails, as LUO doesn't try again.
 *
 * Context: not while a driver is being bound or allocates interrupt vectors. May
 * sleep.
 */
void pci_liveupdate_abandon(struct pci_dev *dev, const char *why)
{
	guard(mutex)(&pci_liveupdate_mutex);

	if (!dev->liveupdate.incoming || !pci_is_endpoint(dev))
		return;

	pci_quiesce(dev, why);
	pci_incoming_release_path(dev);
}
EXPORT_SYMBOL_GPL(pci_liveupdate_abandon);

/**
 * pci_liveupdate_is_incoming - Ask whether a device waits to be adopted
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
 * For .retrieve, and for .can_finish: a file whose device isn't incoming, as it is
 * gone, not found yet, given up, or in quarantine, has nothing to wait for. It is the
 * driver's to know whether the device was still that of the file at the kexec.
 *
 * Context: may sleep.
 * Return: the device, which the caller gives back with pci_dev_put(); NULL if there
 * is none or if it isn't incoming.
 */
struct pci_dev *pci_liveupdate_get_incoming(u32 domain, u16 bdf)
{
	struct pci_dev *dev;

	dev = pci_get_domain_bus_and_slot(domain, PCI_BUS_NUM(bdf), bdf & 0xff);
	if (dev && pci_is_endpoint(dev) && pci_liveupdate_is_incoming(dev))
		return dev;

	pci_dev_put(dev);
	return NULL;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_get_incoming);

/* What drivers call: saved state */

/**
 * pci_liveupdate_write_state - Write saved configuration state for the next kernel
 * @state: what pci_store_saved_state() returned
 * @buf:   where to write a &struct pci_state_ser to
 * @size:  room at @buf in bytes; if it isn't enough, nothing is written
 *
 * For a driver that restores its device to this state after a reset. The driver
 * carries the result in memory of its own.
 *
 * Context: any; @state doesn't change meanwhile.
 * Return: the number of bytes that are needed.
 */
size_t pci_liveupdate_write_state(const struct pci_saved_state *state,
				  void *buf, size_t size)
{
	size_t need = sizeof(struct pci_state_ser) + sizeof(struct pci_cap_ser);
	const struct pci_cap_saved_data *cap;
	struct pci_state_ser *ser = buf;
	struct pci_cap_ser *out;

	for (cap = (const void *)state->caps; cap->size;
	     cap = (void *)cap + sizeof(*cap) + cap->size)
		need += sizeof(*out) + cap->size;

	if (need > size)
		return need;

	memset(buf, 0, need);
	memcpy(ser->config, state->config_space, sizeof(ser->config));

	out = (void *)ser->caps;
	for (cap = (const void *)state->caps; cap->size;
	     cap = (void *)cap + sizeof(*cap) + cap->size) {
		out->id = cap->cap_nr;
		out->extended = cap->cap_extended;
		out->size = cap->size;
		memcpy(out->data, cap->data, cap->size);
		out = (void *)out->data + out->size;
	}

	return need;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_write_state);

/**
 * pci_liveupdate_read_state - Read what pci_liveupdate_write_state() wrote
 * @buf:  the &struct pci_state_ser
 * @size: its length in bytes
 *
 * Whether the state fits the device is checked when it is loaded.
 *
 * Context: may sleep.
 * Return: state for pci_load_saved_state(), which the caller frees with kfree();
 * or an ERR_PTR: -EINVAL if @buf doesn't hold a complete state, -ENOMEM.
 */
struct pci_saved_state *pci_liveupdate_read_state(const void *buf, size_t size)
{
	const struct pci_state_ser *ser = buf;
	const void *end = buf + size;
	struct pci_saved_state *state;
	struct pci_cap_saved_data *cap;
	const struct pci_cap_ser *in;

	if (size < sizeof(*ser) + sizeof(*in))
		return ERR_PTR(-EINVAL);

	for (in = (const void *)ser->caps; in->id;
	     in = (const void *)in->data + in->size) {
		if (!in->size || in->size > end - (const void *)in->data ||
		    end - (const void *)in->data - in->size < sizeof(*in))
			return ERR_PTR(-EINVAL);
	}

	/* In memory a capability's header is as long as it is here. */
	static_assert(sizeof(*cap) == sizeof(*in));
	state = kzalloc(size, GFP_KERNEL);
	if (!state)
		return ERR_PTR(-ENOMEM);

	memcpy(state->config_space, ser->config, sizeof(ser->config));

	cap = (void *)state->caps;
	for (in = (const void *)ser->caps; in->id;
	     in = (const void *)in->data + in->size) {
		cap->cap_nr = in->id;
		cap->cap_extended = in->extended;
		cap->size = in->size;
		memcpy(cap->data, in->data, in->size);
		cap = (void *)cap->data + cap->size;
	}

	return state;
}
EXPORT_SYMBOL_GPL(pci_liveupdate_read_state);

#ifdef CONFIG_PCI_LIVEUPDATE_KUNIT_TEST
#include "tests/liveupdate_kunit.c"
#include "tests/liveupdate_bench.c"
#endif
