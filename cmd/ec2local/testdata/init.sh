#!/bin/bash
# The init of the test's machines: tells on the console what a machine and a pod behind it see of the metadata service.
imds=http://169.254.169.254/latest
ttl="X-aws-ec2-metadata-token-ttl-seconds: 60"

token=$(curl -sS -m 5 -X PUT -H "$ttl" $imds/api/token)
get() { curl -sS -m 5 -H "X-aws-ec2-metadata-token: $token" "$imds/$1"; }

echo "user-data=$(get user-data)"
echo "instance-id=$(get meta-data/instance-id)"
mac=$(get meta-data/mac)
pod=$(get "meta-data/network/interfaces/macs/$mac/local-ipv4s" | tail -n 1)

# A pod with the second address, one hop further away.
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv4/conf/eth0/proxy_arp
ip link add up0 type veth peer name pod0
unshare --net sleep infinity &
sleep 0.3
ip link set pod0 netns $!
ip addr add 169.254.1.1/32 dev up0
ip link set up0 up
ip route add "$pod/32" dev up0
in_pod() { nsenter --target $! --net "$@"; }
in_pod ip addr add "$pod/32" dev pod0
in_pod ip link set pod0 up
in_pod ip route add default via 169.254.1.1 dev pod0 onlink
in_pod curl -sS -m 2 -o /dev/null -w "pod's GET: %{http_code}\n" $imds/meta-data/
in_pod curl -s -m 2 -o /dev/null -X PUT -H "$ttl" $imds/api/token && echo "pod's token: yes" || echo "pod's token: no"
echo done

trap 'exit 0' RTMIN+4 PWR TERM
while :; do sleep 0.1; done
