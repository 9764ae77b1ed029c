/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Copyright (c) 2026, the PCI Live Update authors
 *
 * What the PCI core calls so that it leaves preserved devices alone.
 */

#ifndef DRIVERS_PCI_LIVEUPDATE_H
#define DRIVERS_PCI_LIVEUPDATE_H

#include <linux/device.h>
#include <linux/pci.h>

#ifdef CONFIG_PCI_LIVEUPDATE

void pci_liveupdate_setup_device(struct pci_dev *dev);
int pci_liveupdate_match_driver(struct pci_dev *dev, const struct device_driver *drv);
int pci_liveupdate_check_group(struct pci_dev *dev);
bool pci_liveupdate_bar_masks(struct pci_dev *dev, int count, unsigned int pos,
			      u32 *masks, bool rom);
bool pci_liveupdate_bridge_windows(struct pci_dev *bridge);
void pci_liveupdate_claim_resources(struct pci_bus *bus);
int pci_liveupdate_max_vf_buses(struct pci_dev *dev);
bool pci_liveupdate_can_init_sriov(struct pci_dev *dev);
bool pci_liveupdate_adopt_msi(struct pci_dev *dev);
bool pci_liveupdate_keep_acs(struct pci_dev *dev);
bool pci_liveupdate_keep_bus_numbers(void);
bool pci_liveupdate_can_scan(struct pci_dev *bridge, u32 buses, int *max, int pass);
bool pci_liveupdate_defer_services(struct pci_dev *port);
bool pci_liveupdate_restarts_services(struct pci_dev *port);
bool pci_liveupdate_starts_services(struct pci_dev *port);
bool pci_liveupdate_keep_resource(struct pci_dev *dev, struct resource *res);
bool pci_liveupdate_keep_master(struct pci_dev *dev);
bool pci_liveupdate_is_preserved(struct pci_dev *dev);

/* Renumbering the buses would cut off the devices that a live update keeps running. */
static inline bool pci_liveupdate_assign_all_busses(void)
{
	return pcibios_assign_all_busses() && !pci_liveupdate_keep_bus_numbers();
}

#else /* CONFIG_PCI_LIVEUPDATE */

static inline void pci_liveupdate_setup_device(struct pci_dev *dev)
{
}

static inline int pci_liveupdate_match_driver(struct pci_dev *dev,
					      const struct device_driver *drv)
{
	return device_match_driver_override(&dev->dev, drv);
}

static inline int pci_liveupdate_check_group(struct pci_dev *dev)
{
	return 0;
}

static inline bool pci_liveupdate_bar_masks(struct pci_dev *dev, int count,
					    unsigned int pos, u32 *masks, bool rom)
{
	return false;
}

static inline bool pci_liveupdate_bridge_windows(struct pci_dev *bridge)
{
	return false;
}

static inline void pci_liveupdate_claim_resources(struct pci_bus *bus)
{
}

static inline int pci_liveupdate_max_vf_buses(struct pci_dev *dev)
{
	return 0;
}

static inline bool pci_liveupdate_can_init_sriov(struct pci_dev *dev)
{
	return true;
}

static inline bool pci_liveupdate_adopt_msi(struct pci_dev *dev)
{
	return false;
}

static inline bool pci_liveupdate_keep_acs(struct pci_dev *dev)
{
	return false;
}

static inline bool pci_liveupdate_keep_bus_numbers(void)
{
	return false;
}

static inline bool pci_liveupdate_can_scan(struct pci_dev *bridge, u32 buses,
					   int *max, int pass)
{
	return true;
}

static inline bool pci_liveupdate_defer_services(struct pci_dev *port)
{
	return false;
}

static inline bool pci_liveupdate_restarts_services(struct pci_dev *port)
{
	return false;
}

static inline bool pci_liveupdate_starts_services(struct pci_dev *port)
{
	return false;
}

static inline bool pci_liveupdate_keep_resource(struct pci_dev *dev,
						struct resource *res)
{
	return false;
}

static inline bool pci_liveupdate_keep_master(struct pci_dev *dev)
{
	return false;
}

/* Macros, as gcc 14 orders the caller's code differently for inline functions */
#define pci_liveupdate_is_preserved(dev)	((void)(dev), false)
#define pci_liveupdate_assign_all_busses()	pcibios_assign_all_busses()

#endif /* CONFIG_PCI_LIVEUPDATE */

#endif /* DRIVERS_PCI_LIVEUPDATE_H */
