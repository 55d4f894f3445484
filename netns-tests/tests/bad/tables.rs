//! Configurations that make no sense: what is changed of a good one, the code, and the words that
//! must be in the message or its details. `...` stands for the rest of the good `ipam` section.

pub(crate) const BRIDGE: &str = r#"
{"bridge": 5}                                      | 6 | bridge
{"bridge": "sixteen-letters-"}                     | 7 | sixteen-letters-
{"bridge": "../x"}                                 | 7 | ../x
{"bridge": "a b"}                                  | 7 | a b
{"bridge": "a\u0000b"}                             | 7 | bridge
{"bridge": "lo"}                                   | 7 | lo & not a bridge
{"isGateway": "true"}                              | 6 | isGateway
{"ipMasq": 1}                                      | 6 | ipMasq
{"mtu": "1500"}                                    | 6 | mtu
{"mtu": -1}                                        | 7 | mtu & -1
{"mtu": 10}                                        | 7 | mtu & 10
{"mtu": 1.5}                                       | 6 | mtu
{"mtu": 99999999}                                  | 7 | mtu & 99999999
{"mtu": 9223372036854775808}                       | 6 | mtu
{"vlan": 4095}                                     | 7 | 4095 & 4094
{"vlan": -1}                                       | 7 | -1
{"vlanTrunk": 5}                                   | 6 | vlanTrunk
{"vlanTrunk": [{"id": 0}]}                         | 7 | 0
{"vlanTrunk": [{"minID": 5}]}                      | 7 | maxID
{"vlanTrunk": [{"minID": 9, "maxID": 5}]}          | 7 | 9 & 5
{"hairpinMode": true, "promiscMode": true}         | 7 | hairpin & promisc
{"disableContainerInterface": true}                | 7 | disableContainerInterface
{"ipMasqBackend": "ebtables"}                      | 7 | ebtables & nftables & iptables
{"ipMasqBackend": 5}                               | 6 | ipMasqBackend
{"ipam": "host-local"}                             | 6 | ipam
{"ipam": [1]}                                      | 6 | ipam
{"ipam": {"...": 1, "type": 5}}                    | 6 | type
{"ipam": {"...": 1, "type": "nobody-has-this"}}    | 7 | nobody-has-this & type
{"ipam": {"...": 1, "type": "../bridge"}}          | 7 | ../bridge
{"ipam": {"...": 1, "type": ".."}}                 | 7 | ..
{"dns": 5}                                         | 6 | dns
{"dns": {"nameservers": "192.0.2.1"}}              | 6 | nameservers
{"args": 5}                                        | 6 | args
{"args": {"cni": {"mac": "zz"}}}                   | 7 | zz
{"runtimeConfig": "x"}                             | 6 | runtimeConfig
{"runtimeConfig": {"mac": 5}}                      | 6 | mac
{"cniVersion": "0.2.0", "ipam": {}}                | 7 | 0.2.0 & 0.3.0
"#;

/// `bridge` says the same of its `ipam` section.
pub(crate) const HOST_LOCAL: &str = r#"
{"ipam": {"type": "host-local"}}                                    | 7 | ranges
{"ipam": {"...": 1, "ranges": []}}                                  | 7 | ranges
{"ipam": {"...": 1, "ranges": [[]]}}                                | 7 | range set 0
{"ipam": {"...": 1, "ranges": {}}}                                  | 6 | ranges
{"ipam": {"...": 1, "ranges": [{"subnet": "10.1.0.0/24"}]}}         | 6 | "ranges"[0]
{"ipam": {"...": 1, "ranges": [[5]]}}                               | 6 | "ranges"[0][0]
{"ipam": {"...": 1, "ranges": [[{}]]}}                              | 7 | subnet
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0"}]]}}          | 7 | 10.1.0.0 & /24
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/33"}]]}}       | 7 | 10.1.0.0/33
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/-1"}]]}}       | 7 | 10.1.0.0/-1
{"ipam": {"...": 1, "ranges": [[{"subnet": "anything"}]]}}          | 7 | anything
{"ipam": {"...": 1, "ranges": [[{"subnet": 10}]]}}                  | 6 | subnet
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/31"}]]}}       | 7 | 10.1.0.0/31 & too small
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/32"}]]}}       | 7 | 10.1.0.0/32 & too small
{"ipam": {"...": 1, "ranges": [[{"subnet": "fd00::/127"}]]}}        | 7 | fd00::/127 & too small
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.5/24"}]]}}       | 7 | 10.1.0.5/24 & 10.1.0.0
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "x"}]]}}        | 7 | rangeStart & "x"
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}]]}} | 7 | 10.2.0.1
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1"}]]}}   | 7 | 10.2.0.1
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5"}]]}} | 7 | 10.1.0.9
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "fd00::1"}]]}}  | 7 | fd00::1
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "gateway": "fd00::1"}]]}}     | 7 | fd00::1
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24", "gateway": 1}]]}}             | 6 | gateway
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]]}}   | 7 | overlap & 10.1.0
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/25"}]]}} | 7 | overlap & 10.1.0
{"ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}}     | 7 | range set 0
{"ipam": {"...": 1, "routes": 5}}                                                 | 6 | routes
{"ipam": {"...": 1, "routes": [{"dst": "somewhere"}]}}                            | 6 | dst & somewhere
{"ipam": {"...": 1, "routes": [{"gw": "10.22.0.1"}]}}                             | 6 | dst
{"ipam": {"...": 1, "routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}}                 | 7 | gw & "x"
{"ipam": {"...": 1, "routes": [{"dst": "0.0.0.0/0", "mtu": "x"}]}}                | 6 | mtu
{"ipam": {"...": 1, "dataDir": 5}}                                                | 6 | dataDir
{"ipam": {"...": 1, "dataDir": "/proc/version"}}                                  | 5 | /proc/version
{"ipam": {"...": 1, "dataDir": "/proc/nothing"}}                                  | 5 | /proc/nothing
{"ipam": {"...": 1, "resolvConf": "/run/no-such-file"}}                           | 5 | resolvConf & /run/no-such-file
{"ipam": {"...": 1, "resolvConf": "/run"}}                                        | 5 | /run
{"runtimeConfig": {"ips": "10.22.0.9"}}                                           | 6 | ips
{"runtimeConfig": {"ips": ["nowhere"]}}                                           | 7 | nowhere
{"runtimeConfig": {"ips": ["10.22.0.9/99"]}}                                      | 7 | 10.22.0.9/99
{"runtimeConfig": {"ipRanges": [[{"subnet": "10.22.0.0/25"}]]}}                   | 7 | overlap
{"args": {"cni": {"ips": 5}}}                                                     | 6 | ips
{"cniVersion": "0.2.0", "ipam": {"...": 1, "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]}} | 7 | 0.2.0 & 0.3.0
"#;

pub(crate) const PORTMAP: &str = r#"
{"prevResult": null}                                                              | 7 | prevResult
{"prevResult": 5}                                                                 | 6 | prevResult
{"prevResult": {"ips": 5}}                                                        | 6 | prevResult & ips
{"prevResult": {"cniVersion": "9.9"}}                                             | 6 | prevResult & 9.9
{"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "x"}]}}                | 6 | prevResult & address
{"runtimeConfig": {"portMappings": 5}}                                            | 6 | portMappings
{"runtimeConfig": {"portMappings": [5]}}                                          | 6 | "portMappings"[0]
{"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}}       | 7 | "portMappings"[0] & hostPort & 65535
{"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}}   | 7 | hostPort & 70000
{"runtimeConfig": {"portMappings": [{"hostPort": -1, "containerPort": 80}]}}      | 7 | hostPort & -1
{"runtimeConfig": {"portMappings": [{"hostPort": "80", "containerPort": 80}]}}    | 6 | hostPort
{"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 0}]}}       | 7 | containerPort
{"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}} | 7 | icmp & tcp
{"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": 6}]}}      | 6 | protocol
{"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "all"}]}}    | 7 | hostIP & all
{"backend": "ebtables"}                                                           | 7 | ebtables & nftables & iptables
{"backend": 5}                                                                    | 6 | backend
{"markMasqBit": 32}                                                               | 7 | markMasqBit & 32
{"snat": "yes"}                                                                   | 6 | snat
{"conditionsV4": "-s 10.0.0.0/8"}                                                 | 6 | conditionsV4
{"conditionsV4": ["no such condition"]}                                           | 7 | no such condition
{"conditionsV4": ["-s", "10.0.0.0/8"], "backend": "nftables"}                     | 7 | conditionsV4
{"conditionsV4": ["ip", "saddr", "10.0.0.0/8"], "backend": "iptables"}            | 7 | conditionsV4
{"conditionsV4": ["--no-such-option"], "backend": "iptables"}                     | 7 | no-such-option
{"markMasqBit": 13, "externalSetMarkChain": "X", "backend": "iptables"}           | 7 | externalSetMarkChain & markMasqBit
"#;

pub(crate) const FLANNEL: &str = r#"
{"delegate": 5}                                  | 6 | delegate
{"delegate": {"name": "x"}}                      | 7 | name
{"delegate": {"ipam": {}}}                       | 7 | ipam
{"delegate": {"type": 5}}                        | 7 | type
{"delegate": {"type": "flannel"}}                | 7 | flannel
{"delegate": {"type": "nobody-has-this"}}        | 7 | nobody-has-this
{"delegate": {"type": "../bridge"}}              | 7 | ../bridge
{"delegate": {"mtu": "x"}}                       | 6 | mtu
{"delegate": {"vlan": 5000}}                     | 7 | 5000
{"ipam": 5}                                      | 6 | ipam
{"ipam": {"type": "nobody-has-this"}}            | 7 | nobody-has-this
{"ipam": {"routes": [{"dst": "x"}]}}             | 6 | dst
{"subnetFile": 5}                                | 6 | subnetFile
{"subnetFile": "/run"}                           | 5 | /run
{"subnetFile": "/run/fifo"}                      | 11 | /run/fifo
{"subnetFile": "/dev/zero"}                      | 11 | /dev/zero
{"subnetFile": "/run/elsewhere"}                 | 11 | /run/elsewhere
{"dataDir": 5}                                   | 6 | dataDir
{"dataDir": "/proc/version"}                     | 5 | /proc/version
{"runtimeConfig": 5}                             | 6 | runtimeConfig
"#;
