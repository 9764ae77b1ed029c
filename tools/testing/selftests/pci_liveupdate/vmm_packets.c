// SPDX-License-Identifier: GPL-2.0
/*
 * Numbered packets that the host sends, up to one that says it is the last.
 */
#include <endian.h>

#include "guest.h"
#include "vmm.h"

#define ETHERTYPE	0x88b5		/* for local experiments */

bool packets_are_complete(struct nic *nic)
{
	__u32 n = nr_received(nic);
	struct packet *packet = n ? nic->driver->packet(nic, n - 1) : NULL;

	return packet && packet->last;
}

static bool is_intact(const struct packet *packet)
{
	if (!packet || packet->type != htobe16(ETHERTYPE))
		return false;
	for (__u32 i = 0; i < sizeof(packet->pattern); i++)
		if (packet->pattern[i] != (__u8)(packet->number + i))
			return false;
	return true;
}

void packets_report(struct nic *nic)
{
	__u32 received = nr_received(nic);
	__u32 expected = 0, missing = 0, disordered = 0, damaged = 0;

	for (__u32 i = 0; i < received; i++) {
		struct packet *packet = nic->driver->packet(nic, i);

		if (!is_intact(packet)) {
			damaged++;
		} else if (packet->number < expected) {
			disordered++;
		} else {
			missing += packet->number - expected;
			expected = packet->number + 1;
		}
	}
	say("packets bdf=%s received=%u missing=%u disordered=%u damaged=%u",
	    nic->bdf, received, missing, disordered, damaged);
}
