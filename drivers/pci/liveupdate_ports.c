// SPDX-License-Identifier: GPL-2.0
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What is put off until a device or bridge is ordinary: runtime suspend, turning stale
 * interrupts off, the services of a port, the driver of a hotplug controller. For bridges
 * a worker, pci_restart_bridges(), does all this.
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

/* Finish makes the users of all devices wait: let them go on before the worker runs. */
#define PCI_RESTART_DELAY	HZ

/**
 * pci_incoming_let_go - Turn stale interrupts off, and allow runtime suspend
 * @dev: device or bridge that has become ordinary
 *
 * Context: for a bridge that is registered, called by the worker with the lock of @dev
 * held; otherwise pci_liveupdate_mutex is held.
 */
void pci_incoming_let_go(struct pci_dev *dev)
{
	/* If the driver doesn't use MSI or MSI-X, the previous kernel left it enabled */
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

/* shpc_probe() refuses an incoming bridge, and portdrv one that isn't a port. */
static bool pci_lacks_hotplug_driver(struct pci_dev *dev)
{
	return !dev->driver &&
	       (!pci_is_pcie(dev) || pci_pcie_type(dev) == PCI_EXP_TYPE_PCI_BRIDGE);
}

/* Return false if the worker has to try @dev again. */
static bool pci_restart_bridge(struct pci_dev *dev)
{
	bool locked, held = READ_ONCE(dev->liveupdate.held);

	/* Nothing to do: don't try again while a reset or a removal locks the bridge */
	if (!held && !READ_ONCE(dev->liveupdate.services_deferred))
		return true;

	pm_runtime_get_sync(&dev->dev);
	/*
	 * pci_liveupdate_preserve() waits for this worker with &luo_session.mutex, and
	 * perhaps locks of the calling driver, held. The thread that holds the lock of
	 * @dev may wait for the removal of a device below @dev, and the driver of that
	 * device may wait for one of the locks of pci_liveupdate_preserve()'s caller. So
	 * don't wait for the lock of @dev here.
	 */
	locked = device_trylock(&dev->dev);
	if (locked) {
		if (system_state == SYSTEM_RUNNING &&
		    device_is_registered(&dev->dev) &&
		    !pci_liveupdate_is_incoming(dev))
			pci_restart_bridge_locked(dev);
		device_unlock(&dev->dev);
	}
	pm_runtime_put(&dev->dev);

	if (locked && held && pci_lacks_hotplug_driver(dev) && device_attach(&dev->dev) < 0)
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
 * pci_liveupdate_queue_restart - Queue the worker that restarts ordinary bridges
 *
 * Context: any.
 */
void pci_liveupdate_queue_restart(void)
{
	mod_delayed_work(system_freezable_wq, &pci_restart_work,
			 PCI_RESTART_DELAY);
}

/**
 * pci_liveupdate_flush_restart - Restart ordinary bridges at once
 *
 * Doesn't restart a bridge that somebody has locked: the worker tries again.
 *
 * Context: called by pci_liveupdate_preserve(). May sleep.
 */
void pci_liveupdate_flush_restart(void)
{
	flush_delayed_work(&pci_restart_work);
}

/**
 * pci_liveupdate_defer_services - Check whether a port's services must wait
 * @port: port that portdrv is being bound to
 *
 * If they must, the worker calls pcie_portdrv_start_services() soon after the last
 * incoming device below @port has become ordinary. Above outgoing devices services run, as
 * they did when these were preserved.
 *
 * Context: the lock of @port is held.
 * Return: true if the services must not be started now.
 */
bool pci_liveupdate_defer_services(struct pci_dev *port)
{
	bool defer = pci_liveupdate_is_incoming(port);

	WRITE_ONCE(port->liveupdate.services_deferred, defer);
	return defer;
}

/**
 * pci_liveupdate_restarts_services - Check whether a port gets its deferred services
 * @port: port that portdrv is bound to
 *
 * Context: any.
 * Return: true while the worker starts the port's services after a live update.
 */
bool pci_liveupdate_restarts_services(struct pci_dev *port)
{
	return READ_ONCE(port->liveupdate.starting);
}

/**
 * pci_liveupdate_starts_services - Check whether a port is in use before it has services
 * @port: port that portdrv is bound to
 *
 * Context: the lock of @port is held.
 * Return: true if the worker starts the port's services, or if a device below @port is
 * preserved: such devices rely on its bus mastering.
 */
bool pci_liveupdate_starts_services(struct pci_dev *port)
{
	return pci_liveupdate_restarts_services(port) || pci_liveupdate_is_preserved(port);
}
