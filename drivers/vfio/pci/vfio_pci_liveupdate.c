// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copyright (c) 2026, the PCI Live Update authors
 */

/**
 * DOC: vfio-pci Live Update
 *
 * A VMM preserves the file of a vfio-pci device with
 * ``LIVEUPDATE_SESSION_PRESERVE_FD``. The device goes on while the kernel is
 * replaced: it isn't reset, its BARs, its registers and its power state stay, and
 * so does its DMA unless an IOMMU translates for it. Only a cdev file that is bound
 * to an iommufd (with or without an IOMMU behind it) can be preserved; the Live
 * Update Orchestrator (LUO) answers -ENOENT for any other file.
 *
 * preserve
 *   The PCI core puts the device into its table, and vfio-pci writes down the
 *   state that the next kernel can't read from a running device. The VMM goes on
 *   using the device. If the device is attached to an address space behind an
 *   IOMMU that can hand its page tables over, all memory that is mapped there must
 *   have been preserved before, and nothing can be mapped or unmapped from here on.
 *
 * freeze
 *   Part of the kexec. Freeze, and with it the kexec, fails if memory that the device
 *   can reach isn't preserved any more, or if some PCI device is being removed, as the
 *   removal may wait until a file is closed. From here on the device is awake, its
 *   interrupts are masked, and the file gives no access (-EBUSY, or SIGBUS on a
 *   mapping), so that nothing changes behind the next kernel's back. The device can
 *   still be detached: that touches the IOMMU, not the device. If the kexec fails for
 *   another reason, unfreeze puts back what was there. Otherwise dma-bufs of the
 *   device are revoked.
 *
 * retrieve
 *   In the next kernel the PCI core binds the device to vfio-pci, and the device
 *   can be opened only with ``LIVEUPDATE_SESSION_RETRIEVE_FD``; any other open
 *   fails with -EBUSY. The VMM gets a new cdev file, and binds the file to an
 *   iommufd as usual. The bind opens the device without touching it.
 *
 * finish
 *   Waits for nobody. What happens depends on how far the user has come:
 *
 *   attached
 *     The user has taken the device over, which is ordinary from here on. When its file is
 *     closed, the device is reset to the state that it had when the first kernel opened it.
 *
 *   retrieved, and not attached
 *     The device stays incoming until its user attaches it, which takes it over, or closes
 *     the file, which gives it up. If an IOMMU goes on translating with the page tables of the
 *     previous kernel, DMA goes on: the IOMMU core holds the memory that these reach.
 *     Otherwise DMA is paused until the device is attached, as nobody holds that memory.
 *
 *   not retrieved
 *     The device is given up.
 *
 * A device is given up, which stops its DMA, also if retrieve fails, as LUO doesn't call
 * retrieve again, or if the open of a retrieved file fails half-way.
 *
 * If an IOMMU translates for the device and can hand its page tables over, it goes on
 * translating, and DMA goes on, too. The VMM attaches the device and maps its memory where
 * it was, in any order, and finish replaces the old page tables at once. If the device is
 * attached only later, attach replaces them, and the memory must have been mapped before.
 *
 * Any other IOMMU is off between the kernels, and its tables are gone afterwards: a
 * device would read and write other memory than its user meant. Freeze therefore clears
 * Bus Master Enable, and the next kernel sets it again when the user has taken the device
 * over. Until then there is no DMA; how the device copes with that is up to the device. The
 * addresses that the device was given mean the same only if an IOMMU translates in both
 * kernels or in neither: otherwise retrieve fails.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/bitmap.h>
#include <linux/bits.h>
#include <linux/file.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/iommu_liveupdate.h>
#include <linux/iommufd.h>
#include <linux/irq.h>
#include <linux/kexec_handover.h>
#include <linux/kho/abi/vfio_pci.h>
#include <linux/liveupdate.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/vfio_pci_core.h>

#include "vfio_pci_priv.h"

static bool vfio_pci_is_registered;

/* Devices that are frozen, by &vfio_pci_liveupdate.node */
static LIST_HEAD(vfio_pci_frozen);
/* Protects the list. Outside memory_lock, inside LUO's session and the reboot notifiers' chain. */
static DEFINE_MUTEX(vfio_pci_frozen_mutex);

/* The operations of vfio-pci's devices; variant drivers have their own */
static const struct vfio_device_ops *vfio_pci_device_ops;

static struct vfio_pci_core_device *vfio_pci_from_file(struct file *file)
{
	struct vfio_device *device = vfio_cdev_from_file(file);

	if (!device || device->ops != vfio_pci_device_ops)
		return NULL;

	return container_of(device, struct vfio_pci_core_device, vdev);
}

static bool vfio_pci_can_preserve(struct liveupdate_file_handler *handler,
				  struct file *file)
{
	return vfio_pci_from_file(file) && vfio_cdev_is_bound(file);
}

/* Test what iommufd tests: a device without an IOMMU may have an IOMMU group, too. */
static bool vfio_pci_is_translated(struct pci_dev *pdev)
{
	return pdev->dev.iommu;
}

/* The file is bound, so the fields that were set at open don't change meanwhile. */
static struct vfio_pci_ser *vfio_pci_write_ser(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	struct vfio_pci_ser *ser;
	size_t size = 0;

	if (vdev->pci_saved_state)
		size = pci_liveupdate_write_state(vdev->pci_saved_state, NULL, 0);

	ser = kho_alloc_preserve(sizeof(*ser) + size + pdev->cfg_size);
	if (IS_ERR(ser))
		return ser;

	*ser = (struct vfio_pci_ser){
		.domain = pci_domain_nr(pdev->bus),
		.bdf = pci_dev_id(pdev),
		.state_size = size,
		.config_size = pdev->cfg_size,
	};
	if (vdev->reset_works)
		ser->flags |= VFIO_PCI_SER_RESET_WORKS;
	if (vdev->nointx)
		ser->flags |= VFIO_PCI_SER_NOINTX;
	if (vdev->pci_2_3)
		ser->flags |= VFIO_PCI_SER_PCI_2_3;
	if (vfio_pci_is_translated(pdev))
		ser->flags |= VFIO_PCI_SER_TRANSLATED;
	if (size)
		pci_liveupdate_write_state(vdev->pci_saved_state, ser->data, size);

	return ser;
}

#ifdef CONFIG_PCI_PRI
static bool vfio_pci_has_pri(struct pci_dev *pdev)
{
	return pdev->pri_enabled;
}
#else
static bool vfio_pci_has_pri(struct pci_dev *pdev)
{
	return false;
}
#endif

static u16 vfio_pci_msi_flags(struct pci_dev *pdev)
{
	u16 flags = 0;

	if (pdev->msi_cap)
		pci_read_config_word(pdev, pdev->msi_cap + PCI_MSI_FLAGS, &flags);
	return flags;
}

/* Some devices can't use MSI while INTx is disabled. */
static bool vfio_pci_msi_needs_intx(struct pci_dev *pdev)
{
	return pdev->dev_flags & PCI_DEV_FLAGS_MSI_INTX_DISABLE_BUG;
}

/* While MSI or MSI-X is on, a device doesn't assert INTx (PCIe r7.0, sec 6.1.4). */
static bool vfio_pci_never_masks_irqs(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;

	if (!pdev->pin || vdev->nointx || pdev->msix_cap)
		return false;
	if (vdev->pci_2_3 && !vfio_pci_msi_needs_intx(pdev))
		return false;

	return !(vfio_pci_msi_flags(pdev) & PCI_MSI_FLAGS_MASKBIT);
}

/* Return why the device can't be preserved, now or ever; NULL if it can be. */
static const char *vfio_pci_cannot_preserve(struct vfio_pci_core_device *vdev)
{
	/* The next kernel's VGA arbiter would turn its legacy ranges off */
	if (vfio_pci_is_vga(vdev->pdev))
		return "a VGA device can't be preserved yet";
	if (vdev->num_regions)
		return "regions that only some devices have (IGD) can't be preserved yet";
	if (!ida_is_empty(&vdev->vdev.pasids))
		return "a PASID is attached; detach it with VFIO_DEVICE_DETACH_IOMMUFD_PT";
	if (vfio_pci_is_adopted(vdev))
		return "its last live update isn't over; attach it, and finish its session";
	if (vfio_pci_has_pri(vdev->pdev))
		return "page requests are enabled; attach it to an HWPT without faults";
	if (vfio_pci_never_masks_irqs(vdev))
		return "it can't disable INTx, and has no other interrupt that can be masked";

	return NULL;
}

/*
 * Hand the translation of the device over, if there is one and if that is possible. If it
 * isn't possible, freeze pauses DMA as for a device that isn't attached.
 */
static int vfio_pci_preserve_translation(struct vfio_pci_core_device *vdev)
{
	int ret;

	if (!vfio_pci_is_translated(vdev->pdev))
		return 0;

	ret = iommufd_device_preserve(vdev->vdev.iommufd_device);
	vdev->liveupdate.translation = !ret;
	return ret == -ENOENT || ret == -EOPNOTSUPP ? 0 : ret;
}

static void vfio_pci_unpreserve_translation(struct vfio_pci_core_device *vdev)
{
	if (vdev->liveupdate.translation)
		iommufd_device_unpreserve(vdev->vdev.iommufd_device);
	vdev->liveupdate.translation = false;
}

static int vfio_pci_preserve(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_core_device *vdev = vfio_pci_from_file(args->file);
	const char *why = vfio_pci_cannot_preserve(vdev);
	struct vfio_pci_ser *ser;
	int ret;

	if (why) {
		pci_warn(vdev->pdev, "not preserved: %s\n", why);
		return -EINVAL;
	}

	ret = pci_liveupdate_preserve(vdev->pdev);
	if (ret)
		return ret;

	ret = vfio_pci_preserve_translation(vdev);
	if (ret)
		goto err_device;

	ser = vfio_pci_write_ser(vdev);
	if (IS_ERR(ser)) {
		ret = PTR_ERR(ser);
		goto err_translation;
	}

	args->serialized_data = virt_to_phys(ser);
	return 0;

err_translation:
	vfio_pci_unpreserve_translation(vdev);
err_device:
	pci_liveupdate_unpreserve(vdev->pdev);
	return ret;
}

static void vfio_pci_unpreserve(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_core_device *vdev = vfio_pci_from_file(args->file);

	vfio_pci_unpreserve_translation(vdev);
	pci_liveupdate_unpreserve(vdev->pdev);
	kho_unpreserve_free(phys_to_virt(args->serialized_data));
}

/* When frozen, an ioeventfd doesn't write to memory, but still writes to I/O ports. */
static bool vfio_pci_has_port_ioeventfd(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_ioeventfd *ioeventfd;

	guard(mutex)(&vdev->ioeventfds_lock);
	list_for_each_entry(ioeventfd, &vdev->ioeventfds_list, next) {
		if (!ioeventfd->test_mem)
			return true;
	}

	return false;
}

static bool vfio_pci_can_mask_intx(struct vfio_pci_core_device *vdev)
{
	return vdev->pci_2_3 && (!vfio_pci_msi_needs_intx(vdev->pdev) ||
				 vdev->irq_type == VFIO_PCI_INTX_IRQ_INDEX);
}

/* Its user may have cleared MSI Enable. */
static bool vfio_pci_can_mask_msi(struct vfio_pci_core_device *vdev)
{
	u16 flags = vfio_pci_msi_flags(vdev->pdev);

	return vdev->irq_type == VFIO_PCI_MSI_IRQ_INDEX && flags & PCI_MSI_FLAGS_ENABLE &&
	       flags & PCI_MSI_FLAGS_MASKBIT;
}

/* Nobody handles the INTx of a preserved device in the next kernel. */
static bool vfio_pci_can_mask_irqs(struct vfio_pci_core_device *vdev)
{
	return !vdev->pdev->pin || vdev->nointx || vfio_pci_can_mask_intx(vdev) ||
	       vdev->irq_type == VFIO_PCI_MSIX_IRQ_INDEX || vfio_pci_can_mask_msi(vdev);
}

/* Return why the device can't be frozen; NULL if it can be. */
static const char *vfio_pci_cannot_freeze(struct vfio_pci_core_device *vdev)
{
	lockdep_assert_held(&vdev->igate);
	lockdep_assert_held(&vdev->memory_lock);

	if (!vfio_pci_can_mask_irqs(vdev))
		return "it can't disable INTx; enable its MSI-X, or MSI that can be masked";
	if (vfio_pci_has_port_ioeventfd(vdev))
		return "an ioeventfd writes to its I/O ports; remove that first";

	return vfio_pci_cannot_preserve(vdev);
}

/*
 * Tell the interrupt core, too: it then keeps what is masked so when it changes the affinity of
 * an interrupt, for which it writes the mask bits.
 */
static void vfio_pci_disable_vectors(struct pci_dev *pdev)
{
	int vector, irq;

	for (vector = 0; (irq = pci_irq_vector(pdev, vector)) >= 0; vector++) {
		/* At once, not when the next one comes */
		irq_set_status_flags(irq, IRQ_DISABLE_UNLAZY);
		disable_irq(irq);
		irq_clear_status_flags(irq, IRQ_DISABLE_UNLAZY);
	}
}

static void vfio_pci_enable_vectors(struct pci_dev *pdev)
{
	int vector, irq;

	for (vector = 0; (irq = pci_irq_vector(pdev, vector)) >= 0; vector++)
		enable_irq(irq);
}

static int vfio_pci_msi_mask_pos(struct pci_dev *pdev, u16 flags)
{
	return pdev->msi_cap + (flags & PCI_MSI_FLAGS_64BIT ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
}

/* Without mask bits MSI has to be off: a message would reach another kernel. */
static void vfio_pci_mask_msi(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 flags = vfio_pci_msi_flags(pdev);
	int pos = vfio_pci_msi_mask_pos(pdev, flags);
	unsigned int nr_vectors;

	vdev->liveupdate.msi_flags = flags;
	if (!(flags & PCI_MSI_FLAGS_MASKBIT)) {
		pci_write_config_word(pdev, pdev->msi_cap + PCI_MSI_FLAGS,
				      flags & ~PCI_MSI_FLAGS_ENABLE);
		return;
	}

	/* The user may have written to these bits; more than 32 are reserved */
	nr_vectors = 1 << min(FIELD_GET(PCI_MSI_FLAGS_QMASK, flags), 5);
	pci_read_config_dword(pdev, pos, &vdev->liveupdate.msi_mask);
	vfio_pci_disable_vectors(pdev);
	pci_write_config_dword(pdev, pos,
			       vdev->liveupdate.msi_mask | GENMASK(nr_vectors - 1, 0));
}

static void vfio_pci_unmask_msi(struct vfio_pci_core_device *vdev)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 flags = vdev->liveupdate.msi_flags;

	if (!(flags & PCI_MSI_FLAGS_MASKBIT)) {
		pci_write_config_word(pdev, pdev->msi_cap + PCI_MSI_FLAGS, flags);
		return;
	}

	vfio_pci_enable_vectors(pdev);
	pci_write_config_dword(pdev, vfio_pci_msi_mask_pos(pdev, flags),
			       vdev->liveupdate.msi_mask);
}

static void vfio_pci_mask_msix(struct vfio_pci_core_device *vdev, bool mask)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 flags;

	pci_read_config_word(pdev, pdev->msix_cap + PCI_MSIX_FLAGS, &flags);
	flags &= ~PCI_MSIX_FLAGS_MASKALL;
	if (mask)
		flags |= PCI_MSIX_FLAGS_MASKALL;
	pci_write_config_word(pdev, pdev->msix_cap + PCI_MSIX_FLAGS, flags);
}

/*
 * Also if nobody has it on: a device that asserts it in the next kernel, where nobody handles
 * it, takes it away from all that share the line. With virq_disabled set nobody unmasks it.
 */
static void vfio_pci_mask_intx(struct vfio_pci_core_device *vdev)
{
	u16 cmd;

	if (!vfio_pci_can_mask_intx(vdev))
		return;

	guard(spinlock_irq)(&vdev->irqlock);

	pci_read_config_word(vdev->pdev, PCI_COMMAND, &cmd);
	vdev->liveupdate.intx_on = !(cmd & PCI_COMMAND_INTX_DISABLE);
	vdev->liveupdate.virq_disabled = vdev->virq_disabled;
	vdev->virq_disabled = true;
	pci_intx(vdev->pdev, 0);
}

/* If it is in use it stays disabled until its user, who is told next, unmasks it. */
static void vfio_pci_unmask_intx(struct vfio_pci_core_device *vdev)
{
	if (!vfio_pci_can_mask_intx(vdev))
		return;

	guard(spinlock_irq)(&vdev->irqlock);

	vdev->virq_disabled = vdev->liveupdate.virq_disabled;
	if (vdev->irq_type != VFIO_PCI_INTX_IRQ_INDEX)
		pci_intx(vdev->pdev, vdev->liveupdate.intx_on);
}

/*
 * Whoever had them on may be dead. What the device raises from here on stays pending where
 * the device has bits for that; it comes when the next kernel's user has armed the vector.
 */
static void vfio_pci_mask_irqs(struct vfio_pci_core_device *vdev)
{
	lockdep_assert_held(&vdev->igate);

	vfio_pci_mask_intx(vdev);
	switch (vdev->irq_type) {
	case VFIO_PCI_MSIX_IRQ_INDEX:
		vfio_pci_mask_msix(vdev, true);
		break;
	case VFIO_PCI_MSI_IRQ_INDEX:
		vfio_pci_mask_msi(vdev);
		break;
	}
}

static void vfio_pci_unmask_irqs(struct vfio_pci_core_device *vdev)
{
	lockdep_assert_held(&vdev->igate);

	switch (vdev->irq_type) {
	case VFIO_PCI_MSIX_IRQ_INDEX:
		vfio_pci_mask_msix(vdev, false);
		break;
	case VFIO_PCI_MSI_IRQ_INDEX:
		vfio_pci_unmask_msi(vdev);
		break;
	}
	vfio_pci_unmask_intx(vdev);

	/* What came while MSI was off is lost, and INTx may have */
	vfio_pci_signal_irqs(vdev);
}

/*
 * The next kernel can't do anything with a device that its user has put to sleep. If that has
 * entered low power it is awake already: runtime suspend is held off since preserve.
 */
static int vfio_pci_wake(struct vfio_pci_core_device *vdev)
{
	vdev->liveupdate.power_state = vdev->pdev->current_state;
	if (vdev->liveupdate.power_state == PCI_D0)
		return 0;

	return vfio_pci_set_power_state(vdev, PCI_D0);
}

static void vfio_pci_sleep(struct vfio_pci_core_device *vdev)
{
	if (vdev->liveupdate.power_state != PCI_D0)
		vfio_pci_set_power_state(vdev, vdev->liveupdate.power_state);
}

/*
 * Without an IOMMU, DMA goes on: it goes to memory that stays where it is. So it does if
 * the IOMMU goes on translating it.
 */
static void vfio_pci_pause_dma(struct vfio_pci_core_device *vdev,
			       struct vfio_pci_ser *ser, bool kept)
{
	struct pci_dev *pdev = vdev->pdev;
	u16 cmd;

	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	if (!vfio_pci_is_translated(pdev) || !(cmd & PCI_COMMAND_MASTER))
		return;

	if (kept) {
		ser->flags |= VFIO_PCI_SER_KEPT;
		return;
	}

	ser->flags |= VFIO_PCI_SER_MASTER;
	pci_clear_master(pdev);
	pci_wait_for_pending_transaction(pdev);
}

static void vfio_pci_resume_dma(struct vfio_pci_core_device *vdev,
				struct vfio_pci_ser *ser)
{
	ser->flags &= ~VFIO_PCI_SER_KEPT;
	if (!(ser->flags & VFIO_PCI_SER_MASTER))
		return;

	ser->flags &= ~VFIO_PCI_SER_MASTER;
	pci_set_master(vdev->pdev);
}

/*
 * Doesn't wait for the device lock: whoever holds it may wait until the file is closed, and
 * LUO keeps the file open.
 */
static int vfio_pci_freeze_device(struct vfio_pci_core_device *vdev, struct vfio_pci_ser *ser)
{
	bool kept = false;
	const char *why;
	int ret;

	/* Attaching takes it, too: what is checked here is what goes into the kexec */
	guard(rwsem_write)(&vdev->liveupdate.lock);

	if (vdev->liveupdate.translation) {
		ret = iommufd_device_freeze(vdev->vdev.iommufd_device);
		if (ret && ret != -ENOENT)
			return ret;
		kept = !ret;
	}

	guard(mutex)(&vdev->igate);
	guard(rwsem_write)(&vdev->memory_lock);

	why = vfio_pci_cannot_freeze(vdev);
	if (why) {
		pci_warn(vdev->pdev, "live update refused: %s\n", why);
		return -EINVAL;
	}

	ret = vfio_pci_wake(vdev);
	if (ret) {
		pci_warn(vdev->pdev, "live update refused: it can't be brought to D0\n");
		return ret;
	}

	WRITE_ONCE(vdev->liveupdate.frozen, true);
	vfio_pci_mask_irqs(vdev);
	unmap_mapping_range(vdev->vdev.inode->i_mapping,
			    VFIO_PCI_INDEX_TO_OFFSET(VFIO_PCI_BAR0_REGION_INDEX),
			    VFIO_PCI_INDEX_TO_OFFSET(VFIO_PCI_ROM_REGION_INDEX),
			    true);
	vfio_pci_pause_dma(vdev, ser, kept);
	memcpy(ser->data + ser->state_size, vdev->vconfig, ser->config_size);
	return 0;
}

static int vfio_pci_freeze(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_core_device *vdev = vfio_pci_from_file(args->file);
	int ret;

	ret = pci_liveupdate_freeze();
	if (!ret)
		ret = vfio_pci_freeze_device(vdev, phys_to_virt(args->serialized_data));
	if (ret)
		return ret;

	guard(mutex)(&vfio_pci_frozen_mutex);
	list_add(&vdev->liveupdate.node, &vfio_pci_frozen);
	return 0;
}

static void vfio_pci_unfreeze(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_core_device *vdev = vfio_pci_from_file(args->file);

	scoped_guard(mutex, &vfio_pci_frozen_mutex)
		list_del(&vdev->liveupdate.node);

	guard(rwsem_write)(&vdev->liveupdate.lock);
	guard(mutex)(&vdev->igate);
	guard(rwsem_write)(&vdev->memory_lock);

	WRITE_ONCE(vdev->liveupdate.frozen, false);
	vfio_pci_resume_dma(vdev, phys_to_virt(args->serialized_data));
	vfio_pci_unmask_irqs(vdev);
	vfio_pci_sleep(vdev);
}

/*
 * Importers access the device without asking vfio-pci. Revoking a dma-buf can't be undone for all
 * of them, so that is put off until no file can refuse the kexec any more.
 */
static int vfio_pci_reboot(struct notifier_block *nb, unsigned long action, void *data)
{
	struct vfio_pci_core_device *vdev;

	guard(mutex)(&vfio_pci_frozen_mutex);

	list_for_each_entry(vdev, &vfio_pci_frozen, liveupdate.node) {
		guard(rwsem_write)(&vdev->memory_lock);
		vfio_pci_dma_buf_move(vdev, true);
	}

	return NOTIFY_DONE;
}

static struct notifier_block vfio_pci_reboot_nb = {
	.notifier_call = vfio_pci_reboot,
};

/* Get what the previous kernel wrote; NULL if it isn't there, which LUO doesn't check. */
static struct vfio_pci_ser *vfio_pci_get_ser(struct liveupdate_file_op_args *args)
{
	u64 pa = args->serialized_data;

	return kho_preserved_size(pa) ? phys_to_virt(pa) : NULL;
}

/* Return NULL if the previous kernel had no saved state of the device. */
static struct pci_saved_state *vfio_pci_read_state(const struct vfio_pci_ser *ser)
{
	if (!ser->state_size)
		return NULL;

	return pci_liveupdate_read_state(ser->data, ser->state_size);
}

static int vfio_pci_check_ser(const struct vfio_pci_ser *ser)
{
	struct pci_saved_state *state;

	if (ser->flags & ~VFIO_PCI_SER_FLAGS)
		return -EOPNOTSUPP;
	if (ser->flags & VFIO_PCI_SER_KEPT && !(ser->flags & VFIO_PCI_SER_TRANSLATED))
		return -EINVAL;
	if ((u64)ser->state_size + ser->config_size >
	    kho_preserved_size(__pa(ser)) - sizeof(*ser))
		return -EINVAL;

	state = vfio_pci_read_state(ser);
	if (IS_ERR(state))
		return PTR_ERR(state);

	kfree(state);
	return 0;
}

/* Refuse a device whose DMA addresses no longer mean the same as before. */
static int vfio_pci_check_translated(struct pci_dev *pdev,
				     const struct vfio_pci_ser *ser)
{
	bool before = ser->flags & VFIO_PCI_SER_TRANSLATED;
	bool now = vfio_pci_is_translated(pdev);

	if (before == now)
		return 0;

	pci_warn(pdev, "%s IOMMU translates for it now, unlike before\n",
		 now ? "an" : "no");
	return -EOPNOTSUPP;
}

/* Undo vfio_pci_liveupdate_probe(). If the device is enabled, it stays resumed until close. */
static void vfio_pci_allow_idle_d3(struct vfio_pci_core_device *vdev, bool enabled)
{
	if (!vdev->liveupdate.idle_d3)
		return;

	vdev->liveupdate.idle_d3 = false;
	vdev->disable_idle_d3 = false;
	if (!enabled)
		pm_runtime_put(&vdev->pdev->dev);
}

/* The device isn't incoming any more, or is about to be taken over or given up. */
static void vfio_pci_forget(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_ser *ser = vdev->liveupdate.ser;

	lockdep_assert_held(&vdev->vdev.dev_set->lock);

	WRITE_ONCE(vdev->liveupdate.ser, NULL);
	vdev->liveupdate.file = NULL;
	vfio_pci_allow_idle_d3(vdev, vdev->vdev.open_count);
	if (vdev->liveupdate.finished)
		kho_restore_free(ser);
	vdev->liveupdate.finished = false;
}

/*
 * A retrieved file is closed, after finish, as LUO holds it until then. If its user has taken the
 * device over, this does nothing.
 */
static void vfio_pci_release(struct vfio_device *core_vdev, struct file *file)
{
	struct vfio_pci_core_device *vdev =
		container_of(core_vdev, struct vfio_pci_core_device, vdev);

	guard(mutex)(&vdev->vdev.dev_set->lock);

	if (file != vdev->liveupdate.file)
		return;

	pci_liveupdate_abandon(vdev->pdev, "closed before it was attached");
	vfio_pci_forget(vdev);
}

/* Two files that say that they are of one device: only one of them can be. */
static int vfio_pci_set_ser(struct vfio_pci_core_device *vdev, struct vfio_pci_ser *ser,
			    struct file *file)
{
	/* Another thread may be in vfio_pci_liveupdate_open() */
	guard(mutex)(&vdev->vdev.dev_set->lock);

	if (vdev->liveupdate.ser)
		return -EBUSY;

	WRITE_ONCE(vdev->liveupdate.ser, ser);
	vdev->liveupdate.file = file;
	return 0;
}

static int vfio_pci_retrieve_device(struct pci_dev *pdev, struct vfio_pci_ser *ser,
				    struct file **filep)
{
	struct file *file;
	int ret;

	ret = vfio_pci_check_ser(ser);
	if (ret)
		return ret;
	ret = vfio_pci_check_translated(pdev, ser);
	if (ret)
		return ret;

	file = vfio_cdev_getfile(&pdev->dev, vfio_pci_device_ops, vfio_pci_release);
	if (IS_ERR(file))
		return PTR_ERR(file);

	/* The file keeps the device bound to vfio-pci. */
	ret = vfio_pci_set_ser(pci_get_drvdata(pdev), ser, file);
	if (ret)
		fput(file);
	else
		*filep = file;
	return ret;
}

/* Memory may be short, or the driver still be probing: LUO lets its user try again. */
static bool vfio_pci_can_try_again(int err)
{
	return err == -ENOMEM || err == -ENFILE || err == -ENODEV;
}

static int vfio_pci_retrieve(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_ser *ser = vfio_pci_get_ser(args);
	struct pci_dev *pdev;
	int ret;

	if (!ser)
		return -EINVAL;

	pdev = pci_liveupdate_get_incoming(ser->domain, ser->bdf);
	if (!pdev)
		return -ENODEV;

	ret = vfio_pci_retrieve_device(pdev, ser, &args->file);
	if (vfio_pci_can_try_again(ret))
		ret = -EAGAIN;
	/* -EBUSY: the device is that of another file */
	else if (ret && ret != -EBUSY)
		pci_liveupdate_abandon(pdev, "its file can't be retrieved");
	pci_dev_put(pdev);
	return ret;
}

/* The device uses what it is attached to from here on, and does DMA if it did before. */
static void vfio_pci_take_over(struct vfio_pci_core_device *vdev)
{
	bool master = vdev->liveupdate.ser->flags & (VFIO_PCI_SER_MASTER | VFIO_PCI_SER_KEPT);

	/* One that was given up is its next user's */
	master = master && pci_liveupdate_is_incoming(vdev->pdev);
	/* Not while vectors are allocated: what isn't used by then is turned off */
	scoped_guard(mutex, &vdev->igate)
		pci_liveupdate_finish(vdev->pdev);
	vfio_pci_forget(vdev);
	if (!master)
		return;

	guard(rwsem_write)(&vdev->memory_lock);
	pci_set_master(vdev->pdev);
}

static bool vfio_pci_is_taken_over(struct vfio_pci_core_device *vdev)
{
	return vdev->vdev.iommufd_attached || !pci_liveupdate_is_incoming(vdev->pdev);
}

/* Nobody holds the memory of a device that isn't translated by old page tables. */
static void vfio_pci_pause_unattached(struct vfio_pci_core_device *vdev)
{
	struct vfio_pci_ser *ser = vdev->liveupdate.ser;
	struct pci_dev *pdev = vdev->pdev;
	u16 cmd;

	lockdep_assert_held(&vdev->vdev.dev_set->lock);

	if (vfio_pci_is_taken_over(vdev) || ser->flags & VFIO_PCI_SER_KEPT)
		return;

	guard(rwsem_write)(&vdev->memory_lock);
	pci_read_config_word(pdev, PCI_COMMAND, &cmd);
	if (PCI_POSSIBLE_ERROR(cmd) || !(cmd & PCI_COMMAND_MASTER))
		return;

	ser->flags |= VFIO_PCI_SER_MASTER;
	pci_warn(pdev, "DMA paused: its live update is finished, and it isn't attached yet\n");
	pci_clear_master(pdev);
	if (!pci_wait_for_pending_transaction(pdev))
		pci_warn(pdev, "liveupdate: requests are still pending; reset it\n");
}

/* Return false if it can't be told which device that is: one that goes on, perhaps. */
static bool vfio_pci_give_up(struct liveupdate_file_op_args *args)
{
	const struct vfio_pci_ser *ser = vfio_pci_get_ser(args);
	struct pci_dev *pdev;

	/* -EBUSY: the device that it names is that of another file */
	if (!ser || args->retrieve_status == -EBUSY)
		return false;

	pdev = pci_liveupdate_get_incoming(ser->domain, ser->bdf);
	if (pdev)
		pci_liveupdate_abandon(pdev, "nobody has retrieved its file");
	pci_dev_put(pdev);
	return pci_liveupdate_was_preserved(ser->domain, ser->bdf);
}

/*
 * Always true: finish waits for nobody. LUO finishes a session's last file first, so memory
 * that was preserved after the device is freed before vfio_pci_finish() is called, but not
 * before each file of the session was asked. If another file says no, what was given up stays
 * given up.
 */
static bool vfio_pci_can_finish(struct liveupdate_file_op_args *args)
{
	struct vfio_pci_core_device *vdev;

	if (args->retrieve_status > 0) {
		vdev = vfio_pci_from_file(args->file);
		scoped_guard(mutex, &vdev->vdev.dev_set->lock)
			vfio_pci_pause_unattached(vdev);
	} else if (!vfio_pci_give_up(args)) {
		args->hold = pci_liveupdate_any_incoming();
	}

	return true;
}

/* Return false if the device stays incoming, and what the previous kernel wrote is in use. */
static bool vfio_pci_finish_device(struct vfio_pci_core_device *vdev)
{
	guard(mutex)(&vdev->vdev.dev_set->lock);

	/* It may have been detached since vfio_pci_can_finish() */
	vfio_pci_pause_unattached(vdev);
	if (vfio_pci_is_taken_over(vdev)) {
		vfio_pci_take_over(vdev);
		return true;
	}
	if (pci_liveupdate_defer_finish(vdev->pdev)) {
		pci_liveupdate_abandon(vdev->pdev, "it can't wait for its user");
		vfio_pci_forget(vdev);
		return true;
	}

	vdev->liveupdate.finished = true;
	return false;
}

static void vfio_pci_finish(struct liveupdate_file_op_args *args)
{
	if (args->retrieve_status > 0 &&
	    !vfio_pci_finish_device(vfio_pci_from_file(args->file)))
		return;

	kho_restore_free(vfio_pci_get_ser(args));
}

static const struct liveupdate_file_ops vfio_pci_liveupdate_ops = {
	.can_preserve = vfio_pci_can_preserve,
	.preserve = vfio_pci_preserve,
	.unpreserve = vfio_pci_unpreserve,
	.freeze = vfio_pci_freeze,
	.unfreeze = vfio_pci_unfreeze,
	.retrieve = vfio_pci_retrieve,
	.can_finish = vfio_pci_can_finish,
	.finish = vfio_pci_finish,
	.owner = THIS_MODULE,
};

static struct liveupdate_file_handler vfio_pci_liveupdate_handler = {
	.ops = &vfio_pci_liveupdate_ops,
	.compatible = VFIO_PCI_LIVEUPDATE_COMPATIBLE,
};

MODULE_ALIAS_LIVEUPDATE(VFIO_PCI_LIVEUPDATE_COMPATIBLE);

static int vfio_pci_register(void)
{
	int ret;

	ret = liveupdate_register_file_handler(&vfio_pci_liveupdate_handler);
	if (ret)
		return ret;

	ret = iommu_liveupdate_register_flb(&vfio_pci_liveupdate_handler);
	if (ret)
		goto err_handler;

	ret = pci_liveupdate_register_flb(&vfio_pci_liveupdate_handler);
	if (ret)
		goto err_flb;

	return 0;

err_flb:
	iommu_liveupdate_unregister_flb(&vfio_pci_liveupdate_handler);
err_handler:
	liveupdate_unregister_file_handler(&vfio_pci_liveupdate_handler);
	return ret;
}

/**
 * vfio_pci_liveupdate_register - Register the file handler
 * @ops: operations of vfio-pci's devices
 *
 * If that fails vfio-pci does without: only a live update needs the handler. Devices of the
 * previous kernel wait until the module is loaded again, or are stopped at finish.
 *
 * Context: module initialisation. May sleep.
 */
void vfio_pci_liveupdate_register(const struct vfio_device_ops *ops)
{
	int ret;

	vfio_pci_device_ops = ops;

	ret = vfio_pci_register();
	vfio_pci_is_registered = !ret;
	if (ret && ret != -EOPNOTSUPP)
		pr_warn("no device can be preserved: registering with LUO has failed (%pe); reload vfio-pci, or reboot\n",
			ERR_PTR(ret));
	if (!ret)
		register_reboot_notifier(&vfio_pci_reboot_nb);
}

/**
 * vfio_pci_liveupdate_unregister - Undo vfio_pci_liveupdate_register()
 *
 * Context: module exit. No file is preserved: LUO holds a reference on the module for
 * each preserved file.
 */
void vfio_pci_liveupdate_unregister(void)
{
	if (!vfio_pci_is_registered)
		return;

	unregister_reboot_notifier(&vfio_pci_reboot_nb);
	pci_liveupdate_unregister_flb(&vfio_pci_liveupdate_handler);
	iommu_liveupdate_unregister_flb(&vfio_pci_liveupdate_handler);
	liveupdate_unregister_file_handler(&vfio_pci_liveupdate_handler);
}

/**
 * vfio_pci_liveupdate_probe - Prepare for a device that may be incoming
 * @vdev: device that vfio-pci is being bound to
 *
 * vfio-pci puts a device that isn't open into D3. Keeps an incoming device in D0: its
 * user just hasn't opened it yet.
 *
 * Context: before the device is registered with vfio.
 */
void vfio_pci_liveupdate_probe(struct vfio_pci_core_device *vdev)
{
	if (!pci_liveupdate_is_incoming(to_pci_dev(vdev->vdev.dev)) ||
	    vdev->disable_idle_d3)
		return;

	vdev->disable_idle_d3 = true;
	vdev->liveupdate.idle_d3 = true;
}

/**
 * vfio_pci_liveupdate_open - Take over what the previous kernel found out
 * @vdev: device that is about to be opened
 *
 * Does nothing for a device that isn't incoming.
 *
 * Context: &vfio_device_set.lock is held. May sleep.
 * Return: 0; -EBUSY if the device is incoming and its file wasn't retrieved; -EIO if the
 * file was retrieved but the device was given up; -ENOMEM.
 */
int vfio_pci_liveupdate_open(struct vfio_pci_core_device *vdev)
{
	const struct vfio_pci_ser *ser = vdev->liveupdate.ser;
	struct pci_saved_state *state;

	vdev->liveupdate.retrieved = false;
	if (!pci_liveupdate_is_incoming(vdev->pdev)) {
		if (ser)
			return -EIO;
		/* Nobody has retrieved its file */
		vfio_pci_allow_idle_d3(vdev, false);
		return 0;
	}
	if (!ser)
		return -EBUSY;

	state = vfio_pci_read_state(ser);
	if (IS_ERR(state))
		return PTR_ERR(state);

	/* An earlier open that failed may have left its state. */
	kfree(vdev->pci_saved_state);
	vdev->pci_saved_state = state;
	vdev->reset_works = ser->flags & VFIO_PCI_SER_RESET_WORKS;
	vdev->nointx = ser->flags & VFIO_PCI_SER_NOINTX;
	vdev->pci_2_3 = ser->flags & VFIO_PCI_SER_PCI_2_3;
	vdev->liveupdate.retrieved = true;
	bitmap_zero(vdev->liveupdate.armed, PCI_MSIX_FLAGS_QSIZE + 1);
	return 0;
}

/**
 * vfio_pci_liveupdate_restore_config - Restore what the user has written
 * @vdev: device that has just been opened
 *
 * Does nothing for a device that isn't incoming.
 *
 * Context: &vfio_device_set.lock is held; userspace has no access yet.
 */
void vfio_pci_liveupdate_restore_config(struct vfio_pci_core_device *vdev)
{
	const struct vfio_pci_ser *ser = vdev->liveupdate.ser;

	if (ser)
		vfio_config_restore(vdev, ser->data + ser->state_size, ser->config_size);
}

static int vfio_pci_attach_ioas(struct vfio_pci_core_device *vdev, u32 *pt_id)
{
	int ret;

	ret = vfio_iommufd_physical_attach_ioas(&vdev->vdev, pt_id);
	/* Before finish the address space may be empty: finish says that it is complete */
	if (!ret && vdev->liveupdate.finished)
		vfio_pci_take_over(vdev);
	return ret;
}

/**
 * vfio_pci_liveupdate_attach_ioas - Attach a device to an address space
 * @core_vdev: device
 * @pt_id: ID of the address space; on return, of what the device was attached to
 *
 * Takes the device over if its file was finished before.
 *
 * Context: &vfio_device_set.lock is held. May sleep.
 * Return: 0; -EBUSY if the device is frozen; or the error of
 * vfio_iommufd_physical_attach_ioas().
 */
int vfio_pci_liveupdate_attach_ioas(struct vfio_device *core_vdev, u32 *pt_id)
{
	struct vfio_pci_core_device *vdev =
		container_of(core_vdev, struct vfio_pci_core_device, vdev);
	int ret;

	if (!vfio_pci_liveupdate_begin(vdev))
		return -EBUSY;

	ret = vfio_pci_attach_ioas(vdev, pt_id);
	vfio_pci_liveupdate_end(vdev);
	return ret;
}

/**
 * vfio_pci_liveupdate_pasid_attach_ioas - Attach a PASID to an address space
 * @core_vdev: device
 * @pasid: PASID
 * @pt_id: ID of the address space; on return, of what @pasid was attached to
 *
 * Context: &vfio_device_set.lock is held. May sleep.
 * Return: 0; -EBUSY if the device is frozen; or the error of
 * vfio_iommufd_physical_pasid_attach_ioas().
 */
int vfio_pci_liveupdate_pasid_attach_ioas(struct vfio_device *core_vdev,
					  u32 pasid, u32 *pt_id)
{
	struct vfio_pci_core_device *vdev =
		container_of(core_vdev, struct vfio_pci_core_device, vdev);
	int ret;

	if (!vfio_pci_liveupdate_begin(vdev))
		return -EBUSY;

	ret = vfio_iommufd_physical_pasid_attach_ioas(core_vdev, pasid, pt_id);
	vfio_pci_liveupdate_end(vdev);
	return ret;
}

MODULE_IMPORT_NS("IOMMUFD");
