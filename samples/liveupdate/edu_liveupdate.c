// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: A driver that keeps its device
 *
 * QEMU's "edu" device (``-device edu``) computes factorials, and copies between
 * memory and a buffer of its own. This driver gives the device to programs as a
 * character device, /dev/edu-<address>; see edu_liveupdate.h. A program that hands
 * its open file to a session of the Live Update Orchestrator (LUO) gets the file
 * back from the next kernel: the device goes on computing while the kernel is
 * replaced, and the memory that the device copies to and from stays where it is.
 *
 * What the driver does for that, in the order in which it is called:
 *
 * .preserve
 *   Hands to the next kernel the memory that the device uses and all that a
 *   driver can't read back from the device, then calls
 *   pci_liveupdate_preserve(). The program goes on using the device.
 *   .unpreserve undoes all this.
 *
 * .freeze
 *   The kexec has begun. The device must raise no interrupt from here on, as
 *   nobody will handle it, and the file gives no access any more, so that nothing
 *   changes behind the next kernel's back. .freeze also writes down what has
 *   changed since .preserve. pci_liveupdate_freeze() comes first: it refuses a kexec
 *   that some other device is in the way of. If the kexec fails after all,
 *   .unfreeze undoes .freeze. The driver's .shutdown, if it has one, isn't called.
 *
 * probe
 *   Called in the next kernel: the PCI core binds the device to the driver of the
 *   same name. If pci_liveupdate_is_incoming() is true, the device is running, and
 *   the driver must not set it up before the file is retrieved. To enable the
 *   device, to map its registers and to set its DMA masks does no harm.
 *
 * .retrieve
 *   Makes a file, connects the interrupt and, as the last step, takes the memory
 *   over. If the driver isn't bound yet, it returns -EAGAIN, and LUO calls it again
 *   when the user does. After any other error the user won't get the device back:
 *   pci_liveupdate_abandon() stops the device before .finish frees the memory.
 *
 * .can_finish
 *   The last call before LUO frees memory of other files that the device may use. It
 *   must not refuse to finish because a user is late: if nobody has retrieved the
 *   file, pci_liveupdate_abandon() stops the device.
 *
 * .finish
 *   pci_liveupdate_finish() makes the device an ordinary device, which can be
 *   reset and suspended.
 *
 * .remove can be called at any time, and the file outlives it. A device that is in
 * use is stopped, and leaves the live update. A device whose file waits to be
 * retrieved is left alone: the driver can be bound again.
 *
 * LUO loads the module by its alias when a file is retrieved. The module can't be
 * unloaded as long as LUO has one of its files.
 */

#include <linux/anon_inodes.h>
#include <linux/cleanup.h>
#include <linux/dma-mapping.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/kexec_handover.h>
#include <linux/kref.h>
#include <linux/liveupdate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci_liveupdate.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "edu_liveupdate.h"

#define EDU_VENDOR_ID		0x1234
#define EDU_DEVICE_ID		0x11e8

/* Registers in BAR 0: see docs/specs/edu.rst of QEMU */
#define EDU_LIVENESS		0x04	/* reads as the inverse of what was written */
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define EDU_STATUS_COMPUTING	BIT(0)
#define EDU_STATUS_IRQ		BIT(7)	/* interrupt when a factorial is computed */
#define EDU_IRQ_STATUS		0x24
#define EDU_IRQ_ACK		0x64
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_START		BIT(0)
#define EDU_DMA_TO_RAM		BIT(1)

#define EDU_DMA_BITS		28
#define EDU_DEVICE_BUFFER	0x40000	/* the device's own buffer, as a DMA address */

/**
 * struct edu - A device.
 * @kref:        One reference for the driver, and one for each open file.
 * @pdev:        The PCI device.
 * @misc:        The character device.
 * @regs:        BAR 0.
 * @wait:        Woken when @computing becomes false.
 * @computing:   Whoever reads the result has to wait.
 * @lock:        Held by whoever changes the device or a field below.
 * @buffer:      Memory for DMA; NULL until this driver has set the device up, or has
 *               taken it over.
 * @dma_addr:    DMA address of @buffer.
 * @frozen:      Set at freeze: the device belongs to the next kernel.
 * @removed:     The driver was unbound; only open files are left.
 */
struct edu {
	struct kref kref;
	struct pci_dev *pdev;
	struct miscdevice misc;
	void __iomem *regs;
	wait_queue_head_t wait;
	bool computing;
	struct mutex lock;	/* protects what follows */
	struct page *buffer;
	dma_addr_t dma_addr;
	bool frozen;
	bool removed;
};

/**
 * struct edu_ser - What one kernel tells the next about an open file.
 * @buffer:   Physical address of the buffer. The next kernel clears it when it has
 *            taken the buffer over.
 * @domain:   PCI segment group of the device.
 * @bdf:      Bus, device and function, as in PCI_DEVID().
 * @lost:     1 if the driver was unbound before the kexec: a device that the next
 *            kernel finds at @bdf doesn't belong to this file.
 * @liveness: Value that was read from the device's liveness register at freeze.
 *
 * A contract between two kernels: any change needs another %EDU_COMPATIBLE.
 */
struct edu_ser {
	u64 buffer;
	u32 domain;
	u16 bdf;
	u16 lost;
	u32 liveness;
} __packed;

static_assert(sizeof(struct edu_ser) == 20);

#define EDU_COMPATIBLE		"edu-v1"

static struct pci_driver edu_driver;

/* The device: these functions know nothing of live updates */

static void edu_release(struct kref *kref)
{
	struct edu *edu = container_of(kref, struct edu, kref);

	if (edu->buffer)
		put_page(edu->buffer);
	pci_dev_put(edu->pdev);
	kfree(edu);
}

static void edu_put(struct edu *edu)
{
	kref_put(&edu->kref, edu_release);
}

static irqreturn_t edu_irq(int irq, void *data)
{
	struct edu *edu = data;
	u32 status = readl(edu->regs + EDU_IRQ_STATUS);

	if (!status)
		return IRQ_NONE;

	writel(status, edu->regs + EDU_IRQ_ACK);
	WRITE_ONCE(edu->computing, false);
	wake_up_all(&edu->wait);
	return IRQ_HANDLED;
}

/* The device may be computing, and may finish before or after its interrupt is on. */
static void edu_irq_on(struct edu *edu)
{
	writel(readl(edu->regs + EDU_IRQ_STATUS), edu->regs + EDU_IRQ_ACK);
	WRITE_ONCE(edu->computing, true);
	writel(EDU_STATUS_IRQ, edu->regs + EDU_STATUS);
	if (!(readl(edu->regs + EDU_STATUS) & EDU_STATUS_COMPUTING)) {
		WRITE_ONCE(edu->computing, false);
		wake_up_all(&edu->wait);
	}
}

static void edu_irq_off(struct edu *edu)
{
	writel(0, edu->regs + EDU_STATUS);
	writel(readl(edu->regs + EDU_IRQ_STATUS), edu->regs + EDU_IRQ_ACK);
	synchronize_irq(pci_irq_vector(edu->pdev, 0));

	/* Whoever waits for a result learns from edu_check() why there is none */
	WRITE_ONCE(edu->computing, false);
	wake_up_all(&edu->wait);
}

/*
 * Connect to a device that may be computing. The device may be using @buffer, so don't
 * synchronise it here: edu_dma() does.
 */
static int edu_connect(struct edu *edu, phys_addr_t buffer)
{
	struct pci_dev *pdev = edu->pdev;
	int ret;

	edu->dma_addr = dma_map_phys(&pdev->dev, buffer, EDU_BUFFER_SIZE,
				     DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
	ret = dma_mapping_error(&pdev->dev, edu->dma_addr);
	if (ret)
		return ret;

	ret = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSI | PCI_IRQ_INTX);
	if (ret < 0)
		goto err_unmap;

	ret = request_irq(pci_irq_vector(pdev, 0), edu_irq, IRQF_SHARED,
			  edu_driver.name, edu);
	if (ret)
		goto err_vectors;

	/* Writes nothing if Bus Master Enable is set already */
	pci_set_master(pdev);
	edu_irq_on(edu);
	return 0;

err_vectors:
	pci_free_irq_vectors(pdev);
err_unmap:
	dma_unmap_phys(&pdev->dev, edu->dma_addr, EDU_BUFFER_SIZE,
		       DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
	return ret;
}

/* Doesn't free the buffer: it may be preserved, or mapped into programs. */
static void edu_disconnect(struct edu *edu)
{
	edu_irq_off(edu);
	pci_clear_master(edu->pdev);
	free_irq(pci_irq_vector(edu->pdev, 0), edu);
	pci_free_irq_vectors(edu->pdev);
	dma_unmap_phys(&edu->pdev->dev, edu->dma_addr, EDU_BUFFER_SIZE,
		       DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
}

/* Set up a device that nobody uses. */
static int edu_start(struct edu *edu)
{
	u32 liveness = get_random_u32();
	struct page *buffer;
	int ret;

	/* The device has no reset: refuse it while DMA of its last user is going on. */
	if (readl(edu->regs + EDU_DMA_COMMAND) & EDU_DMA_START)
		return -EBUSY;

	writel(liveness, edu->regs + EDU_LIVENESS);
	if (readl(edu->regs + EDU_LIVENESS) != ~liveness)
		return -EIO;

	/* Only ZONE_DMA is sure to be within EDU_DMA_BITS. */
	buffer = alloc_page(GFP_KERNEL | GFP_DMA | __GFP_ZERO);
	if (!buffer)
		return -ENOMEM;

	ret = edu_connect(edu, page_to_phys(buffer));
	if (ret)
		put_page(buffer);
	else
		edu->buffer = buffer;
	return ret;
}

/* The device's file */

static int edu_check(struct edu *edu)
{
	lockdep_assert_held(&edu->lock);

	if (edu->removed)
		return -ENODEV;

	return edu->frozen ? -EBUSY : 0;
}

static int edu_open(struct inode *inode, struct file *file)
{
	struct edu *edu = container_of(file->private_data, struct edu, misc);
	int ret;

	guard(mutex)(&edu->lock);

	ret = edu_check(edu);
	if (ret)
		return ret;

	/* The device has a user, who gets it back with the retrieved file. */
	if (pci_liveupdate_is_incoming(edu->pdev))
		return -EBUSY;

	/* The device is ordinary again, but was never retrieved: set it up now. */
	if (!edu->buffer)
		ret = edu_start(edu);
	if (ret)
		return ret;

	kref_get(&edu->kref);
	file->private_data = edu;
	return 0;
}

static int edu_close(struct inode *inode, struct file *file)
{
	edu_put(file->private_data);
	return 0;
}

static ssize_t edu_write(struct file *file, const char __user *buf,
			 size_t count, loff_t *ppos)
{
	struct edu *edu = file->private_data;
	u32 number;
	int ret;

	if (count != sizeof(number))
		return -EINVAL;
	if (copy_from_user(&number, buf, sizeof(number)))
		return -EFAULT;

	guard(mutex)(&edu->lock);

	ret = edu_check(edu);
	if (ret)
		return ret;
	if (READ_ONCE(edu->computing))
		return -EBUSY;

	WRITE_ONCE(edu->computing, true);
	writel(number, edu->regs + EDU_FACTORIAL);
	return sizeof(number);
}

static ssize_t edu_read(struct file *file, char __user *buf, size_t count,
			loff_t *ppos)
{
	struct edu *edu = file->private_data;
	u32 result;
	int ret;

	if (count < sizeof(result))
		return -EINVAL;
	if (file->f_flags & O_NONBLOCK && READ_ONCE(edu->computing))
		return -EAGAIN;

	ret = wait_event_interruptible(edu->wait, !READ_ONCE(edu->computing));
	if (ret)
		return ret;

	scoped_guard(mutex, &edu->lock) {
		ret = edu_check(edu);
		if (ret)
			return ret;
		result = readl(edu->regs + EDU_FACTORIAL);
	}

	return copy_to_user(buf, &result, sizeof(result)) ? -EFAULT :
							    sizeof(result);
}

static int edu_dma(struct edu *edu, enum dma_data_direction direction)
{
	bool to_device = direction == DMA_TO_DEVICE;
	struct device *dev = &edu->pdev->dev;
	u32 command;
	int ret;

	/* The previous DMA didn't end in time */
	if (readl(edu->regs + EDU_DMA_COMMAND) & EDU_DMA_START)
		return -EBUSY;

	dma_sync_single_for_device(dev, edu->dma_addr, EDU_BUFFER_SIZE,
				   DMA_BIDIRECTIONAL);
	writel(to_device ? edu->dma_addr : EDU_DEVICE_BUFFER,
	       edu->regs + EDU_DMA_SOURCE);
	writel(to_device ? EDU_DEVICE_BUFFER : edu->dma_addr,
	       edu->regs + EDU_DMA_DESTINATION);
	writel(EDU_BUFFER_SIZE, edu->regs + EDU_DMA_COUNT);
	writel(EDU_DMA_START | (to_device ? 0 : EDU_DMA_TO_RAM),
	       edu->regs + EDU_DMA_COMMAND);
	ret = readl_poll_timeout(edu->regs + EDU_DMA_COMMAND, command,
				 !(command & EDU_DMA_START), USEC_PER_MSEC,
				 10 * USEC_PER_SEC);
	if (ret)
		return ret;

	dma_sync_single_for_cpu(dev, edu->dma_addr, EDU_BUFFER_SIZE,
				DMA_BIDIRECTIONAL);
	return 0;
}

static long edu_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct edu *edu = file->private_data;
	int ret;

	guard(mutex)(&edu->lock);

	ret = edu_check(edu);
	if (ret)
		return ret;

	switch (cmd) {
	case EDU_DMA_TO_DEVICE:
		return edu_dma(edu, DMA_TO_DEVICE);
	case EDU_DMA_FROM_DEVICE:
		return edu_dma(edu, DMA_FROM_DEVICE);
	case EDU_GET_LIVENESS:
		return put_user(readl(edu->regs + EDU_LIVENESS), (u32 __user *)arg);
	default:
		return -ENOTTY;
	}
}

/*
 * What a program writes into the buffer while the file is frozen isn't lost, as the next
 * kernel uses the same memory. Mapped registers would have to be unmapped at freeze.
 */
static int edu_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct edu *edu = file->private_data;

	if (vma->vm_pgoff || vma_pages(vma) != 1)
		return -EINVAL;

	return vm_insert_page(vma, vma->vm_start, edu->buffer);
}

static const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	.open = edu_open,
	.release = edu_close,
	.read = edu_read,
	.write = edu_write,
	.unlocked_ioctl = edu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = edu_mmap,
};

/* The file handler: what this kernel does */

static bool edu_can_preserve(struct liveupdate_file_handler *handler,
			     struct file *file)
{
	return file->f_op == &edu_fops;
}

/* A device can be preserved with only one of its files: LUO refuses others (-EBUSY). */
static unsigned long edu_get_id(struct file *file)
{
	return (unsigned long)file->private_data;
}

static int edu_preserve_device(struct edu *edu, u64 *data)
{
	struct pci_dev *pdev = edu->pdev;
	struct edu_ser *ser;
	int ret;

	/*
	 * The device keeps its DMA addresses, so they must mean the same to the next
	 * kernel. The address of a bounce buffer, or from an IOMMU, doesn't.
	 */
	if (edu->dma_addr != page_to_phys(edu->buffer)) {
		pci_warn(pdev, "not preserved: its DMA address isn't the physical address\n");
		return -EOPNOTSUPP;
	}

	ser = kho_alloc_preserve(sizeof(*ser));
	if (IS_ERR(ser))
		return PTR_ERR(ser);

	ret = kho_preserve_pages(edu->buffer, 1);
	if (ret)
		goto err_free;

	ret = pci_liveupdate_preserve(pdev);
	if (ret)
		goto err_unpreserve;

	ser->domain = pci_domain_nr(pdev->bus);
	ser->bdf = pci_dev_id(pdev);
	ser->buffer = page_to_phys(edu->buffer);
	*data = virt_to_phys(ser);
	return 0;

err_unpreserve:
	kho_unpreserve_pages(edu->buffer, 1);
err_free:
	kho_unpreserve_free(ser);
	return ret;
}

static int edu_preserve(struct liveupdate_file_op_args *args)
{
	struct edu *edu = args->file->private_data;

	guard(mutex)(&edu->lock);

	if (edu->removed)
		return -ENODEV;

	return edu_preserve_device(edu, &args->serialized_data);
}

static void edu_unpreserve(struct liveupdate_file_op_args *args)
{
	struct edu *edu = args->file->private_data;

	guard(mutex)(&edu->lock);

	/* After .remove the PCI core has done so, and the device may have a new user. */
	if (!edu->removed)
		pci_liveupdate_unpreserve(edu->pdev);
	kho_unpreserve_pages(edu->buffer, 1);
	kho_unpreserve_free(phys_to_virt(args->serialized_data));
}

static int edu_freeze(struct liveupdate_file_op_args *args)
{
	struct edu_ser *ser = phys_to_virt(args->serialized_data);
	struct edu *edu = args->file->private_data;
	int ret;

	ret = pci_liveupdate_freeze();
	if (ret)
		return ret;

	guard(mutex)(&edu->lock);

	/* A lost device is no reason to fail the kexec */
	ser->lost = edu->removed;
	if (edu->removed)
		return 0;

	/* Turn interrupts off in the device: MSI stays enabled for the next kernel to adopt. */
	edu->frozen = true;
	edu_irq_off(edu);
	ser->liveness = readl(edu->regs + EDU_LIVENESS);
	return 0;
}

static void edu_unfreeze(struct liveupdate_file_op_args *args)
{
	struct edu *edu = args->file->private_data;

	guard(mutex)(&edu->lock);

	edu->frozen = false;
	if (!edu->removed)
		edu_irq_on(edu);
}

/* The file handler: what the next kernel does */

static struct pci_dev *edu_ser_get_device(const struct edu_ser *ser)
{
	return ser->lost ? NULL :
			   pci_liveupdate_get_incoming(ser->domain, ser->bdf);
}

static int edu_adopt(struct edu *edu, struct edu_ser *ser)
{
	int ret;

	/* The PCI core notices most resets of a device, but not all of them. */
	if (readl(edu->regs + EDU_LIVENESS) != ser->liveness)
		return -EIO;

	ret = edu_connect(edu, ser->buffer);
	if (ret)
		return ret;

	/* This kernel may have an IOMMU where the previous one had none. */
	ret = -EOPNOTSUPP;
	if (edu->dma_addr != ser->buffer)
		goto err_disconnect;

	/* Last step: if it isn't reached, .finish frees the stopped device's buffer. */
	ret = -EINVAL;
	edu->buffer = kho_restore_pages(ser->buffer, 1);
	if (!edu->buffer)
		goto err_disconnect;

	ser->buffer = 0;
	return 0;

err_disconnect:
	edu_disconnect(edu);
	return ret;
}

static int edu_make_file(struct edu *edu, struct edu_ser *ser,
			 struct file **filep)
{
	struct file *file;
	int ret;

	file = anon_inode_getfile("[edu]", &edu_fops, edu, O_RDWR);
	if (IS_ERR(file))
		return PTR_ERR(file);
	/* edu_close() puts this reference */
	kref_get(&edu->kref);

	ret = edu_adopt(edu, ser);
	if (ret)
		fput(file);
	else
		*filep = file;
	return ret;
}

static int edu_retrieve_device(struct edu *edu, struct edu_ser *ser,
			       struct file **filep)
{
	int ret;

	guard(mutex)(&edu->lock);

	ret = edu_make_file(edu, ser, filep);
	if (ret)
		pci_liveupdate_abandon(edu->pdev, "its file can't be retrieved");
	return ret;
}

/*
 * Holds the device lock, so that the driver is neither bound nor unbound meanwhile. A
 * driver whose .remove waits until its files are closed can't do so: .remove is called
 * with the device lock held, and LUO, which would wait for that lock, keeps files open.
 */
static int edu_retrieve(struct liveupdate_file_op_args *args)
{
	struct edu_ser *ser = phys_to_virt(args->serialized_data);
	struct pci_dev *pdev __free(pci_dev_put) = edu_ser_get_device(ser);

	if (!pdev)
		return -ENODEV;

	guard(device)(&pdev->dev);

	if (pdev->dev.driver != &edu_driver.driver)
		return -EAGAIN;

	return edu_retrieve_device(pci_get_drvdata(pdev), ser, &args->file);
}

/* With both locks held, so that the device isn't set up for another user meanwhile. */
static bool edu_can_finish(struct liveupdate_file_op_args *args)
{
	const struct edu_ser *ser = phys_to_virt(args->serialized_data);
	struct pci_dev *pdev __free(pci_dev_put) = edu_ser_get_device(ser);
	struct edu *edu;

	if (args->retrieve_status > 0 || !pdev)
		return true;

	guard(device)(&pdev->dev);
	if (pdev->dev.driver != &edu_driver.driver) {
		pci_liveupdate_abandon(pdev, "nobody has retrieved its file");
		return true;
	}

	edu = pci_get_drvdata(pdev);
	guard(mutex)(&edu->lock);
	pci_liveupdate_abandon(pdev, "nobody has retrieved its file");
	return true;
}

static void edu_finish(struct liveupdate_file_op_args *args)
{
	struct edu_ser *ser = phys_to_virt(args->serialized_data);
	struct page *buffer;
	struct edu *edu;

	if (args->retrieve_status > 0) {
		edu = args->file->private_data;
		pci_liveupdate_finish(edu->pdev);
	}

	if (ser->buffer) {
		buffer = kho_restore_pages(ser->buffer, 1);
		if (buffer)
			put_page(buffer);
	}
	kho_restore_free(ser);
}

static const struct liveupdate_file_ops edu_liveupdate_ops = {
	.can_preserve = edu_can_preserve,
	.get_id = edu_get_id,
	.preserve = edu_preserve,
	.unpreserve = edu_unpreserve,
	.freeze = edu_freeze,
	.unfreeze = edu_unfreeze,
	.retrieve = edu_retrieve,
	.can_finish = edu_can_finish,
	.finish = edu_finish,
	.owner = THIS_MODULE,
};

static struct liveupdate_file_handler edu_liveupdate_handler = {
	.ops = &edu_liveupdate_ops,
	.compatible = EDU_COMPATIBLE,
};

/* The PCI driver */

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	void __iomem *regs;
	struct edu *edu;
	char *name;
	int ret;

	/* These calls don't change an incoming device. */
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(EDU_DMA_BITS));
	if (ret)
		return ret;
	regs = pcim_iomap_region(pdev, 0, edu_driver.name);
	if (IS_ERR(regs))
		return PTR_ERR(regs);

	name = devm_kasprintf(&pdev->dev, GFP_KERNEL, "edu-%s", pci_name(pdev));
	if (!name)
		return -ENOMEM;
	edu = kzalloc_obj(*edu);
	if (!edu)
		return -ENOMEM;

	kref_init(&edu->kref);
	mutex_init(&edu->lock);
	init_waitqueue_head(&edu->wait);
	edu->pdev = pci_dev_get(pdev);
	edu->regs = regs;
	edu->misc.minor = MISC_DYNAMIC_MINOR;
	edu->misc.name = name;
	edu->misc.fops = &edu_fops;
	edu->misc.parent = &pdev->dev;
	pci_set_drvdata(pdev, edu);

	/* An incoming device goes on with what it does: edu_retrieve() takes it over. */
	if (!pci_liveupdate_is_incoming(pdev))
		ret = edu_start(edu);
	if (ret)
		goto err_put;

	ret = misc_register(&edu->misc);
	if (ret)
		goto err_disconnect;

	return 0;

err_disconnect:
	if (edu->buffer)
		edu_disconnect(edu);
err_put:
	edu_put(edu);
	return ret;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	misc_deregister(&edu->misc);

	scoped_guard(mutex, &edu->lock) {
		edu->removed = true;
		/* A device that waits for .retrieve goes on, unless it is removed itself. */
		if (edu->buffer) {
			edu_disconnect(edu);
			pci_liveupdate_finish(pdev);
		}
	}
	edu_put(edu);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(EDU_VENDOR_ID, EDU_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

/* No .shutdown: the PCI core stops the DMA of a device that isn't preserved. */
static struct pci_driver edu_driver = {
	.name = "edu_liveupdate",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
};

static int edu_register_handler(void)
{
	int ret;

	ret = liveupdate_register_file_handler(&edu_liveupdate_handler);
	if (ret)
		return ret == -EOPNOTSUPP ? 0 : ret;

	ret = pci_liveupdate_register_flb(&edu_liveupdate_handler);
	if (ret)
		liveupdate_unregister_file_handler(&edu_liveupdate_handler);
	return ret;
}

/* Driver first: once the handler exists, files can be retrieved. */
static int __init edu_init(void)
{
	int ret;

	ret = pci_register_driver(&edu_driver);
	if (ret)
		return ret;

	ret = edu_register_handler();
	if (ret)
		pci_unregister_driver(&edu_driver);
	return ret;
}
module_init(edu_init);

static void __exit edu_exit(void)
{
	pci_liveupdate_unregister_flb(&edu_liveupdate_handler);
	liveupdate_unregister_file_handler(&edu_liveupdate_handler);
	pci_unregister_driver(&edu_driver);
}
module_exit(edu_exit);

MODULE_DESCRIPTION("PCI live update sample: a driver for QEMU's edu device");
MODULE_ALIAS_LIVEUPDATE(EDU_COMPATIBLE);
MODULE_LICENSE("GPL");
