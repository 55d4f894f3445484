//! From single flags to options: defaults, the environment, and what depends on several flags.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::Flag;
use super::{
    Checksum, Command, EVERYWHERE, Etcd, Kube, Log, LogFormat, MachineId, Masquerade, Mistake,
    Node, Options, Patience, Store,
};
use crate::conflist::Conflist;
use crate::distribution::Distribution;
use crate::interface::Wanted;

/// What flags have set so far, beginning with the defaults.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) version: bool,
    pub(super) cleanup: bool,
    pub(super) store: Option<StoreKind>,
    pub(super) etcd: Etcd,
    pub(super) embedded_dir: Option<PathBuf>,
    pub(super) kube_subnet_mgr: bool,
    pub(super) kube: Kube,
    pub(super) interface: Wanted,
    pub(super) node: Node,
    pub(super) subnet_file: PathBuf,
    /// Minutes.
    pub(super) renew_margin: i64,
    pub(super) masquerade: Masquerade,
    pub(super) forward_rules: bool,
    pub(super) blackhole_route: bool,
    pub(super) peer_guard: bool,
    pub(super) vxlan_checksum: Checksum,
    pub(super) healthz_ip: IpAddr,
    pub(super) healthz_port: u16,
    /// Seconds.
    pub(super) resync: Option<u32>,
    pub(super) iptables_resync: Option<u32>,
    pub(super) log: Log,
    pub(super) state_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) take_over: bool,
    pub(super) cni_conf_source: Option<PathBuf>,
    pub(super) cni_conf_dir: Option<PathBuf>,
    pub(super) cni_conf_puts_aside: bool,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreKind {
    Etcd,
    Embedded,
    Kube,
}

impl Given {
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The twins of a flag that is not on the command line. A value that makes no sense is told
    /// and passed over: a start never fails because of it.
    pub(super) fn take_from_environment(
        &mut self,
        flag: &Flag,
        env: &impl Fn(&str) -> Option<String>,
    ) {
        if !flag.in_environment {
            return;
        }
        let name = flag.name.to_ascii_uppercase().replace('-', "_");
        for prefix in ["WEFTD_", "FLANNELD_"] {
            let variable = format!("{prefix}{name}");
            let Some(value) = env(&variable).filter(|value| !value.is_empty()) else {
                continue;
            };
            if let Err(why) = (flag.set)(self, &value) {
                self.warn(format!(
                    "environment variable {variable}={value} is passed over: {why}"
                ));
            }
            return;
        }
    }

    /// Go stops reading at the first argument that is no flag, and flanneld says nothing of it.
    pub(super) fn passed_over(&mut self, rest: &[String]) {
        if let Some(first) = rest.first() {
            self.warn(format!(
                "the command line is read as far as {first:?}, which is no flag: it and the {} after \
                 it are passed over (a truth is given as -name=false, never as -name false)",
                rest.len() - 1
            ));
        }
    }

    pub(super) fn settle(
        mut self,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Command, Mistake> {
        if self.version {
            return Ok(Command::Version);
        }
        let cleanup = self.cleanup;
        let health = (self.healthz_port > 0).then(|| (self.healthz_ip, self.healthz_port).into());
        let renew_margin = self.checked_margin()?;
        self.node_from(env);
        let conflist = self.conflist();
        let options = Box::new(Options {
            store: self.chosen_store()?,
            interface: self.interface,
            node: self.node,
            subnet_file: self.subnet_file,
            renew_margin,
            masquerade: self.masquerade,
            forward_rules: self.forward_rules,
            blackhole_route: self.blackhole_route,
            peer_guard: self.peer_guard,
            vxlan_checksum: self.vxlan_checksum,
            health,
            resync: Duration::from_secs(
                self.resync
                    .or(self.iptables_resync)
                    .unwrap_or(RESYNC)
                    .into(),
            ),
            log: self.log,
            state_dir: self.state_dir,
            run_dir: self.run_dir,
            take_over: self.take_over,
            conflist,
            warnings: self.warnings,
        });
        Ok(if cleanup {
            Command::Cleanup(options)
        } else {
            Command::Run(options)
        })
    }

    fn checked_margin(&self) -> Result<Duration, Mistake> {
        match u64::try_from(self.renew_margin) {
            Ok(minutes @ 1..=1439) => Ok(Duration::from_secs(minutes * 60)),
            _ => Err(Mistake::out_of_range(format!(
                "-subnet-lease-renew-margin={}: must be between 1 and 1439 minutes, for a lease \
                 lasts 24 hours",
                self.renew_margin
            ))),
        }
    }

    fn node_from(&mut self, env: &impl Fn(&str) -> Option<String>) {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty());
        if self.node.name.is_none() {
            self.node.name = variable("NODE_NAME");
        }
        self.kube.pod = variable("POD_NAMESPACE").zip(variable("POD_NAME"));
    }

    fn conflist(&mut self) -> Option<Conflist> {
        let Some(source) = self.cni_conf_source.take() else {
            if self.cni_conf_dir.is_some() || self.cni_conf_puts_aside {
                self.warn(
                    "-cni-conf-dir and -cni-conf-put-aside mean nothing without -cni-conf-source: \
                     no CNI configuration is put in place",
                );
            }
            return None;
        };
        let dir = self.cni_conf_dir.take();
        Some(Conflist {
            source,
            dir: dir.unwrap_or_else(|| Distribution::here().conf_dir),
            puts_aside: self.cni_conf_puts_aside,
        })
    }

    /// Moves the chosen store's options out.
    fn chosen_store(&mut self) -> Result<Store, Mistake> {
        let kind = match self.store {
            Some(kind) => kind,
            None if self.kube_subnet_mgr => StoreKind::Kube,
            None if self.embedded_dir.is_some() => StoreKind::Embedded,
            None => StoreKind::Etcd,
        };
        Ok(match kind {
            StoreKind::Kube => Store::Kube(self.kube.clone()),
            StoreKind::Embedded => Store::Embedded(self.embedded_dir.clone().ok_or_else(|| {
                Mistake::usage(
                    "-store=embedded needs -embedded-dir: the directory that the daemons share",
                )
            })?),
            StoreKind::Etcd => {
                if self.etcd.cert_file.is_some() != self.etcd.key_file.is_some() {
                    self.warn(
                        "of -etcd-certfile and -etcd-keyfile only one is given: no client \
                         certificate is shown to etcd",
                    );
                    self.etcd.cert_file = None;
                    self.etcd.key_file = None;
                }
                Store::Etcd(self.etcd.clone())
            }
        })
    }
}

impl Default for Given {
    fn default() -> Self {
        Self {
            version: false,
            cleanup: false,
            store: None,
            etcd: Etcd {
                endpoints: ENDPOINTS.map(str::to_owned).to_vec(),
                prefix: "/coreos.com/network".to_owned(),
                key_file: None,
                cert_file: None,
                ca_file: None,
                username: None,
                password: None,
            },
            embedded_dir: None,
            kube_subnet_mgr: false,
            kube: Kube {
                api_url: None,
                kubeconfig: None,
                annotation_prefix: "flannel.alpha.coreos.com/".to_owned(),
                net_conf: "/etc/kube-flannel/net-conf.json".into(),
                set_node_network_unavailable: true,
                pod: None,
                patience: Patience::default(),
            },
            interface: Wanted::default(),
            node: Node {
                name: None,
                machine_id: MachineId::File("/etc/machine-id".into()),
            },
            subnet_file: "/run/flannel/subnet.env".into(),
            renew_margin: 60,
            masquerade: Masquerade {
                on: false,
                random_fully: true,
                exempt: Vec::new(),
            },
            forward_rules: true,
            blackhole_route: false,
            peer_guard: true,
            vxlan_checksum: Checksum::Auto,
            healthz_ip: EVERYWHERE,
            healthz_port: 0,
            resync: None,
            iptables_resync: None,
            log: Log {
                format: LogFormat::Text,
                verbosity: 0,
            },
            state_dir: "/var/lib/weft".into(),
            run_dir: "/run/weft".into(),
            take_over: false,
            cni_conf_source: None,
            cni_conf_dir: None,
            cni_conf_puts_aside: false,
            warnings: Vec::new(),
        }
    }
}

const ENDPOINTS: [&str; 2] = ["http://127.0.0.1:4001", "http://127.0.0.1:2379"];

/// Seconds. What changes in the kernel wakes the loop at once: the timer is for what the kernel
/// does not tell.
const RESYNC: u32 = 60;
