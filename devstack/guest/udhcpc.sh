#!/bin/busybox sh
# What udhcpc calls with the lease it got.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -n "$mtu" ] && ip link set "$interface" mtu "$mtu"
for gateway in $router; do ip route add default via "$gateway" dev "$interface" && break; done
echo "MHV: dhcp $interface $ip"
