// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * The tables of PCI live update: their records and blocks, how they grow and shrink, and
 * how the table of the previous kernel is checked and loaded. Also the saved state that a
 * driver carries. Which device a record is about isn't known here.
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

/* In a block that isn't empty. */
static struct pci_dev_ser *pci_last_record(struct kho_block *block)
{
	return (struct pci_dev_ser *)(block->ser + 1) + block->ser->count - 1;
}

/**
 * pci_outgoing_alloc - Add a record to the end of the outgoing table
 *
 * Context: pci_liveupdate_mutex is held, and there is a table. May sleep.
 * Return: the record, or the ERR_PTR of kho_block_set_grow().
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
 * Return: the record.
 */
struct pci_dev_ser *pci_outgoing_last(void)
{
	lockdep_assert_held(&pci_liveupdate_mutex);

	return pci_last_record(list_last_entry(&pci_outgoing.blocks.blocks,
					       struct kho_block, list));
}

/**
 * pci_outgoing_shrink - Take the last record from the outgoing table
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

/* Incoming: what a record may say */

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

/*
 * The subordinate bus isn't compared with the secondary one. If it is lower, then
 * pci_incoming_check_bridge() finds no device on the bridge's buses, and refuses the
 * record for its refcount, which isn't 0 if the record is in use.
 */
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

/* Incoming: all records together */

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
 * Each record with a bus number from @bridge's secondary to its subordinate bus must be
 * below @bridge, and the bus numbers of a bridge there must be among those of @bridge.
 *
 * pci_incoming_check_bridge() calls this for every such record. If it is true for all
 * of them, then by induction over the bus number they are below @bridge: a record on
 * the secondary bus is, and any other has a bridge above it that is on a lower bus, as
 * pci_record_buses_ok() has checked, but not on one below the secondary bus. So that
 * bridge's record is one of those that this is called for.
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

/* Incoming: the table's life */

/**
 * pci_incoming_free - Give the memory of the previous kernel's table back
 * @in: the table, which was loaded
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
 * @in: where to put it; empty
 * @pa: physical address of its head
 *
 * The memory of a table that isn't used stays reserved: it can't be told what it
 * is, and what the table points to by mistake may be somebody else's.
 *
 * Context: pci_liveupdate_mutex is held. May sleep.
 * Return: 0; or an error, after a message that says what is wrong with the table.
 * @in is to be cleared then.
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
