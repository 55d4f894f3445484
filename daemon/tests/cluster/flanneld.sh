#!/bin/sh
# Does on a node what flanneld does, one thing after the other and in its order: the device, the
# lease, the rules in iptables, the subnet file, and then every peer's entries as leases come and
# go. It ends when it is told to, and leaves everything.
#
# flanneld BACKEND ADDRESS SUBNET_FILE OWN_SUBNET STORE     BACKEND: vxlan or host-gw
#   OWN_SUBNET: which to lease if there is neither a lease nor a subnet file, as 10.244.7.0
#   STORE: an address of etcd, a directory, or kube= and the address of an API server, which has
#   given the node NODE_NAME its subnet
backend=$1 address=$2 file=$3 wish=$4 store=$5
network=10.244.0.0/16 device=flannel.1 prefix=/coreos.com/network
export ETCDCTL_API=3
# What a shell has begun it ends first: so nothing is done when it is gone.
trap exit TERM

nodes=${store#kube=}/api/v1/nodes

# A watch would hold what it knows while the server is slow to answer.
api() { curl -sSf --retry 9 --retry-connrefused "$@"; }

# Nodes whose annotations say that a flanneld serves them.
managed() {
    api "$nodes" | jq -r '.items[] | .spec.podCIDR as $subnet | .metadata.annotations // {} |
        with_entries(.key |= ltrimstr("flannel.alpha.coreos.com/")) |
        select(.["kube-subnet-manager"] == "true") |
        {PublicIP: .["public-ip"], PublicIPv6: null, BackendType: .["backend-type"],
            BackendData: .["backend-data"] | fromjson} |
        "subnets/" + ($subnet | sub("/"; "-")) + "\t" + tojson'
}

annotate() {
    jq '{metadata: {annotations: ({"backend-type": .BackendType,
        "backend-data": .BackendData | tojson, "kube-subnet-manager": "true",
        "public-ip": .PublicIP} | with_entries(.key |= "flannel.alpha.coreos.com/" + .))}}' |
        patch_status
}

available() {
    jq -n '{status: {conditions: [{type: "NetworkUnavailable", status: "False",
        reason: "FlannelIsUp", message: "Flannel is running on this node",
        lastHeartbeatTime: (now | todate), lastTransitionTime: (now | todate)}]}}' | patch_status
}

patch_status() {
    api -o /dev/null -X PATCH -H 'Content-Type: application/strategic-merge-patch+json' \
        --data-binary @- "$nodes/$NODE_NAME/status"
}

# A line for each lease: subnet (as 10.244.7.0), and its value.
leases() {
    case $store in
    kube=*) managed ;;
    http*) etcdctl --endpoints "$store" get --prefix "$prefix/subnets/" | paste - - ;;
    *) for key in "$store"/subnets/*; do
        printf '%s\t%s\n' "$key" "$(grep -v '^#' "$key")"
    done ;;
    esac | sed -n 's|^.*subnets/\([0-9.]*\)-24\t|\1 |p'
}

publish() {
    case $store in
    kube=*) printf '%s' "$1" | annotate ;;
    http*)
        lease=$(etcdctl --endpoints "$store" lease grant 86400 | cut -d' ' -f2)
        etcdctl --endpoints "$store" put --lease="$lease" "$prefix/subnets/$own-24" -- "$1" >/dev/null
        ;;
    *)
        printf '%s\n' "$1" >"$store/by-flanneld"
        mv "$store/by-flanneld" "$store/subnets/$own-24"
        ;;
    esac
}

# A device that differs in what cannot be changed is made anew; another MTU or MAC is not noticed.
ensure_device() {
    is="$(ip -d -o link show $device 2>/dev/null)"
    case $is in
    *"vxlan id 1 local $address dev eth0 "*"dstport 8472 "*) ;;
    *)
        ip link del $device 2>/dev/null
        ip link add $device mtu 1450 type vxlan id 1 local "$address" dev eth0 dstport 8472 nolearning
        echo 0 >/proc/sys/net/ipv6/conf/$device/accept_ra
        ;;
    esac
    ip link set $device up
}

address_device() {
    ip -o -4 addr show dev $device | grep -o 'inet 10\.244\.[0-9./]*' | cut -d' ' -f2 |
        while read -r held; do
            [ "$held" = "$own/32" ] || ip addr del "$held" dev $device
        done
    ip addr add "$own/32" dev $device 2>/dev/null
}

# What it keeps where it is told to use nftables.
clean() {
    for table in "ip flannel-ipv4" "ip6 flannel-ipv6"; do
        nft delete table $table 2>/dev/null
    done
}

# Its chains are emptied and filled again; the jumps to them are appended if they are missing.
rules() {
    masq="-A FLANNEL-POSTRTG -m comment --comment \"flanneld masq\""
    forward="-A FLANNEL-FWD -m comment --comment \"flanneld forward\""
    iptables-nft-restore --noflush <<EOF
*nat
:FLANNEL-POSTRTG - [0:0]
$masq -m mark --mark 0x4000/0x4000 -j RETURN
$masq -s $own/24 -d $network -j RETURN
$masq -s $network -d $own/24 -j RETURN
$masq ! -s $network -d $own/24 -j RETURN
$masq -s $network ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
$masq ! -s $network -d $network -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
$forward -s $network -j ACCEPT
$forward -d $network -j ACCEPT
COMMIT
EOF
    append nat POSTROUTING "flanneld masq" FLANNEL-POSTRTG
    append filter FORWARD "flanneld forward" FLANNEL-FWD
}

stands() { iptables-nft -t "$1" -C "$2" -m comment --comment "$3" -j "$4" 2>/dev/null; }

append() {
    stands "$@" || iptables-nft -t "$1" -A "$2" -m comment --comment "$3" -j "$4"
}

serve() {
    mtu=1450
    [ "$backend" = host-gw ] && mtu=1500
    printf 'FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s/24\nFLANNEL_MTU=%s\nFLANNEL_IPMASQ=true\n' \
        $network "${own%.0}.1" $mtu >"$file.flanneld"
    mv "$file.flanneld" "$file"
}

# add or del, subnet, value
peer() {
    to=$(echo "$3" | sed 's/.*"PublicIP":"\([0-9.]*\)".*/\1/')
    mac=$(echo "$3" | sed -n 's/.*"VtepMAC":"\([0-9a-f:]*\)".*/\1/p')
    case $1-$backend in
    add-vxlan)
        ip neigh replace "$2" lladdr "$mac" dev $device nud permanent
        bridge fdb replace "$mac" dev $device dst "$to" self permanent
        ip route replace "$2/24" via "$2" dev $device onlink
        ;;
    del-vxlan)
        ip neigh del "$2" dev $device
        bridge fdb del "$mac" dev $device dst "$to" self
        ip route del "$2/24" via "$2" dev $device
        ;;
    add-*) ip route replace "$2/24" via "$to" dev eth0 ;;
    del-*) ip route del "$2/24" via "$to" dev eth0 ;;
    esac
}

[ "$backend" = vxlan ] && ensure_device
case $store in
kube=*) own=$(api "$nodes/$NODE_NAME" | jq -r '.spec.podCIDR | rtrimstr("/24")') ;;
*) own=$(leases | grep "\"PublicIP\":\"$address\"" | cut -d' ' -f1) ;;
esac
[ -n "$own" ] || own=$(sed -n 's|FLANNEL_SUBNET=\(.*\)\.1/24|\1.0|p' "$file" 2>/dev/null)
[ -n "$own" ] || own=$wish
value="{\"PublicIP\":\"$address\",\"PublicIPv6\":null,\"BackendType\":\"$backend\""
[ "$backend" = vxlan ] &&
    value="$value,\"BackendData\":{\"VNI\":1,\"VtepMAC\":\"$(ip -o link show $device |
        sed 's/.*ether \([0-9a-f:]*\).*/\1/')\"}"
publish "$value}"
[ "$backend" = vxlan ] && address_device
clean
rules
serve
case $store in kube=*) available ;; esac

known= passes=0
while :; do
    # Every 5 seconds or so.
    passes=$(((passes + 1) % 20))
    [ $passes != 0 ] || stands nat POSTROUTING "flanneld masq" FLANNEL-POSTRTG || rules
    now=$(leases | grep -v "^$own ")
    echo "$known" | while read -r subnet value; do
        [ -z "$subnet" ] || echo "$now" | grep -q "^$subnet " || peer del "$subnet" "$value"
    done
    echo "$now" | while read -r subnet value; do
        [ -z "$subnet" ] || echo "$known" | grep -qxF "$subnet $value" || peer add "$subnet" "$value"
    done
    known=$now
    sleep 0.2
done
