#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Do the tests notice when the kernel breaks a promise? Each breakage is a line that is
# changed in a scratch tree; a scenario must find it wrong, and say so in these words. Without
# it, it must pass.
#
#	scripts/check-the-checks.sh [PATTERN]	only breakages with names like this
#
#   CORE=1	say for each whether make check notices it, and by which scenario
#   DRY=1	only check that each changes something

set -euo pipefail
. "$(dirname "$0")/lib.sh"

broken=$out/linux.broken
run=$top/tools/testing/selftests/pci_liveupdate/run.py
core=drivers/pci/liveupdate.c
ports=drivers/pci/liveupdate_ports.c
table=drivers/pci/liveupdate_table.c
debugfs=drivers/pci/liveupdate_debugfs.c
incoming=drivers/pci/liveupdate_incoming.c
outgoing=drivers/pci/liveupdate_outgoing.c
vfio=drivers/vfio/pci/vfio_pci_liveupdate.c
pattern=${1:-*}
n=0
failed=0
declare -A sound	# scenarios

# within FUNCTION COMMAND: sed's command, only for that function of this file
within()
{
	echo "/^[[:alpha:]].*\\b$1\\(/,/^}/{ $2 }"
}

build_and_run()	# SCENARIO LOG
{
	CONFIG=broken "$top/scripts/kernel.sh" >"$2" 2>&1 || die "the scratch tree doesn't build"
	"$run" --config broken "$1" >>"$2" 2>&1
}

# breakage NAME FILE SED SCENARIO WORDS: the scenario must fail, and have a line that matches
# these words
breakage()
{
	local name=$1 file=$2 log=$out/broken/${1// /-}.log result="not ok" changed

	# shellcheck disable=SC2254 # it is a pattern
	case $name in
	$pattern) ;;
	*) return ;;
	esac
	n=$((n + 1))
	if [ -n "${DRY:-}" ]; then
		changed=$(sed -E "$3" "$linux/$file") && [ "$changed" != "$(<"$linux/$file")" ] ||
			{ echo "$name: nothing to break in $file"; failed=1; }
		return
	fi
	if [ -n "${CORE:-}" ]; then
		sed -i -E "$3" "$broken/$file"
		if build_and_run --core "$log"; then
			echo "not noticed: $name"
		else
			echo "noticed: $name: $(sed -nE 's/^not ok [0-9]+ - ([a-z_0-9]+).*/\1/p' "$log" | paste -sd ' ')"
		fi
		cp "$linux/$file" "$broken/$file"
		return
	fi
	[ -n "${sound[$4]:-}" ] ||
		! "$run" --config demo "$4" >"$log" 2>&1 || sound[$4]=yes
	sed -i -E "$3" "$broken/$file"
	if cmp -s "$linux/$file" "$broken/$file"; then
		echo "# nothing to break in $file"
	elif [ -z "${sound[$4]:-}" ]; then
		echo "# $4 has failed without it"
	elif build_and_run "$4" "$log"; then
		echo "# $4 has passed"
	elif ! grep -E "^# wrong: .*($5)" "$log"; then
		grep '^# wrong: ' "$log" || tail -n 5 "$log" | sed 's/^/# /'
	else
		result=ok
	fi
	# With a new time, so that it is built anew
	cp "$linux/$file" "$broken/$file"
	[ "$result" = ok ] || failed=1
	echo "$result $n - $name: $4"
}

if [ -z "${DRY:-}" ]; then
	for config in demo plain; do
		CONFIG=$config "$top/scripts/kernel.sh"
	done
	mkdir -p "$out/broken"
	lock "$out/broken"
	rsync -rlpc --delete "$linux/" "$broken/"
	echo "KTAP version 1"
fi

breakage "outgoing devices are shut down" $outgoing \
	"$(within pci_outgoing_get 's/dev_set_goes_on\(.*/;/')" \
	root_port "gave up waiting for all of"
breakage "nothing is adopted" $incoming \
	"$(within pci_incoming_adopt 's/if \(!rec\)/if (true)/')" \
	root_port "No such device"
breakage "BARs are sized" $incoming \
	"$(within pci_liveupdate_bar_masks 's/pci_liveupdate_is_incoming\(dev\)/false/')" \
	root_port "BAR 0 .*-> 0xffff"
breakage "windows are probed" $incoming \
	"$(within pci_liveupdate_bridge_windows 's/pci_liveupdate_is_incoming\(bridge\)/false/')" \
	switch_one_nic "Prefetchable Base Upper 32 Bits .*-> 0xffffffff"
breakage "buses are renumbered" $core \
	"$(within pci_liveupdate_keep_bus_numbers 's/pci_liveupdate_under_way\(\)/false/')" \
	switch_two_nics_renumber "the guest ended while we waited for 'VMM: finished'"
breakage "MSI is turned off" $incoming \
	"$(within pci_liveupdate_adopt_msi 's/pci_liveupdate_is_incoming\(dev\)/false/')" \
	root_port "MSI.* Message Control .*->"
breakage "services stay away" $ports \
	"$(within pci_restart_bridge_locked 's/pcie_portdrv_start_services\(dev\);//')" \
	root_port "services of ports were not started again"
breakage "any driver binds" $incoming \
	"$(within pci_liveupdate_match_driver 's/if \(dev->liveupdate.record\)/if (false)/')" \
	kunit "not ok .* adopt_for_its_driver"
breakage "bridges stay pinned" $outgoing \
	"$(within pci_outgoing_put_path 's/dev = pci_upstream_bridge\(dev\)/dev = NULL/')" \
	slot_reused "retrieve device: No such device"
breakage "a removed device stays in the table" $outgoing \
	"$(within pci_outgoing_forget 's/kexec_in_progress/true/')" \
	edu_removed_preserved "kernel 2 has 0 lines with 'liveupdate: adopted 1 devices"
breakage "what isn't adopted goes on" $incoming \
	"$(within pci_liveupdate_setup_device 's/pci_liveupdate_quiesce\(dev, why\)/;/')" \
	table_device "0 lines with '0000:03:00.0: liveupdate: DMA stopped"
breakage "another card is adopted" $incoming \
	"$(within pci_incoming_adopt 's/rec->device != dev->device/false/')" \
	other_card "lines with"
breakage "a missing device is not reported" $debugfs \
	"$(within pci_incoming_report 's/if \(xa_get_mark.*\)/if (true)/; s/pr_warn\(/pr_debug(/')" \
	vanished "lines with"
breakage "no DMA is stopped" $incoming \
	"$(within pci_liveupdate_quiesce 's/pci_clear_master\(dev\);//')" \
	table_version "no change of the device|before it was stopped"
breakage "the table's head is not freed" $core \
	"$(within pci_flb_unpreserve 's/kho_unpreserve_free\(out->ser\);//')" \
	memory "KHO preserves"
breakage "the table's blocks are not freed" $table \
	"$(within pci_incoming_free 's/kho_block_set_destroy.*//')" \
	memory "isn't free in the end"
breakage "interrupts go into the kexec" $vfio \
	"$(within vfio_pci_mask_irqs 's/vfio_pci_mask_msix\(vdev, true\);//')" \
	interrupts "interrupts when armed again"
breakage "no interrupt is signalled once more" $vfio \
	"$(within vfio_pci_liveupdate_open 's/vdev->liveupdate.retrieved = true;//')" \
	interrupts "interrupts when armed again"
breakage "a line is asserted that nobody handles" $vfio \
	"$(within vfio_pci_mask_irqs 's/vfio_pci_mask_intx\(vdev\);//')" \
	shared "nobody cared"
breakage "memory goes before its device is stopped" kernel/liveupdate/luo_file.c \
	"$(within luo_file_finish 's/hold \|= !luo_file->fh;//')" \
	unhandled_unprotected "bytes had changed"
breakage "files stay frozen" $vfio \
	"$(within vfio_pci_unfreeze 's/WRITE_ONCE.*//')" \
	waiting "nobody has said that all was done"
breakage "virtual registers are lost" $vfio \
	"$(within vfio_pci_freeze_device 's/memcpy\(ser->data.*//')" \
	waiting "has interrupt line"
breakage "DMA goes on without translation" $vfio \
	"$(within vfio_pci_pause_dma 's/pci_clear_master\(pdev\);//')" \
	paused "gave up waiting for all of"
breakage "enumeration looks once more" drivers/pci/probe.c \
	"$(within pci_setup_device 's/pci_liveupdate_setup_device\(dev\);/& { u16 w; pci_read_config_word(dev, PCI_STATUS, \&w); }/')" \
	like_plain "without us"
breakage "a domain is attached before it is populated" drivers/iommu/iommufd/hw_pagetable.c \
	's/immediate_attach && !ops->domain_alloc_paging_flags/immediate_attach/' \
	paused "it was attached before its pages were mapped"
breakage "a domain is replaced with a gap" drivers/iommu/intel/iommu.c \
	"$(within domain_can_replace 's/!info->domain \|\|/true ||/')" \
	replace "it had no entry"
breakage "a second stage is replaced with a gap" drivers/iommu/intel/iommu.c \
	"$(within domain_can_replace 's/return intel_domain_is_ss_paging\(info->domain\)/return false/')" \
	replace_second_stage "fault addr"
breakage "an IOMMU is turned off" drivers/iommu/intel/iommu.c \
	"$(within intel_iommu_shutdown 's/!intel_liveupdate_hand_over\(iommu\)/true/')" \
	root_port_iommu "gave up waiting for all of"
breakage "tables are switched when a device is attached" drivers/iommu/intel/iommu.c \
	"$(within domain_context_mapping_cb 's/intel_liveupdate_waits\(iommu, alias\)/false/')" \
	map_late "fault addr|packets were lost|it had nothing"
breakage "a neighbour turns translation off" drivers/iommu/intel/iommu.c \
	"$(within context_setup_pass_through 's/intel_liveupdate_waits\(.*\)\)/false)/')" \
	waiting_pass_through "the entry was"
breakage "DMA resumes before the address space is complete" $vfio \
	"$(within vfio_pci_attach_ioas 's/vdev->liveupdate.finished/vdev->liveupdate.ser/')" \
	map_late_paused "fault addr"
breakage "page tables go at the last finish" $core \
	"$(within pci_liveupdate_defer_finish 's/iommu_liveupdate_get_incoming\(\);//')" \
	handed_over "fault addr|packets were lost|gave up waiting"
breakage "ports above a device don't wait for it" $incoming \
	"$(within pci_incoming_release_all 's/pci_incoming_get_bridges\(dev\);/;/')" \
	handed_over "pcie-root-port: "
breakage "a kexec waits for a removal" $outgoing \
	"$(within pci_cannot_leave 's/pci_is_locked\(dev\)/false/')" \
	pending "."
breakage "a device is lost with the next live update" $outgoing \
	"$(within pci_cannot_leave 's/dev->liveupdate.incoming/false/')" \
	left "live update refused: its last"
breakage "DMA goes on without anybody's memory" $vfio \
	"$(within vfio_pci_pause_unattached 's/pci_clear_master\(pdev\);//')" \
	handed_over_unprotected "didn't pause"
breakage "a device goes on when its user is gone" $vfio \
	"$(within vfio_pci_release 's/pci_liveupdate_abandon\(.*\);//')" \
	late "may do DMA"
breakage "a device goes on that nobody has retrieved" $vfio \
	"$(within vfio_pci_give_up 's/if \(pdev\)/if (false)/')" \
	late "may do DMA"
breakage "tables are never switched" drivers/iommu/intel/liveupdate.c \
	"$(within intel_end_entry 's/domain_context_replace_cb\(.*\);/;/')" \
	root_port_iommu "it had another page|it had no entry|it had nothing|packets were lost|gave up waiting|fault addr"
breakage "a PASID table is set when a device is attached" drivers/iommu/intel/pasid.c \
	"$(within device_pasid_table_setup 's/intel_liveupdate_waits\(.*\)\)/false)/')" \
	map_late_second_stage "fault addr|packets were lost|gave up waiting"
breakage "a PASID table is never switched" drivers/iommu/intel/liveupdate.c \
	"$(within intel_end_entry 's/intel_pasid_replace_sm_context\(.*\);/;/')" \
	map_late_second_stage "it had another page|it had no entry|it had nothing|packets were lost|gave up waiting|fault addr"
breakage "an identity domain leaves old tables" drivers/iommu/intel/iommu.c \
	"$(within identity_domain_attach_dev 's/!ret && context_copied\(.*\)\)/false)/')" \
	quarantined_second_stage "the entry was"
breakage "an abandoned device is left blocked" drivers/iommu/intel/liveupdate.c \
	"$(within intel_end_entry 's/else if \(info->domain_attached\)/else if (false)/')" \
	abandoned_pass_through "the entry was"
breakage "any stage is trusted" drivers/iommu/intel/liveupdate.c \
	"$(within intel_flags_ok 's/ecap_flts\(iommu->ecap\)/true/')" \
	not_adopted_stage "lines with"
breakage "a shared requester ID is switched too early" drivers/iommu/intel/liveupdate.c \
	"$(within intel_next_user 's/pci_for_each_dma_alias\(.*rid\)/pci_dev_id(pdev) == rid/')" \
	map_late_bridge "packets were lost|fault addr|gave up waiting"
breakage "another root table is trusted" drivers/iommu/intel/liveupdate.c \
	"$(within intel_rid_check 's/!= rec->intel.root/== 1/')" \
	not_adopted_root "0 lines with 'DMAR: liveupdate"
breakage "page tables are not freed" drivers/iommu/liveupdate_incoming.c \
	"$(within iommu_free_page 's/folio_put\(.*\);/;/')" \
	memory_iommu "isn't free in the end"
breakage "memory is freed while a device writes to it" drivers/iommu/liveupdate_memory.c \
	"$(within iommu_hold_leaf 's/walk->held->nr_leaves\+\+/kho_put_preserved(paddr, size)/')" \
	reused "bytes had changed"
breakage "memory is held for ever" drivers/iommu/liveupdate_memory.c \
	"$(within iommu_held_put 's/--held->nr_rids/true/')" \
	reused "isn't free in the end"
breakage "damaged page tables stop all devices" drivers/iommu/intel/liveupdate.c \
	"$(within intel_kept_add 's/^(.*"what it reaches.*)$/\1 return -EINVAL;/')" \
	not_held "didn't pause|lines with|packets were lost"
breakage "a device may write to page tables" drivers/iommu/liveupdate_memory.c \
	"$(within iommu_hold_leaf 's/iommu_incoming_has_page\(paddr, size\)/false/')" \
	kunit_iommu "hold_damaged"
breakage "a device may reach any memory" drivers/iommu/liveupdate.c \
	"$(within iommu_check_leaf 's/kho_is_preserved\(paddr, size\)/true/')" \
	fixed "preserve"
breakage "memory is checked once" drivers/iommu/liveupdate.c \
	"$(within iommu_outgoing_walk 's/if \(!err\)/if (true)/')" \
	fixed "3 lines with 'liveupdate: its address space"
breakage "an address space that is handed over changes" drivers/iommu/iommufd/io_pagetable.c \
	's/if \(iopt->nr_preserved\)/if (false)/' \
	fixed "map"
breakage "the command line of the next kernel doesn't count" kernel/liveupdate/luo_image.c \
	's/if \(!params.kho \|\| !params.liveupdate\)/if (false)/' \
	images "hasn't 'liveupdate=on'"
breakage "an older kernel gets the newest table" $outgoing \
	"$(within pci_record_version 's/version >= 102 &&//')" \
	older "retrieve device"
breakage "nobody is told of interrupts between the kernels" drivers/vfio/pci/vfio_pci_intrs.c \
	's/^\tvfio_pci_liveupdate_armed\(.*$/\t(void)vector;/' \
	woken "raises no"
breakage "INTx rises before it is handled" drivers/vfio/pci/vfio_pci_intrs.c \
	"$(within vfio_intx_enable 's/pci_intx\(pdev, 0\)/pci_intx(pdev, !ctx->masked)/')" \
	woken "raises no INTx"
breakage "a device that is given up keeps its INTx" $incoming \
	"$(within pci_liveupdate_quiesce 's/pci_intx\(dev, 0\);/;/')" \
	kunit "not ok .* quarantine"
breakage "MSI is masked when the next one comes" $vfio \
	"$(within vfio_pci_mask_msi 's/(msi_mask \|).*/\1 0);/; s/vfio_pci_disable_vectors\(.*/;/')" \
	interrupts "interrupts when armed again"
breakage "INTx that can't be disabled does no harm" $vfio \
	"$(within vfio_pci_can_mask_irqs 's/return .*/return true ||/')" \
	no_intx_mask "lines with"
breakage "what is no isolated device any more is preserved" $outgoing \
	"$(within pci_has_lost_isolation 's/!pci_acs_path_enabled/false \&\& &/')" \
	refused "without-ACS|lines with"
breakage "preserve doesn't wait" $outgoing \
	's/(PCI_RESCAN_TRIES\s)100/\11/' \
	kunit "not ok .* preserve_after_rescan"
breakage "memory of an unknown device is freed" $vfio \
	"$(within vfio_pci_can_finish 's/args->hold = .*/args->hold = false;/')" \
	unread_address "bytes had changed"
breakage "a device sleeps at the kexec" $vfio \
	"$(within vfio_pci_wake 's/return vfio_pci_set_power_state.*/return 0;/')" \
	asleep "power states"
breakage "driver_override decides" $incoming \
	"$(within pci_liveupdate_match_driver 's/dev->liveupdate.record\)/false)/')" \
	waiting "to be bound"
breakage "a hotplug controller behind PCI Express has no driver" $ports \
	"$(within pci_lacks_hotplug_driver 's/pci_pcie_type\(dev\) == PCI_EXP_TYPE_PCI_BRIDGE/false/')" \
	shpc "HPC vendor_id"
breakage "a neighbour takes the IOMMU group" $incoming \
	"$(within pci_liveupdate_check_group 's/return found \?/return false ?/')" \
	sibling "has a driver"
breakage "a neighbour turns PTM off" drivers/pci/pcie/ptm.c \
	"$(within __pci_disable_ptm 's/\|\| \(pci_is_bridge.*/)/')" \
	kunit "not ok .* keep_ptm_on"
breakage "a neighbour turns PTM off after finish" $incoming \
	"$(within pci_incoming_adopt_ptm 's/atomic_inc\(.*/;/')" \
	kunit "not ok .* keep_ptm_on"
breakage "a neighbour turns PTM on" drivers/pci/pcie/ptm.c \
	"$(within __pci_enable_ptm 's/pci_liveupdate_is_preserved\(dev\)/false/')" \
	kunit "not ok .* keep_ptm_off"
breakage "a link in use is set up" drivers/pci/pcie/aspm.c \
	"$(within pcie_aspm_cap_init 's/pci_liveupdate_is_preserved\(parent\)/false/')" \
	kunit "not ok .* adopt_link"
breakage "a BAR is resized" drivers/pci/setup-bus.c \
	"$(within pci_do_resource_release_and_resize 's/pci_liveupdate_is_preserved\(pdev\)/false/')" \
	kunit "not ok .* refuse_resize"
breakage "a bridge that is being added keeps MSI on" $incoming \
	"$(within pci_is_incoming_bridge 's/ \&\& dev->liveupdate.held//')" \
	kunit "not ok .* finish_while_added"
breakage "Interrupt Line is written" drivers/pci/irq.c \
	"$(within pci_assign_irq 's/pci_liveupdate_is_preserved\(dev\)/false/')" \
	kunit "not ok .* keep_interrupt_line"
breakage "a device that isn't bound after all stays preserved" $core \
	'/^\tcase BUS_NOTIFY_DRIVER_NOT_BOUND:/d' \
	kunit "not ok .* unbind_outgoing"
breakage "an unbound device stays preserved" $core \
	's/^\t\tpci_outgoing_unbind\(dev\);//' \
	kunit "not ok .* unbind_outgoing"
breakage "a contained port stays so" drivers/pci/pcie/dpc.c \
	's/irq_wake_thread.*/;/' \
	kunit "not ok .* release_contained_port"

[ -n "${DRY:-}" ] || echo "1..$n"
exit $failed
