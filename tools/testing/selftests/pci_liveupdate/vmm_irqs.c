// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that never looks by itself whether packets have come, but waits for an interrupt. The
 * NIC, an 82574, raises no other one before the guest has handled the last: one that is lost is
 * the end. The first device uses MSI-X, the second one MSI, the third one INTx, and so on.
 *
 * Nothing turns interrupts off before the kexec, nor is anything done for them in the next kernel
 * but to arm them.
 */
#include <poll.h>

#include <linux/bits.h>
#include <linux/kernel.h>
#include <linux/vfio.h>

#include "guest.h"
#include "vmm.h"
#include "e1000_regs.h"
#include "e1000_defines.h"

/* Of an 82574, in none of libvfio's headers */
#define E1000_82574_EIAC	0x000dc
#define E1000_82574_IVAR	0x000e4
#define E1000_82574_IVAR_RXQ0	0x8		/* vector 0 */
#define E1000_82574_RXQ0	BIT(20)
#define E1000_RXT0		BIT(7)

#define PATIENCE_MS		10000

static const struct {
	const char *name;
	__u32 index;
} kinds[] = {
	{ "MSI-X", VFIO_PCI_MSIX_IRQ_INDEX },
	{ "MSI", VFIO_PCI_MSI_IRQ_INDEX },
	{ "INTx", VFIO_PCI_INTX_IRQ_INDEX },
};

static __u32 index_of(struct nic *nic)
{
	return kinds[nic->irq_kind].index;
}

/* As the guest's driver does when it has handled one */
static void enable_cause(struct nic *nic)
{
	nic_write(nic, E1000_IMS, index_of(nic) == VFIO_PCI_MSIX_IRQ_INDEX ? E1000_82574_RXQ0 :
									    E1000_RXT0);
}

void irq_arm(struct nic *nic, int number)
{
	nic->irq_kind = number % ARRAY_SIZE(kinds);
	nic->irq_fd = watch_irq(nic->fd, index_of(nic), nic->bdf);
}

/* Once in its life */
void irq_set_up(struct nic *nic, int number)
{
	irq_arm(nic, number);
	if (index_of(nic) == VFIO_PCI_MSIX_IRQ_INDEX) {
		nic_write(nic, E1000_82574_IVAR, E1000_82574_IVAR_RXQ0);
		/* An interrupt clears its cause, and disables it */
		nic_write(nic, E1000_82574_EIAC, E1000_82574_RXQ0);
	}
	enable_cause(nic);
}

/* Returns how many packets there are once an interrupt has come. */
static __u32 irq_wait_once(struct nic *nic)
{
	struct pollfd poll_fd = { .fd = nic->irq_fd, .events = POLLIN };
	__u32 before = nr_received(nic), seen;
	__u64 count;

	if (poll(&poll_fd, 1, PATIENCE_MS) != 1)
		die("%s raises no %s: %u packets, then %u", nic->bdf, kinds[nic->irq_kind].name,
		    before, nr_received(nic));
	check(read(nic->irq_fd, &count, sizeof(count)), "read", "eventfd");
	nic->nr_irqs += count;
	if (index_of(nic) != VFIO_PCI_MSIX_IRQ_INDEX)
		nic_read(nic, E1000_ICR);	/* clears it */
	seen = nr_received(nic);
	enable_cause(nic);
	if (index_of(nic) == VFIO_PCI_INTX_IRQ_INDEX)
		set_irqs(nic->fd, VFIO_PCI_INTX_IRQ_INDEX,
			 VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 1, -1, nic->bdf);
	return seen;
}

/* For so many more, if so many come */
void irq_wait(struct nic *nic, __u32 packets)
{
	__u32 end = nr_received(nic) + packets;

	while (!packets_are_complete(nic) && irq_wait_once(nic) < end)
		;
	say("noticed bdf=%s kind=%s packets=%u interrupts=%u", nic->bdf,
	    kinds[nic->irq_kind].name, packets, nic->nr_irqs);
}

/* For the last one */
void irq_wait_complete(struct nic *nic)
{
	while (!packets_are_complete(nic))
		irq_wait_once(nic);
}
