/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What vmm.c and its drivers have in common.
 */
#ifndef VMM_H
#define VMM_H

#include <stdbool.h>

#include <linux/compiler.h>
#include <linux/types.h>

#define DMA_PAGE	4096
#define NR_BUFFERS	4096
#define BUFFER_SIZE	256
#define RING_SIZE	65536
#define MEMORY_SIZE	(8U << 20)
#define NR_DMA_PAGES	(MEMORY_SIZE / DMA_PAGE)
#define MAX_REGS	160

/*
 * What the memfd of a device holds, but for the pages before and behind it, which the device
 * can't reach.
 */
struct memory {
	__u64 dma_addr[NR_DMA_PAGES];	/* of each page of this memory */
	__u64 ring_offset;
	__u32 ring_size;		/* in bytes; RING_SIZE or less */
	__u32 nr_desc;
	__u32 nr_submitted;		/* commands */
	__u32 nr_regs;
	struct {
		__u32 offset;
		__u32 value;
	} reg[MAX_REGS];
	__u8 buffer[NR_BUFFERS][BUFFER_SIZE] __aligned(DMA_PAGE);
	__u8 arena[] __aligned(DMA_PAGE);	/* the ring is somewhere in here */
};

struct nic;

/* What one kind of device needs to work as all others do. */
struct nic_driver {
	/* The device has memory and a place for its ring: map its registers and let it begin. */
	void (*start)(struct nic *nic);
	void (*map_registers)(struct nic *nic);
	bool (*is_ready)(struct nic *nic);
	/* Choose those that a reset clears or changes. */
	void (*mark_registers)(struct nic *nic);
	/* Whether the device has done with its Nth descriptor */
	bool (*is_received)(struct nic *nic, __u32 n);
	/* After finish; NULL: there is nothing to do */
	void (*go_on)(struct nic *nic);
	bool (*is_complete)(struct nic *nic);
	void (*report)(struct nic *nic);
	/* Of those that receive packets: where one is; NULL if it can't be a packet of ours */
	struct packet *(*packet)(struct nic *nic, __u32 n);
};

#define IGB_DEVICE	0x10c9

extern const struct nic_driver intel_driver, virtio_driver, nvme_driver;

/* A NIC, or another PCI device. */
struct nic {
	const char *bdf;
	const struct nic_driver *driver;	/* NULL: has no memory and no ring */
	__u16 device;		/* Device ID */
	bool preserved;
	bool noiommu;		/* known from the first dma_addr() on */
	int memfd;
	int fd;
	__u32 ioas_id;		/* 0: that of all */
	int irq_kind;		/* see vmm_irqs.c */
	int irq_fd;
	__u32 nr_irqs;
	__u64 iova;
	void *bar;
	struct memory *memory;
	void *ring;
};

void nic_map_bar(struct nic *nic, __u32 index);
void nic_read_config(struct nic *nic, __u32 offset, void *value, __u32 size);
__u32 nic_read(struct nic *nic, __u32 reg);
void nic_write(struct nic *nic, __u32 reg, __u32 value);
void nic_write_address(struct nic *nic, __u32 reg, const void *p);
void nic_mark(struct nic *nic, __u32 reg);
__u64 dma_addr_saved(struct nic *nic, const void *p);
__u32 nr_received(struct nic *nic);

/* What the host sends; see vmtest.py. */
struct packet {
	__u8 dst[6];
	__u8 src[6];
	__be16 type;
	__le32 number;
	__le32 last;
	__u8 pattern[106];
} __packed;

bool packets_are_complete(struct nic *nic);
void packets_report(struct nic *nic);

/* vmm_irqs.c */
void irq_set_up(struct nic *nic, int number);
void irq_arm(struct nic *nic, int number);
void irq_wait(struct nic *nic, __u32 packets);
void irq_wait_complete(struct nic *nic);

/* vmm_images.c */
void refuse_image(const char *kernel, const char *initrd, const char *append);
void refuse_images(const char *kernel, const char *initrd);
const char *older_image(const char *kernel);
const char *lying_image(const char *kernel);
void force_image(const char *kernel, const char *initrd, const char *append);

#endif /* VMM_H */
