// SPDX-License-Identifier: GPL-2.0
/*
 * A modern virtio-net device, of which only the first receive queue is used
 *
 * References are to Virtual I/O Device (VIRTIO) Version 1.3.
 */
#include <stddef.h>

#include <asm/barrier.h>
#include <linux/compiler.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "guest.h"
#include "vmm.h"

#define MAX_DESC	1024		/* of QEMU's queues */
#define HEADER_SIZE	sizeof(struct virtio_net_hdr_mrg_rxbuf)

/* A queue: descriptors, and what both sides have done with them, each at its own page */
struct queue {
	struct vring_desc desc[MAX_DESC];
	struct vring_avail avail __aligned(DMA_PAGE);
	__u16 heads[MAX_DESC];
	struct vring_used used __aligned(DMA_PAGE);
	struct vring_used_elem done[MAX_DESC];
};

static const __u32 virtio_setup[] = {
	VIRTIO_PCI_COMMON_GF, VIRTIO_PCI_COMMON_STATUS, VIRTIO_PCI_COMMON_Q_SIZE,
	VIRTIO_PCI_COMMON_Q_ENABLE, VIRTIO_PCI_COMMON_Q_DESCLO, VIRTIO_PCI_COMMON_Q_DESCHI,
	VIRTIO_PCI_COMMON_Q_AVAILLO, VIRTIO_PCI_COMMON_Q_AVAILHI, VIRTIO_PCI_COMMON_Q_USEDLO,
	VIRTIO_PCI_COMMON_Q_USEDHI,
};

/* Where the device has a structure of this type: section 4.1.4 */
static struct virtio_pci_notify_cap find_structure(struct nic *nic, __u8 type)
{
	struct virtio_pci_notify_cap cap;
	__u8 at;

	nic_read_config(nic, PCI_CAPABILITY_LIST, &at, sizeof(at));
	for (; at; at = cap.cap.cap_next) {
		nic_read_config(nic, at, &cap, sizeof(cap));
		if (cap.cap.cap_vndr == PCI_CAP_ID_VNDR && cap.cap.cfg_type == type)
			return cap;
	}
	die("%s has no structure of type %u", nic->bdf, type);
}

static void virtio_map_registers(struct nic *nic)
{
	struct virtio_pci_cap cap = find_structure(nic, VIRTIO_PCI_CAP_COMMON_CFG).cap;

	nic_map_bar(nic, VFIO_PCI_BAR0_REGION_INDEX + cap.bar);
	nic->bar += cap.offset;
}

/* A VMM that knows no feature but these two: section 3.1.1 */
static void negotiate(struct nic *nic)
{
	const __u8 driver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	__u32 features;

	writeb(0, nic->bar + VIRTIO_PCI_COMMON_STATUS);
	wait_for(1000, !readb(nic->bar + VIRTIO_PCI_COMMON_STATUS), "%s to be reset", nic->bdf);
	writeb(driver, nic->bar + VIRTIO_PCI_COMMON_STATUS);

	nic_write(nic, VIRTIO_PCI_COMMON_DFSELECT, 1);
	features = nic_read(nic, VIRTIO_PCI_COMMON_DF);
	features &= 1 << (VIRTIO_F_VERSION_1 - 32) | 1 << (VIRTIO_F_ACCESS_PLATFORM - 32);
	nic_write(nic, VIRTIO_PCI_COMMON_GFSELECT, 0);
	nic_write(nic, VIRTIO_PCI_COMMON_GF, 0);
	nic_write(nic, VIRTIO_PCI_COMMON_GFSELECT, 1);
	nic_write(nic, VIRTIO_PCI_COMMON_GF, features);
	writeb(driver | VIRTIO_CONFIG_S_FEATURES_OK, nic->bar + VIRTIO_PCI_COMMON_STATUS);
	if (!(readb(nic->bar + VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK))
		die("%s doesn't accept the features %#x", nic->bdf, features);
}

static void set_up_queue(struct nic *nic)
{
	struct queue *queue = nic->ring;
	struct memory *m = nic->memory;

	writew(0, nic->bar + VIRTIO_PCI_COMMON_Q_SELECT);
	m->nr_desc = readw(nic->bar + VIRTIO_PCI_COMMON_Q_SIZE);
	if (m->nr_desc > MAX_DESC)
		die("%s has a queue of %u", nic->bdf, m->nr_desc);
	for (__u32 i = 0; i < m->nr_desc; i++) {
		queue->desc[i] = (struct vring_desc) {
			.addr = dma_addr_saved(nic, m->buffer[i]),
			.len = BUFFER_SIZE,
			.flags = VRING_DESC_F_WRITE,
		};
		queue->avail.ring[i] = i;
	}
	queue->avail.flags = VRING_AVAIL_F_NO_INTERRUPT;
	queue->avail.idx = m->nr_desc;
	nic_write_address(nic, VIRTIO_PCI_COMMON_Q_DESCLO, queue->desc);
	nic_write_address(nic, VIRTIO_PCI_COMMON_Q_AVAILLO, &queue->avail);
	nic_write_address(nic, VIRTIO_PCI_COMMON_Q_USEDLO, &queue->used);
	writew(1, nic->bar + VIRTIO_PCI_COMMON_Q_ENABLE);
}

static void virtio_start(struct nic *nic)
{
	struct queue *queue = nic->ring;
	const char *kind;

	if (nic->memory->ring_size < sizeof(*queue))
		die("%s: the largest piece of memory has %u bytes", nic->bdf,
		    nic->memory->ring_size);
	virtio_map_registers(nic);
	negotiate(nic);
	set_up_queue(nic);
	writeb(readb(nic->bar + VIRTIO_PCI_COMMON_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK,
	       nic->bar + VIRTIO_PCI_COMMON_STATUS);

	kind = nic->noiommu ? "addr" : "iova";
	say("ring bdf=%s count=%u %s=%#llx used=%#llx header=%zu", nic->bdf,
	    nic->memory->nr_desc, kind,
	    (unsigned long long)dma_addr_saved(nic, queue->desc),
	    (unsigned long long)dma_addr_saved(nic, &queue->used), HEADER_SIZE);
}

static bool virtio_is_ready(struct nic *nic)
{
	return readb(nic->bar + VIRTIO_PCI_COMMON_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK;
}

static void virtio_mark_registers(struct nic *nic)
{
	for (__u32 i = 0; i < ARRAY_SIZE(virtio_setup); i++)
		nic_mark(nic, virtio_setup[i]);
}

static bool virtio_is_received(struct nic *nic, __u32 n)
{
	struct queue *queue = nic->ring;
	__u16 done = READ_ONCE(queue->used.idx);

	rmb();	/* the packet is read after the index that says it is there */
	return n < done;
}

static struct packet *virtio_packet(struct nic *nic, __u32 n)
{
	struct vring_used_elem *done = &((struct queue *)nic->ring)->used.ring[n];

	if (done->id != n || done->len != HEADER_SIZE + sizeof(struct packet))
		return NULL;
	return (struct packet *)(nic->memory->buffer[n] + HEADER_SIZE);
}

const struct nic_driver virtio_driver = {
	.start = virtio_start,
	.map_registers = virtio_map_registers,
	.is_ready = virtio_is_ready,
	.mark_registers = virtio_mark_registers,
	.is_received = virtio_is_received,
	.is_complete = packets_are_complete,
	.report = packets_report,
	.packet = virtio_packet,
};
