// SPDX-License-Identifier: GPL-2.0
/*
 * Intel's NICs: 82576 (igb) and 82574 (e1000e)
 */
#include <asm/barrier.h>
#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/mii.h>
#include <linux/vfio.h>

#include "guest.h"
#include "vmm.h"
#include "e1000_regs.h"
#include "e1000_defines.h"
#include "e1000_82575.h"

/* In none of libvfio's headers, which are of igb */
#define E1000_RFCTL_EXTEN	0x00008000

#define NR_MTA		128		/* the multicast table: 128 registers */

/* Registers that a reset clears or changes. */
static const __u32 nic_setup[] = {
	E1000_CTRL, E1000_CTRL_EXT, E1000_RCTL, E1000_RDBAL(0), E1000_RDBAH(0),
	E1000_RDLEN(0), E1000_RDT(0), E1000_SRRCTL(0), E1000_RXDCTL(0),
};

static void intel_map_registers(struct nic *nic)
{
	nic_map_bar(nic, VFIO_PCI_BAR0_REGION_INDEX);
}

/*
 * Start autonegotiation: QEMU's NICs report their link up when that is done, and
 * receive nothing before.
 */
static void set_link_up(struct nic *nic)
{
	nic_write(nic, E1000_CTRL, nic_read(nic, E1000_CTRL) | E1000_CTRL_SLU);
	nic_write(nic, E1000_MDIC,
		  BMCR_ANENABLE | BMCR_ANRESTART | MII_BMCR << E1000_MDIC_REG_SHIFT |
		  1 << E1000_MDIC_PHY_SHIFT | E1000_MDIC_OP_WRITE);
}

static bool link_is_up(struct nic *nic)
{
	return nic_read(nic, E1000_STATUS) & E1000_STATUS_LU;
}

static void fill_ring(struct nic *nic)
{
	union e1000_adv_rx_desc *ring = nic->ring;

	for (__u32 i = 0; i < nic->memory->nr_desc; i++) {
		ring[i].read.pkt_addr = dma_addr_saved(nic, nic->memory->buffer[i]);
		ring[i].read.hdr_addr = 0;
	}
}

/* No interrupt, no filter, one buffer for each packet. */
static void start_receive(struct nic *nic)
{
	__u32 nr_desc = nic->memory->nr_desc;

	nic_write(nic, E1000_IMC, ~0U);
	nic_write(nic, E1000_CTRL_EXT,
		  nic_read(nic, E1000_CTRL_EXT) | E1000_CTRL_EXT_DRV_LOAD);
	nic_write_address(nic, E1000_RDBAL(0), nic->ring);
	nic_write(nic, E1000_RDLEN(0), nr_desc * sizeof(union e1000_adv_rx_desc));
	if (nic->device == IGB_DEVICE) {
		nic_write(nic, E1000_EIMC, ~0U);
		nic_write(nic, E1000_SRRCTL(0), E1000_SRRCTL_DESCTYPE_ADV_ONEBUF);
	} else {
		/* Written back, extended descriptors look like igb's as far as we read them */
		nic_write(nic, E1000_RFCTL, E1000_RFCTL_EXTEN);
	}
	nic_write(nic, E1000_RXDCTL(0), E1000_RXDCTL_QUEUE_ENABLE);
	nic_write(nic, E1000_RCTL, E1000_RCTL_EN | E1000_RCTL_UPE | E1000_RCTL_MPE |
				   E1000_RCTL_BAM | E1000_RCTL_SZ_256 | E1000_RCTL_SECRC);
	/* The queue is only enabled once the receiver is */
	wait_for(1000, nic_read(nic, E1000_RXDCTL(0)) & E1000_RXDCTL_QUEUE_ENABLE,
		 "the queue of %s", nic->bdf);
	/* Head and tail being equal means empty: one descriptor stays unused */
	nic_write(nic, E1000_RDT(0), nr_desc - 1);
}

static void intel_start(struct nic *nic)
{
	struct memory *m = nic->memory;

	m->nr_desc = m->ring_size / sizeof(union e1000_adv_rx_desc);
	intel_map_registers(nic);
	fill_ring(nic);
	set_link_up(nic);
	start_receive(nic);

	say("ring bdf=%s count=%u %s=%#llx", nic->bdf, m->nr_desc,
	    nic->noiommu ? "addr" : "iova",
	    (unsigned long long)dma_addr_saved(nic, nic->ring));
}

/* With all packets accepted nothing uses the multicast table: room for a pattern. */
static void intel_mark_registers(struct nic *nic)
{
	for (__u32 i = 0; i < NR_MTA; i++) {
		nic_write(nic, E1000_MTA + 4 * i, 0x5eed0000 + i);
		nic_mark(nic, E1000_MTA + 4 * i);
	}
	for (__u32 i = 0; i < ARRAY_SIZE(nic_setup); i++)
		nic_mark(nic, nic_setup[i]);
}

static bool intel_is_received(struct nic *nic, __u32 n)
{
	union e1000_adv_rx_desc *ring = nic->ring;
	__u32 status = READ_ONCE(ring[n].wb.upper.status_error);

	rmb();	/* the packet is read after the status that says it is there */
	return status & E1000_RXD_STAT_DD;
}

static struct packet *intel_packet(struct nic *nic, __u32 n)
{
	union e1000_adv_rx_desc *ring = nic->ring;

	if (ring[n].wb.upper.length != sizeof(struct packet))
		return NULL;
	return (struct packet *)nic->memory->buffer[n];
}

const struct nic_driver intel_driver = {
	.start = intel_start,
	.map_registers = intel_map_registers,
	.is_ready = link_is_up,
	.mark_registers = intel_mark_registers,
	.is_received = intel_is_received,
	.is_complete = packets_are_complete,
	.report = packets_report,
	.packet = intel_packet,
};
