#!/bin/sh
# Does on a node what flanneld does, one thing after the other and in its order: the devices, the
# lease, the rules, the subnet file, and then every peer's entries as leases come and go. It ends
# when it is told to, and leaves everything.
#
# flanneld BACKEND ADDRESS SUBNET_FILE OWN_SUBNET STORE     BACKEND: vxlan or host-gw
#   OWN_SUBNET: which to lease if there is neither a lease nor a subnet file, as 10.244.7.0
#   STORE: an address of etcd, a directory, or kube= and the address of an API server, which has
#   given the node NODE_NAME its subnets
# With ADDRESS6 and OWN_SUBNET6 (as fd05:0:0:7::) in its environment it does all of it in both
# families; with NFTABLES=true its rules are in nftables, otherwise in iptables.
backend=$1 address=$2 file=$3 wish=$4 store=$5
network=10.244.0.0/16 network6=fd05::/48 prefix=/coreos.com/network
address6=${ADDRESS6-} wish6=${OWN_SUBNET6-} nftables=${NFTABLES-}
device=flannel.1 device6=flannel-v6.1
export ETCDCTL_API=3
# What a shell has begun it ends first: so nothing is done when it is gone.
trap exit TERM

nodes=${store#kube=}/api/v1/nodes

# A watch would hold what it knows while the server is slow to answer.
api() { curl -sSf --retry 9 --retry-connrefused "$@"; }

# Nodes whose annotations say that a flanneld serves them.
managed() {
    api "$nodes" | jq -r '.items[] | (.spec.podCIDRs // [.spec.podCIDR]) as $subnets |
        .metadata.annotations // {} |
        with_entries(.key |= ltrimstr("flannel.alpha.coreos.com/")) |
        select(.["kube-subnet-manager"] == "true") |
        {PublicIP: .["public-ip"], PublicIPv6: .["public-ipv6"], BackendType: .["backend-type"],
            BackendData: (.["backend-data"] // "null" | fromjson),
            BackendV6Data: (.["backend-v6-data"] // "null" | fromjson)} |
        "subnets/" + ($subnets | map(sub("/"; "-")) | join("&")) + "\t" + tojson'
}

annotate() {
    jq '{"backend-type": .BackendType, "backend-data": .BackendData | tojson,
        "kube-subnet-manager": "true", "public-ip": .PublicIP} +
        if .PublicIPv6 == null then {} else
            {"backend-v6-data": .BackendV6Data | tojson, "public-ipv6": .PublicIPv6} end |
        with_entries(.key |= "flannel.alpha.coreos.com/" + .) |
        {metadata: {annotations: .}}' | patch_status
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

# A line for each lease: its subnets (as 10.244.7.0,fd05:0:0:7:: or 10.244.7.0,), and its value.
leases() {
    case $store in
    kube=*) managed ;;
    http*) etcdctl --endpoints "$store" get --prefix "$prefix/subnets/" | paste - - ;;
    *) for key in "$store"/subnets/*; do
        printf '%s\t%s\n' "$key" "$(grep -v '^#' "$key")"
    done ;;
    esac | sed -n 's|^.*subnets/\([0-9.]*\)-24\(&\([0-9a-f:]*\)-64\)\{0,1\}\t|\1,\3 |p'
}

publish() {
    key="$own-24${own6:+&$own6-64}"
    case $store in
    kube=*) printf '%s' "$1" | annotate ;;
    http*)
        lease=$(etcdctl --endpoints "$store" lease grant 86400 | cut -d' ' -f2)
        etcdctl --endpoints "$store" put --lease="$lease" "$prefix/subnets/$key" -- "$1" >/dev/null
        ;;
    *)
        printf '%s\n' "$1" >"$store/by-flanneld"
        mv "$store/by-flanneld" "$store/subnets/$key"
        ;;
    esac
}

# Device, and its end of the tunnel. One that differs in what cannot be changed is made anew; another
# MTU or MAC is not noticed. (Over IPv6 the kernel cuts this MTU to 1430, without a word.)
ensure_device() {
    is="$(ip -d -o link show "$1" 2>/dev/null)"
    case $is in
    *"vxlan id 1 local $2 dev eth0 "*"dstport 8472 "*) ;;
    *)
        ip link del "$1" 2>/dev/null
        ip link add "$1" mtu 1450 type vxlan id 1 local "$2" dev eth0 dstport 8472 nolearning
        echo 0 >"/proc/sys/net/ipv6/conf/$1/accept_ra"
        ;;
    esac
    ip link set "$1" up
}

# Device, its address, and what all addresses of the network begin with.
address_device() {
    ip -o addr show dev "$1" | grep -o "inet6\{0,1\} $3[0-9a-f:./]*" | cut -d' ' -f2 |
        while read -r held; do
            [ "$held" = "$2" ] || ip addr del "$held" dev "$1"
        done
    ip addr add "$2" dev "$1" 2>/dev/null
}

rules() {
    if [ "$nftables" = true ]; then
        in_nftables ip flannel-ipv4 $network "$own/24" 224.0.0.0/4
        [ -z "$own6" ] || in_nftables ip6 flannel-ipv6 $network6 "$own6/64" ff00::/8
    else
        in_iptables iptables-nft $network "$own/24" 224.0.0.0/4
        [ -z "$own6" ] || in_iptables ip6tables-nft $network6 "$own6/64" ff00::/8
    fi
}

# What it keeps where it is told to use nftables.
clean() {
    [ "$nftables" = true ] && return
    for table in "ip flannel-ipv4" "ip6 flannel-ipv6"; do
        nft delete table $table 2>/dev/null
    done
}

# Program, network, own subnet, groups. Its chains are emptied and filled again; the jumps to them
# are appended if they are missing.
in_iptables() {
    masq="-A FLANNEL-POSTRTG -m comment --comment \"flanneld masq\""
    forward="-A FLANNEL-FWD -m comment --comment \"flanneld forward\""
    "$1-restore" --noflush <<EOF
*nat
:FLANNEL-POSTRTG - [0:0]
$masq -m mark --mark 0x4000/0x4000 -j RETURN
$masq -s $3 -d $2 -j RETURN
$masq -s $2 -d $3 -j RETURN
$masq ! -s $2 -d $3 -j RETURN
$masq -s $2 ! -d $4 -j MASQUERADE --random-fully
$masq ! -s $2 -d $2 -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
$forward -s $2 -j ACCEPT
$forward -d $2 -j ACCEPT
COMMIT
EOF
    append "$1" nat POSTROUTING "flanneld masq" FLANNEL-POSTRTG
    append "$1" filter FORWARD "flanneld forward" FLANNEL-FWD
}

stands() { "$1" -t "$2" -C "$3" -m comment --comment "$4" -j "$5" 2>/dev/null; }

append() {
    stands "$@" || "$1" -t "$2" -A "$3" -m comment --comment "$4" -j "$5"
}

# Family, table, network, own subnet, groups. In one transaction, and never looked at again.
in_nftables() {
    nft -f - <<EOF
add table $1 $2 { comment "rules for $2" ; }
add chain $1 $2 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading" ; }
flush chain $1 $2 postrtg
add rule $1 $2 postrtg meta mark 0x4000 return
add rule $1 $2 postrtg $1 saddr $4 $1 daddr $3 return
add rule $1 $2 postrtg $1 saddr $3 $1 daddr $4 return
add rule $1 $2 postrtg $1 saddr != $4 $1 daddr $3 return
add rule $1 $2 postrtg $1 saddr $3 $1 daddr != $5 masquerade fully-random
add rule $1 $2 postrtg $1 saddr != $3 $1 daddr $3 masquerade fully-random
add chain $1 $2 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
flush chain $1 $2 forward
add rule $1 $2 forward $1 saddr $3 accept
add rule $1 $2 forward $1 daddr $3 accept
EOF
}

serve() {
    mtu=1450
    [ "$backend" = host-gw ] && mtu=1500
    {
        printf 'FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s/24\n' $network "${own%.0}.1"
        [ -z "$own6" ] ||
            printf 'FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s1/64\n' $network6 "$own6"
        printf 'FLANNEL_MTU=%s\nFLANNEL_IPMASQ=true\n' $mtu
    } >"$file.flanneld"
    mv "$file.flanneld" "$file"
}

# add or del, subnets, value
peer() {
    peer_in "$1" "${2%,*}" 24 $device "$(told "$3" '"PublicIP":')" "$(mac "$3" BackendData)"
    [ -z "$own6" ] || [ -z "${2#*,}" ] ||
        peer_in "$1" "${2#*,}" 64 $device6 "$(told "$3" '"PublicIPv6":')" \
            "$(mac "$3" BackendV6Data)"
}

told() { echo "$1" | sed -n "s/.*$2\"\([0-9a-f.:]*\)\".*/\1/p"; }
mac() { told "$1" "\"$2\":{[^}]*\"VtepMAC\":"; }

# add or del, subnet, length, device, public address, MAC
peer_in() {
    case $1-$backend in
    add-vxlan)
        ip neigh replace "$2" lladdr "$6" dev "$4" nud permanent
        bridge fdb replace "$6" dev "$4" dst "$5" self permanent
        ip route replace "$2/$3" via "$2" dev "$4" onlink
        ;;
    del-vxlan)
        ip neigh del "$2" dev "$4"
        bridge fdb del "$6" dev "$4" dst "$5" self
        ip route del "$2/$3" via "$2" dev "$4"
        ;;
    add-*) ip route replace "$2/$3" via "$5" dev eth0 ;;
    del-*) ip route del "$2/$3" via "$5" dev eth0 ;;
    esac
}

ether() { ip -o link show "$1" | sed 's/.*ether \([0-9a-f:]*\).*/\1/'; }

value() {
    printf '{"PublicIP":"%s","PublicIPv6":%s,"BackendType":"%s"' \
        "$address" "$([ -z "$address6" ] && echo null || echo "\"$address6\"")" "$backend"
    if [ "$backend" = vxlan ]; then
        printf ',"BackendData":{"VNI":1,"VtepMAC":"%s"}' "$(ether $device)"
        [ -z "$address6" ] ||
            printf ',"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}' "$(ether $device6)"
    fi
    printf '}'
}

# Its value in the subnet file.
formerly() { sed -n "s|^$1=||p" "$file" 2>/dev/null; }

if [ "$backend" = vxlan ]; then
    ensure_device $device "$address"
    [ -z "$address6" ] || ensure_device $device6 "$address6"
fi
case $store in
kube=*) both=$(api "$nodes/$NODE_NAME" |
    jq -r '.spec.podCIDRs | map(sub("/.*"; "")) | [.[0], .[1] // ""] | join(",")') ;;
*) both=$(leases | grep "\"PublicIP\":\"$address\"" | cut -d' ' -f1) ;;
esac
own=${both%,*} own6=${both#*,}
[ -n "$own" ] || own=$(formerly FLANNEL_SUBNET | sed 's|1/24$|0|')
[ -n "$own6" ] || own6=$(formerly FLANNEL_IPV6_SUBNET | sed 's|1/64$||')
[ -n "$own" ] || own=$wish
[ -n "$own6" ] || own6=$wish6
[ -n "$address6" ] || own6=
publish "$(value)"
if [ "$backend" = vxlan ]; then
    address_device $device "$own/32" 10.244.
    [ -z "$own6" ] || address_device $device6 "$own6/128" fd05:
fi
clean
rules
serve
case $store in kube=*) available ;; esac

known= passes=0
while :; do
    # Every 5 seconds or so.
    passes=$(((passes + 1) % 20))
    [ $passes != 0 ] || [ "$nftables" = true ] ||
        stands iptables-nft nat POSTROUTING "flanneld masq" FLANNEL-POSTRTG || rules
    now=$(leases | grep -v "^$own,")
    echo "$known" | while read -r subnets value; do
        [ -z "$subnets" ] || echo "$now" | grep -q "^$subnets " || peer del "$subnets" "$value"
    done
    echo "$now" | while read -r subnets value; do
        [ -z "$subnets" ] || echo "$known" | grep -qxF "$subnets $value" || peer add "$subnets" "$value"
    done
    known=$now
    sleep 0.2
done
