// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * The tables of PCI live update: how records and blocks are added and removed, and how the
 * table of the previous kernel is checked and loaded. Also the saved configuration state
 * that a driver hands over. This file handles records, not the devices that have them.
 */

#define pr_fmt(fmt) "PCI: liveupdate: " fmt

#include <linux/bits.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/io.h>
#include <linux/kexec_handover.h>
#include <linux/kho_block.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/pci.h>
#include <linux/printk.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/xarray.h>

#include "liveupdate_internal.h"
#include "pci.h"

struct pci_outgoing pci_outgoing = {
	.blocks = KHO_BLOCK_SET_INIT(pci_outgoing.blocks, sizeof(struct pci_dev_ser)),
	.devices = LIST_HEAD_INIT(pci_outgoing.devices),
};

struct pci_incoming pci_incoming = {
	.blocks = KHO_BLOCK_SET_INIT(pci_incoming.blocks, sizeof(struct pci_dev_ser)),
	.index = XARRAY_INIT(pci_incoming.index, 0),
};

/* Outgoing */

/* @block must not be empty. */
static struct pci_dev_ser *pci_last_record(struct kho_block *block)
{
	return (struct pci_dev_ser *)(block->ser + 1) + block->ser->count - 1;
}

/**
 * pci_outgoing_alloc - Add a record to the end of the outgoing table
 *
 * Context: pci_liveupdate_mutex is held, and the outgoing table exists. May sleep.
 * Return: the new record, or an ERR_PTR with the error of kho_block_set_grow().
 */
struct pci_dev_ser *pci_outgoing_alloc(void)
{
	struct pci_outgoing *out = &pci_outgoing;
	struct kho_block *block;
	int err;

	lockdep_assert_held(&pci_liveupdate_mutex);

	err = kho_block_set_grow(&out->blocks, out->ser->nr_devices + 1);
	if (err)
		return ERR_PTR(err);

	block = list_last_entry(&out->blocks.blocks, struct kho_block, list);
	block->ser->count++;
	out->ser->devices = kho_block_set_head_pa(&out->blocks);
	out->ser->nr_devices++;
	return pci_last_record(block);
}

/**
 * pci_outgoing_last - Find the last record of the outgoing table
 *
 * Context: pci_liveupdate_mutex is held, and the table isn't empty.
 * Return: the last record.
 */
struct pci_dev_ser *pci_outgoing_last(void)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	return pci_last_record(list_last_entry(&pci_outgoing.blocks.blocks,
					       struct kho_block, list));
}

/**
 * pci_outgoing_shrink - Remove the last record of the outgoing table
 *
 * Context: pci_liveupdate_mutex is held, and the table isn't empty.
 */
void pci_outgoing_shrink(void)
{
	struct pci_outgoing *out = &pci_outgoing;
	struct kho_block *block;

	lockdep_assert_held(&pci_liveupdate_mutex);

	block = list_last_entry(&out->blocks.blocks, struct kho_block, list);
	memset(pci_last_record(block), 0, sizeof(struct pci_dev_ser));
	block->ser->count--;
	out->ser->nr_devices--;
	kho_block_set_shrink(&out->blocks, out->ser->nr_devices);
	out->ser->devices = kho_block_set_head_pa(&out->blocks);
}

/* Incoming: checks of one record */

/* Flags that the record of a bridge, and that of an endpoint, may have. */
#define PCI_RECORD_BRIDGE_FLAGS						\
	(PCI_DEV_SER_FLAGS & ~(PCI_DEV_SER_OVERRIDE | PCI_DEV_SER_SRIOV))
#define PCI_RECORD_ENDPOINT_FLAGS					\
	(PCI_DEV_SER_OVERRIDE | PCI_DEV_SER_BROKEN_INTX |		\
	 PCI_DEV_SER_ACS | PCI_DEV_SER_SRIOV | PCI_DEV_SER_EXT_CONFIG)

/* Report why the boot is quarantined. Called only once, for the first error. */
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

static unsigned long pci_bus_key(u32 domain, u8 bus)
{
	return (unsigned long)domain << 8 | bus;
}

/* The name must be padded with NULs, at least one, and empty for a bridge. */
static bool pci_record_driver_ok(const struct pci_dev_ser *rec)
{
	size_t len = strnlen(rec->driver, sizeof(rec->driver));

	if (len && rec->flags & PCI_DEV_SER_BRIDGE)
		return false;

	return len < sizeof(rec->driver) &&
	       !memchr_inv(rec->driver + len, 0, sizeof(rec->driver) - len);
}

/*
 * The subordinate bus may still be lower than the secondary bus. If it is,
 * pci_incoming_check_bridge() walks an empty range, counts no devices, and refuses the
 * record, because the refcount of a record in use isn't 0.
 */
static bool pci_record_buses_ok(const struct pci_dev_ser *rec)
{
	return rec->secondary > PCI_BUS_NUM(rec->bdf) &&
	       !memchr_inv(rec->reserved, 0, sizeof(rec->reserved));
}

/* If both IDs are 0 or 0xffff, enumeration takes the slot for empty. */
static bool pci_record_id_ok(const struct pci_dev_ser *rec)
{
	return (rec->vendor && rec->vendor != U16_MAX) ||
	       (rec->device && rec->device != U16_MAX);
}

/* More than 2 GiB are behind a 64-bit BAR, whose upper half takes the next slot. */
static bool pci_record_bars_ok(const u8 *order, int count)
{
	for (int i = 0; i < count; i++) {
		if (order[i] >= BITS_PER_LONG_LONG)
			return false;
		if (order[i] >= 32 && (i + 1 == count || order[i + 1]))
			return false;
	}

	return true;
}

static bool pci_record_vfs_ok(const struct pci_dev_ser *rec)
{
	if (!(rec->flags & PCI_DEV_SER_SRIOV))
		return !rec->max_vf_buses &&
		       !memchr_inv(rec->vf_bar_order, 0, sizeof(rec->vf_bar_order));

	return rec->max_vf_buses >= PCI_BUS_NUM(rec->bdf) &&
	       pci_record_bars_ok(rec->vf_bar_order, PCI_DEV_SER_VF_BARS);
}

static u16 pci_record_flags(u32 version, bool bridge)
{
	u16 flags = bridge ? PCI_RECORD_BRIDGE_FLAGS : PCI_RECORD_ENDPOINT_FLAGS;

	return version < 102 ? flags & ~PCI_DEV_SER_EXT_CONFIG : flags;
}

/* Return what is wrong with @rec, which is in use; NULL if nothing is wrong. */
static const char *pci_record_check(const struct pci_dev_ser *rec, u32 version)
{
	bool bridge = rec->flags & PCI_DEV_SER_BRIDGE;

	if (rec->flags & ~pci_record_flags(version, bridge))
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
	if (!pci_record_bars_ok(rec->bar_order, PCI_STD_NUM_BARS) ||
	    rec->bar_order[PCI_ROM_RESOURCE] >= 32)
		return "impossible BAR size";
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

/* Incoming: checks of all records together */

/* Add @rec to @index, or report @why if another record has the same @key. */
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
	const char *why = pci_record_check(rec, in->ser->version);
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
 * Invariant: each record on a bus from @bridge's secondary to its subordinate bus is below
 * @bridge. pci_incoming_check_bridge() calls this function for each of these records, and
 * the invariant holds if this function returns true for all of them.
 *
 * Proof by induction over the bus number. If @rec is on the secondary bus, it is below
 * @bridge. Otherwise @rec's bus must be the secondary bus of another bridge, whose own bus
 * is lower, as pci_record_buses_ok() has checked, but not lower than @bridge's secondary
 * bus, as this function checks. So that other bridge is one of these records. By induction
 * it is below @bridge, and so is @rec.
 *
 * In addition, a bridge below @bridge must not have a higher subordinate bus than @bridge.
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

/* Index the records, and check that each bridge agrees with the records below it. */
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

/* Incoming: loading and freeing the table */

/**
 * pci_incoming_free - Free the table of the previous kernel
 * @in: a table that pci_incoming_load() has loaded
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 */
void pci_incoming_free(struct pci_incoming *in)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	xa_destroy(&in->index);
	kho_block_set_destroy(&in->blocks);
	kho_restore_free(in->ser);
	in->ser = NULL;
}

/**
 * pci_incoming_load - Check the table of the previous kernel, and take it over
 * @in: where to load the table; empty
 * @pa: physical address of the table's &struct pci_ser
 *
 * The memory of a table that fails a check stays reserved: a pointer in it may be
 * wrong and lead to memory that something else uses. The memory of a table that
 * passes the checks but can't be restored is freed.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 * Return: 0; or an error, after a message that says what is wrong with the table.
 * The caller must clear @in after an error.
 */
int pci_incoming_load(struct pci_incoming *in, u64 pa)
{
	int err;

	lockdep_assert_held(&pci_liveupdate_mutex);

	if (kho_preserved_size(pa) != PAGE_SIZE) {
		pci_table_err("no preserved memory at %#llx", pa);
		return -EINVAL;
	}

	in->ser = phys_to_virt(pa);
	if (in->ser->version < PCI_SER_VERSION_OLDEST || in->ser->version > PCI_SER_VERSION) {
		pci_table_err("it has version %u, this kernel reads versions %u to %u",
			      in->ser->version, PCI_SER_VERSION_OLDEST, PCI_SER_VERSION);
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
		/* kho_block_set_restore() has freed the blocks */
		kho_restore_free(in->ser);
	}

	return err;
}

/* What drivers call: saved state */

/**
 * pci_liveupdate_write_state - Write saved configuration state for the next kernel
 * @state: what pci_store_saved_state() returned
 * @buf:   buffer for a &struct pci_state_ser
 * @size:  size of @buf in bytes; if it is too small, nothing is written
 *
 * For a driver that restores its device to this state after a reset. The driver
 * itself hands @buf to the next kernel.
 *
 * Context: any; the caller makes sure that @state doesn't change.
 * Return: the number of bytes that the state needs.
 */
size_t pci_liveupdate_write_state(struct pci_saved_state *state, void *buf, size_t size)
{
	size_t need = sizeof(struct pci_state_ser) + sizeof(struct pci_cap_ser);
	const struct pci_cap_saved_data *cap;
	struct pci_state_ser *ser = buf;
	struct pci_cap_ser *out;

	for (cap = pci_saved_state_caps(state); cap->size; cap = (void *)cap->data + cap->size)
		need += sizeof(*out) + cap->size;

	if (need > size)
		return need;

	memset(buf, 0, need);
	memcpy(ser->config, pci_saved_state_config(state), sizeof(ser->config));

	out = (void *)ser->caps;
	for (cap = pci_saved_state_caps(state); cap->size; cap = (void *)cap->data + cap->size) {
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
 * @size: size of @buf in bytes
 *
 * pci_load_saved_state() checks whether the state fits the device.
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

	/* A capability's header has the same size in memory as in @buf. */
	static_assert(sizeof(*cap) == sizeof(*in));
	state = pci_alloc_saved_state(size - sizeof(*ser));
	if (!state)
		return ERR_PTR(-ENOMEM);

	memcpy(pci_saved_state_config(state), ser->config, sizeof(ser->config));

	cap = pci_saved_state_caps(state);
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
