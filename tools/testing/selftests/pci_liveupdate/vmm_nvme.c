// SPDX-License-Identifier: GPL-2.0
/*
 * An NVMe controller that has a number of blocks to read
 *
 * The disk is slow enough that most of the commands are in flight for seconds. In block N
 * of it, word I is 1024 * N + I. References are to the NVM Express Base Specification 2.0.
 */
#include <asm/barrier.h>
#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/vfio.h>

#include "guest.h"
#include "vmm.h"

#define NR_ENTRIES	512		/* of each I/O queue, which never wraps */
#define NR_ADMIN	16
#define BLOCK_SIZE	DMA_PAGE
#define BLOCK_WORDS	(BLOCK_SIZE / sizeof(__le32))
#define LBA_SIZE	512
/* Before and after the live update */
#define NR_BEFORE	224
#define NR_AFTER	32

/* Section 3.1.3 */
#define NVME_CAP	0x00
#define NVME_INTMS	0x0c
#define NVME_CC		0x14
#define NVME_CSTS	0x1c
#define NVME_AQA	0x24
#define NVME_ASQ	0x28
#define NVME_ACQ	0x30
#define NVME_DOORBELL	0x1000		/* stride 4, as QEMU's: submission, completion, ... */

#define NVME_CC_EN	BIT(0)
#define NVME_CC_IOSQES	(6 << 16)
#define NVME_CC_IOCQES	(4 << 20)
#define NVME_CSTS_RDY	BIT(0)

#define NVME_CREATE_SQ	0x01
#define NVME_CREATE_CQ	0x05
#define NVME_READ	0x02
#define NVME_CONTIGUOUS	BIT(0)

struct command {
	__u8 opcode;
	__u8 flags;
	__le16 id;
	__le32 nsid;
	__le64 reserved[2];
	__le64 prp[2];
	__le32 cdw10[6];
};

struct completion {
	__le32 result[2];
	__le16 sq_head;
	__le16 sq_id;
	__le16 id;
	__le16 status;			/* bit 0: the phase */
};

struct queues {
	struct command sq[NR_ENTRIES];
	struct completion cq[NR_ENTRIES] __aligned(DMA_PAGE);
	struct command admin_sq[NR_ADMIN] __aligned(DMA_PAGE);
	struct completion admin_cq[NR_ADMIN] __aligned(DMA_PAGE);
};

static const __u32 nvme_setup[] = {
	NVME_CAP, NVME_CAP + 4, NVME_INTMS, NVME_CC, NVME_CSTS, NVME_AQA, NVME_ASQ,
	NVME_ASQ + 4, NVME_ACQ, NVME_ACQ + 4,
};

static void nvme_map_registers(struct nic *nic)
{
	nic_map_bar(nic, VFIO_PCI_BAR0_REGION_INDEX);
}

static void enable(struct nic *nic)
{
	struct queues *queues = nic->ring;

	nic_write(nic, NVME_CC, 0);
	wait_for(1000, !(nic_read(nic, NVME_CSTS) & NVME_CSTS_RDY), "%s to be off", nic->bdf);
	nic_write(nic, NVME_INTMS, ~0U);
	nic_write(nic, NVME_AQA, (NR_ADMIN - 1) << 16 | (NR_ADMIN - 1));
	nic_write_address(nic, NVME_ASQ, queues->admin_sq);
	nic_write_address(nic, NVME_ACQ, queues->admin_cq);
	nic_write(nic, NVME_CC, NVME_CC_IOCQES | NVME_CC_IOSQES | NVME_CC_EN);
	wait_for(5000, nic_read(nic, NVME_CSTS) & NVME_CSTS_RDY, "%s to be ready", nic->bdf);
}

static bool is_completed(const struct completion *completion)
{
	__u16 status = READ_ONCE(completion->status);

	rmb();	/* what was read is looked at after the phase that says it is there */
	return status & 1;
}

static void create_queue(struct nic *nic, __u32 n, __u8 opcode, const void *memory, __u32 flags)
{
	struct queues *queues = nic->ring;

	queues->admin_sq[n] = (struct command) {
		.opcode = opcode,
		.id = n,
		.prp = { dma_addr_saved(nic, memory) },
		.cdw10 = { (NR_ENTRIES - 1) << 16 | 1, flags | NVME_CONTIGUOUS },
	};
	nic_write(nic, NVME_DOORBELL, n + 1);
	wait_for(1000, is_completed(&queues->admin_cq[n]), "a queue of %s", nic->bdf);
	if (queues->admin_cq[n].status >> 1)
		die("%s: a queue can't be created: %#x", nic->bdf, queues->admin_cq[n].status);
}

static __le32 *block_of(struct nic *nic, __u32 n)
{
	return (__le32 *)nic->memory->buffer[n * BLOCK_SIZE / BUFFER_SIZE];
}

/* Each to memory of its own */
static void submit(struct nic *nic, __u32 count)
{
	struct queues *queues = nic->ring;
	struct memory *m = nic->memory;

	for (__u32 end = m->nr_submitted + count; m->nr_submitted < end; m->nr_submitted++) {
		__u32 n = m->nr_submitted;

		queues->sq[n] = (struct command) {
			.opcode = NVME_READ,
			.id = n,
			.nsid = 1,
			.prp = { dma_addr_saved(nic, block_of(nic, n)) },
			.cdw10 = { n * (BLOCK_SIZE / LBA_SIZE), 0, BLOCK_SIZE / LBA_SIZE - 1 },
		};
	}
	nic_write(nic, NVME_DOORBELL + 8, m->nr_submitted);
}

static void nvme_start(struct nic *nic)
{
	struct queues *queues = nic->ring;

	if (nic->memory->ring_size < sizeof(*queues))
		die("%s: the largest piece of memory has %u bytes", nic->bdf,
		    nic->memory->ring_size);
	nic->memory->nr_desc = NR_ENTRIES;
	nvme_map_registers(nic);
	enable(nic);
	create_queue(nic, 0, NVME_CREATE_CQ, queues->cq, 0);
	create_queue(nic, 1, NVME_CREATE_SQ, queues->sq, 1 << 16);
	submit(nic, NR_BEFORE);

	say("ring bdf=%s %s=%#llx", nic->bdf, nic->noiommu ? "addr" : "iova",
	    (unsigned long long)dma_addr_saved(nic, queues->cq));
}

static bool nvme_is_ready(struct nic *nic)
{
	return nic_read(nic, NVME_CSTS) == NVME_CSTS_RDY;
}

static void nvme_mark_registers(struct nic *nic)
{
	for (__u32 i = 0; i < ARRAY_SIZE(nvme_setup); i++)
		nic_mark(nic, nvme_setup[i]);
}

static bool nvme_is_received(struct nic *nic, __u32 n)
{
	return is_completed(&((struct queues *)nic->ring)->cq[n]);
}

static void nvme_go_on(struct nic *nic)
{
	say("going_on bdf=%s received=%u submitted=%u", nic->bdf, nr_received(nic),
	    nic->memory->nr_submitted);
	submit(nic, NR_AFTER);
}

static bool nvme_is_complete(struct nic *nic)
{
	return nr_received(nic) == nic->memory->nr_submitted;
}

static bool is_intact(struct nic *nic, const struct completion *completion)
{
	__le32 *block;

	if (completion->status >> 1 || completion->id >= nic->memory->nr_submitted)
		return false;
	block = block_of(nic, completion->id);
	for (__u32 i = 0; i < BLOCK_WORDS; i++)
		if (block[i] != completion->id * BLOCK_WORDS + i)
			return false;
	return true;
}

static void nvme_report(struct nic *nic)
{
	struct queues *queues = nic->ring;
	__u32 completed = nr_received(nic), damaged = 0;
	bool seen[NR_ENTRIES] = {};

	for (__u32 i = 0; i < completed; i++) {
		__u16 id = queues->cq[i].id;

		if (!is_intact(nic, &queues->cq[i]) || seen[id])
			damaged++;
		else
			seen[id] = true;
	}
	say("commands bdf=%s submitted=%u completed=%u damaged=%u",
	    nic->bdf, nic->memory->nr_submitted, completed, damaged);
}

const struct nic_driver nvme_driver = {
	.start = nvme_start,
	.map_registers = nvme_map_registers,
	.is_ready = nvme_is_ready,
	.mark_registers = nvme_mark_registers,
	.is_received = nvme_is_received,
	.go_on = nvme_go_on,
	.is_complete = nvme_is_complete,
	.report = nvme_report,
};
