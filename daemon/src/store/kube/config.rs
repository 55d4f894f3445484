//! The network's configuration as it counts: the file's, with networks that it leaves out or has
//! wrong taken from where the cluster says them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::networks::{Found, cover};
use crate::conf::{Checks, NetConf, leaves_networks_out};

pub(super) struct Config {
    path: PathBuf,
    text: Result<String, String>,
    /// The text that counts until the end: the first good one.
    running: Option<String>,
    /// What the cluster's ConfigMaps say. None until they were asked.
    found: Option<Option<Found>>,
    /// The cluster is to be asked.
    pub(super) asks: bool,
    pub(super) known: Option<Result<Arc<NetConf>, String>>,
    pub(super) changed: Option<String>,
    pub(super) note: Option<String>,
}

impl Config {
    pub(super) fn new(path: &Path, text: Result<String, String>) -> Self {
        let mut config = Self {
            path: path.to_owned(),
            text,
            running: None,
            found: None,
            asks: false,
            known: None,
            changed: None,
            note: None,
        };
        config.settle(&[], &[], false);
        config
    }

    pub(super) fn read(&mut self, text: Result<String, String>) {
        self.text = text;
    }

    pub(super) fn found(&mut self, found: Option<Found>) {
        self.found = Some(found);
        self.asks = false;
    }

    pub(super) fn usable(&self) -> Option<Arc<NetConf>> {
        self.known.as_ref()?.as_ref().ok().cloned()
    }

    /// `subnets` are all nodes' podCIDRs, `addresses` the nodes' own. Until the nodes are listed
    /// nothing is final but what is wrong.
    pub(super) fn settle(&mut self, subnets: &[IpNetwork], addresses: &[IpAddr], listed: bool) {
        match self.running.clone() {
            Some(running) => {
                if let Ok(conf) = self.conf(&running, subnets, addresses) {
                    self.put(conf);
                }
                self.changed = self.compare(&running);
            }
            None => self.begin(subnets, addresses, listed),
        }
    }

    fn begin(&mut self, subnets: &[IpNetwork], addresses: &[IpAddr], listed: bool) {
        let text = match self.text.clone() {
            Ok(text) => text,
            Err(why) => {
                self.known = Some(Err(why));
                return;
            }
        };
        let left_out = leaves_networks_out(&text);
        self.asks |= left_out && self.found.is_none();
        let is_found = !left_out || (listed && self.found.is_some());
        match self.conf(&text, subnets, addresses) {
            Ok(conf) if listed && is_found => {
                self.running = Some(text);
                self.put(conf);
            }
            Err(why) if is_found => {
                let path = self.path.display();
                let also = match left_out {
                    true => {
                        "; nobody else says it either: neither the ConfigMaps kubeadm-config and \
                         kube-proxy of kube-system, nor any node's podCIDR"
                    }
                    false => "",
                };
                let told = format!("the network configuration {path} is wrong: {why}{also}");
                self.known = Some(Err(told));
            }
            _ => self.known = None,
        }
    }

    fn conf(
        &mut self,
        text: &str,
        subnets: &[IpNetwork],
        addresses: &[IpAddr],
    ) -> Result<NetConf, String> {
        let found = match &self.found {
            Some(Some(found)) => found.networks.clone(),
            _ => cover(subnets, addresses, MOST),
        };
        let mut conf = NetConf::parse(text, Checks::Assigned { found: &found })
            .map_err(|why| why.to_string())?;
        self.note = self.count_in(text, &mut conf, subnets, addresses);
        Ok(conf)
    }

    /// Pods are where the podCIDRs are, whatever is written. Returns what to tell of it.
    fn count_in(
        &mut self,
        text: &str,
        conf: &mut NetConf,
        subnets: &[IpNetwork],
        addresses: &[IpAddr],
    ) -> Option<String> {
        let is_on = |net: &IpNetwork| match net {
            IpNetwork::V4(_) => conf.v4.is_some(),
            IpNetwork::V6(_) => conf.v6.is_some(),
        };
        let outside = |conf: &NetConf| -> Vec<IpNetwork> {
            let subnets = subnets.iter().copied();
            subnets
                .filter(|net| is_on(net) && !conf.holds(*net))
                .collect()
        };
        let wrong = outside(conf);
        let first = wrong.first()?;
        self.asks |= self.found.is_none();
        let given = conf.networks.clone();
        let found = self.found.iter().flatten();
        let holds = |net: &&IpNetwork| {
            wrong
                .iter()
                .any(|w| net.prefix() <= w.prefix() && net.contains(w.network()))
        };
        let known: Vec<IpNetwork> = found
            .clone()
            .flat_map(|f| f.networks.iter().filter(holds))
            .copied()
            .collect();
        let mut all = conf.clone();
        all.count_in(&known);
        all.count_in(&cover(&outside(&all), addresses, MOST));
        let really = match known.is_empty() {
            true => cover(&wrong, addresses, MOST),
            false => known.clone(),
        };
        let by = match (found.clone().next(), known.is_empty()) {
            (Some(found), false) => found.at.clone(),
            _ => "the nodes' podCIDRs".to_owned(),
        };
        *conf = all;
        Some(self.wrong(text, &given, *first, wrong.len(), &really, &by))
    }

    /// Both values, and the line to change.
    fn wrong(
        &self,
        text: &str,
        given: &[IpNetwork],
        first: IpNetwork,
        count: usize,
        really: &[IpNetwork],
        by: &str,
    ) -> String {
        let key = if first.is_ipv4() {
            "Network"
        } else {
            "IPv6Network"
        };
        let same_family = |net: &&IpNetwork| net.is_ipv4() == first.is_ipv4();
        let list = |nets: &[IpNetwork]| {
            let nets = nets.iter().filter(same_family).map(ToString::to_string);
            nets.collect::<Vec<_>>().join(",")
        };
        let (given, really) = (list(given), list(really));
        let path = self.path.display();
        let mut lines = text.lines().enumerate();
        let quoted = format!("\"{}\"", key.to_lowercase());
        let line = lines.find(|(_, line)| line.to_lowercase().contains(&quoted));
        let remedy = match line {
            Some((number, line)) => format!(
                "in {path}, line {}, change {} to \"{key}\": \"{really}\", or leave the line out",
                number + 1,
                line.trim()
            ),
            None => format!("add \"{key}\": \"{given},{really}\" to {path}"),
        };
        format!(
            "the pods' network is {given}, but {count} podCIDRs lie outside of it, as {first}: \
             pods really are in {really}, by {by}; {remedy}. Until then their traffic flows, for \
             both count as pods' networks"
        )
    }

    fn put(&mut self, conf: NetConf) {
        let is_same = matches!(&self.known, Some(Ok(known)) if **known == conf);
        if !is_same {
            self.known = Some(Ok(Arc::new(conf)));
        }
    }

    /// What to tell of a file that is not what counts.
    fn compare(&self, running: &str) -> Option<String> {
        let path = self.path.display();
        let goes_on = "weftd goes on with what it read before, and would not start with this";
        let text = match &self.text {
            Ok(text) if text == running => return None,
            Ok(text) => text,
            Err(why) => return Some(format!("{why}; {goes_on}")),
        };
        let found = ["0.0.0.0/1", "::/1"].map(|any| any.parse().ok());
        let found: Vec<IpNetwork> = found.into_iter().flatten().collect();
        let parse = |text| NetConf::parse(text, Checks::Assigned { found: &found });
        match (parse(text), parse(running)) {
            (Ok(new), Ok(old)) if new == old => None,
            (Ok(_), _) => Some(format!(
                "the network configuration {path} was changed; it counts from the next start of \
                 weftd on"
            )),
            (Err(why), _) => Some(format!(
                "the network configuration {path} is wrong: {why}; {goes_on}"
            )),
        }
    }
}

/// More networks than rules should be made of.
const MOST: usize = 32;
