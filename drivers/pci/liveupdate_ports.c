// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What was put off while a device was incoming, or a bridge above it: runtime PM, turning
 * stale interrupts off, the services of a port, the driver of a hotplug controller. For
 * bridges a worker makes up for it.
 */

#define dev_fmt(fmt) "liveupdate: " fmt

#include <kunit/visibility.h>
#include <linux/device.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>
#include <linux/workqueue.h>

#include "liveupdate.h"
#include "liveupdate_internal.h"
#include "pci.h"
#include "pcie/portdrv.h"

/* At finish the users of all devices wait to go on: let them go first. */
#define PCI_RESTART_DELAY	HZ

/**
 * pci_incoming_let_go - Do what was put off: turn stale interrupts off, allow to sleep
 * @dev: device or bridge that has become ordinary
 *
 * Context: of a device under pci_liveupdate_mutex, of a bridge, by the worker, under
 * its device lock.
 */
void pci_incoming_let_go(struct pci_dev *dev)
{
	/* They are the previous kernel's if the driver doesn't use them */
	if (dev->liveupdate.msi_adopted && !dev->msi_enabled)
		pci_msi_init(dev);
	if (dev->liveupdate.msi_adopted && !dev->msix_enabled)
		pci_msix_init(dev);

	if (!dev->liveupdate.held)
		return;

	WRITE_ONCE(dev->liveupdate.held, false);
	pm_runtime_put(&dev->dev);
}

static void pci_restart_bridge_locked(struct pci_dev *dev)
{
	if (dev->liveupdate.services_deferred) {
		WRITE_ONCE(dev->liveupdate.services_deferred, false);
		dev->liveupdate.starting = true;
		pcie_portdrv_start_services(dev);
		dev->liveupdate.starting = false;
	}

	pci_incoming_let_go(dev);
}

/* Returns false if it has to be tried again. */
static bool pci_restart_bridge(struct pci_dev *dev)
{
	bool locked, held = READ_ONCE(dev->liveupdate.held);

	/* Nothing to do: don't wait for a reset or a removal of the bridge */
	if (!held && !READ_ONCE(dev->liveupdate.services_deferred))
		return true;

	pm_runtime_get_sync(&dev->dev);
	/*
	 * pci_liveupdate_preserve() waits for this worker, with &luo_session.mutex and
	 * perhaps locks of its driver held. Whoever holds the device lock of @dev may
	 * wait for the removal of a device below, which waits for that device's
	 * driver, which waits for one of these locks. So don't wait for the device
	 * lock.
	 */
	locked = device_trylock(&dev->dev);
	if (locked) {
		if (system_state == SYSTEM_RUNNING &&
		    device_is_registered(&dev->dev) &&
		    !pci_liveupdate_is_preserved(dev))
			pci_restart_bridge_locked(dev);
		device_unlock(&dev->dev);
	}
	pm_runtime_put(&dev->dev);

	/* The driver of a hotplug controller that wasn't bound before */
	if (locked && held && !dev->driver && !pci_is_pcie(dev) &&
	    device_attach(&dev->dev) < 0)
		pci_warn(dev, "no driver could be bound after the live update; bind one by hand\n");

	return locked;
}

VISIBLE_IF_KUNIT void pci_restart_bridges(struct work_struct *work)
{
	struct pci_dev *dev = NULL;
	bool again = false;

	for_each_pci_dev(dev) {
		if (!pci_is_endpoint(dev) && !pci_restart_bridge(dev))
			again = true;
	}

	if (again)
		queue_delayed_work(system_freezable_wq, to_delayed_work(work),
				   PCI_RESTART_DELAY);
}

VISIBLE_IF_KUNIT DECLARE_DELAYED_WORK(pci_restart_work, pci_restart_bridges);

/**
 * pci_liveupdate_queue_restart - Have bridges that have become ordinary restarted soon
 *
 * Context: any.
 */
void pci_liveupdate_queue_restart(void)
{
	mod_delayed_work(system_freezable_wq, &pci_restart_work,
			 PCI_RESTART_DELAY);
}

/**
 * pci_liveupdate_flush_restart - Wait until no bridge is being restarted
 *
 * The worker tests pci_liveupdate_is_preserved() without pci_liveupdate_mutex, and then
 * starts services. If it has tested a bridge before that bridge was preserved, it has ended
 * when this returns. If it tests the bridge later, it finds it preserved and leaves it
 * alone.
 *
 * Context: called by pci_liveupdate_preserve(). May sleep.
 */
void pci_liveupdate_flush_restart(void)
{
	flush_work(&pci_restart_work.work);
}

/**
 * pci_liveupdate_defer_services - Ask whether a port's services have to wait
 * @port: port that portdrv is being bound to
 *
 * If so, pcie_portdrv_start_services() is called soon after no device below the
 * port is preserved any more.
 *
 * Context: the lock of @port is held.
 * Return: true if the services must not be started now.
 */
bool pci_liveupdate_defer_services(struct pci_dev *port)
{
	bool defer = pci_liveupdate_is_preserved(port);

	WRITE_ONCE(port->liveupdate.services_deferred, defer);
	return defer;
}

/**
 * pci_liveupdate_starts_services - Ask whether services of a port are restarted
 * @port: port that portdrv is bound to
 *
 * Context: the lock of @port is held.
 * Return: true if devices below @port rely on its bus mastering already.
 */
bool pci_liveupdate_starts_services(struct pci_dev *port)
{
	return port->liveupdate.starting;
}
