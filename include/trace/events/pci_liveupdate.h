/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM pci_liveupdate

#if !defined(_TRACE_PCI_LIVEUPDATE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_PCI_LIVEUPDATE_H

#include <linux/pci.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(pci_liveupdate_device,

	TP_PROTO(struct pci_dev *dev),

	TP_ARGS(dev),

	TP_STRUCT__entry(
		__string(name, pci_name(dev))
		__field(u16, vendor)
		__field(u16, device)
		__field(u8, hdr_type)
	),

	TP_fast_assign(
		__assign_str(name);
		__entry->vendor = dev->vendor;
		__entry->device = dev->device;
		__entry->hdr_type = dev->hdr_type;
	),

	TP_printk("%s [%04x:%04x] %s", __get_str(name), __entry->vendor,
		  __entry->device,
		  __entry->hdr_type == PCI_HEADER_TYPE_NORMAL ? "device" : "bridge")
);

/* It has got a record in the outgoing table. */
DEFINE_EVENT(pci_liveupdate_device, pci_liveupdate_preserve,
	TP_PROTO(struct pci_dev *dev),
	TP_ARGS(dev)
);

/* Its record was removed from the outgoing table. */
DEFINE_EVENT(pci_liveupdate_device, pci_liveupdate_unpreserve,
	TP_PROTO(struct pci_dev *dev),
	TP_ARGS(dev)
);

/* The previous kernel preserved it, and this one has found it. */
DEFINE_EVENT(pci_liveupdate_device, pci_liveupdate_adopt,
	TP_PROTO(struct pci_dev *dev),
	TP_ARGS(dev)
);

/* It is ordinary again: taken over by its driver, or given up. */
DEFINE_EVENT(pci_liveupdate_device, pci_liveupdate_finish,
	TP_PROTO(struct pci_dev *dev),
	TP_ARGS(dev)
);

/* The incoming table isn't used; the log says why. */
TRACE_EVENT(pci_liveupdate_quarantine,

	TP_PROTO(u64 table, int error),

	TP_ARGS(table, error),

	TP_STRUCT__entry(
		__field(u64, table)
		__field(int, error)
	),

	TP_fast_assign(
		__entry->table = table;
		__entry->error = error;
	),

	TP_printk("table at %#llx, error %d", __entry->table, __entry->error)
);

#endif /* _TRACE_PCI_LIVEUPDATE_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
