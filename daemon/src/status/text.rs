//! For people, at a terminal of eighty columns or more.

use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use super::{LeaseState, Status, path};
use crate::conf::Backend;
use crate::reconcile::Repaired;
use crate::rfc3339::Utc;

/// Whether the one word that matters most is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Coloured,
}

impl Status {
    pub fn to_text(&self, now: Instant, paint: Paint) -> String {
        let mut page = Page::default();
        self.head(&mut page, now, paint);
        self.facts(&mut page, now);
        self.lists(&mut page);
        page.text
    }

    fn head(&self, page: &mut Page, now: Instant, paint: Paint) {
        let about = &self.about;
        let verdict = match (self.ready(), paint) {
            (Ok(()), Paint::Plain) => "ready",
            (Ok(()), Paint::Coloured) => "\x1b[32mready\x1b[0m",
            (Err(_), Paint::Plain) => "NOT READY",
            (Err(_), Paint::Coloured) => "\x1b[31mNOT READY\x1b[0m",
        };
        let up = Lasting(self.uptime(now));
        let node = tame(&about.node);
        page.raw(format_args!(
            "weftd {} on {node}: {verdict}, up {up}",
            about.version
        ));
        if let Err(why) = self.ready() {
            why.lines()
                .for_each(|line| page.line(format_args!("  {line}")));
        }
        page.gap();
    }

    fn facts(&self, page: &mut Page, now: Instant) {
        let report = &self.report;
        page.fact("network", self.network());
        if let Some(changed) = &self.view.conf_changed {
            page.fact("", changed);
        }
        page.fact("lease", self.lease_line(now));
        page.fact("published", list(self.public_addresses(), "nothing yet"));
        if let Some(standing) = &report.standing {
            let ground = &standing.ground;
            let v4 = ground.v4.map(|address| format!(" {address}"));
            let v6 = ground.v6.map(|address| format!(" {address}"));
            let addresses: String = v4.into_iter().chain(v6).collect();
            let told = format!("{}{addresses}, MTU {}", standing.name, ground.mtu);
            page.fact("interface", told);
        }
        let devices = report.devices.iter();
        let devices = devices.map(|(name, mtu)| format!("{name}, MTU {mtu}"));
        page.fact("devices", list(devices, "none"));
        if report.mtu > 0 {
            page.fact("pods' MTU", report.mtu);
        }
        page.fact("peers", self.peers_line());
        page.fact("store", self.store_line());
        page.fact(
            "loop",
            format_args!(
                "{} rounds, the last took {}, the longest {}, all {}",
                report.rounds,
                Brief(report.last_took),
                Brief(report.longest),
                Brief(report.spent)
            ),
        );
        let dropped = Count(report.guard_dropped, "packet");
        let stats = self.packet_path();
        page.fact(
            "guard",
            match (report.guard, &stats) {
                (true, _) => format!("on, {dropped} dropped"),
                (false, Some(_)) => "in the packet path".to_owned(),
                (false, None) => "off".to_owned(),
            },
        );
        if let Some(stats) = &stats {
            page.fact("packets", path::to_line(stats));
        }
    }

    fn network(&self) -> String {
        match &self.view.conf {
            None => "not read yet".to_owned(),
            Some(Err(wrong)) => wrong.clone(),
            Some(Ok(conf)) => {
                let backend = match &conf.backend {
                    Backend::Vxlan(vxlan) => format!(
                        "vxlan, VNI {}, port {}{}",
                        vxlan.vni,
                        vxlan.port,
                        if vxlan.direct_routing {
                            ", direct routing"
                        } else {
                            ""
                        }
                    ),
                    Backend::HostGw => "host-gw".to_owned(),
                    Backend::Udp(udp) => format!("udp, port {}", udp.port),
                    Backend::Alloc => "alloc".to_owned(),
                };
                format!("{}, {backend}", list(self.networks(), ""))
            }
        }
    }

    fn lease_line(&self, now: Instant) -> String {
        let subnets = list(self.subnets(), "");
        match self.lease_state() {
            LeaseState::Unclaimed => "none yet".to_owned(),
            LeaseState::Held => match self.lease_expires_in(now) {
                Some(left) => format!("{subnets} held, ends in {} if not renewed", Lasting(left)),
                None => format!("{subnets} held, without an end"),
            },
            LeaseState::Lost(why) => format!("{subnets} LOST: {why}"),
            LeaseState::Refused(why) => format!("REFUSED: {why}"),
        }
    }

    fn peers_line(&self) -> String {
        let Some(peers) = self.peers() else {
            return "not listed yet".to_owned();
        };
        let mut line = format!(
            "{peers}, {} in the kernel",
            Count(self.report.routes as u64, "route")
        );
        let skipped = self.report.skipped.len();
        if skipped > 0 {
            line += &format!(", {skipped} left out");
        }
        line
    }

    fn store_line(&self) -> String {
        let health = &self.view.health;
        let mut line = self.about.store.to_owned();
        if let Some(trouble) = &health.trouble {
            line += &format!(": TROUBLE: {trouble}; ");
        } else {
            line += ": well; ";
        }
        line += &format!(
            "{}, {} failed, {}",
            Count(health.calls, "call"),
            health.failures,
            Count(health.reconnects, "reconnect")
        );
        let calls = u32::try_from(health.calls).unwrap_or(u32::MAX);
        if let Some(mean) = health.spent.checked_div(calls) {
            let slowest = Brief(health.slowest);
            line += &format!(", mean {}, slowest {slowest}", Brief(mean));
        }
        line
    }

    fn lists(&self, page: &mut Page) {
        let report = &self.report;
        let rubbish = self.view.peers.iter().flat_map(|peers| &peers.rubbish);
        let skipped = report.skipped.iter();
        let hooks = report.hooks.iter().filter_map(|hook| hook.note());
        page.list("What the kernel refuses", report.failed.iter());
        page.list("Forwarding that is stopped by others' rules", hooks);
        page.list(
            "Peers left out",
            skipped.map(|peer| format!("{}: {}", peer.subnet, peer.why)),
        );
        page.list(
            "Leases that cannot be read",
            rubbish.map(|rubbish| format!("{}: {}", rubbish.name, rubbish.why)),
        );
        let stats = self.packet_path();
        let missing = stats.iter().flat_map(path::missing);
        page.list("What the packet path does without", missing);
        page.list("To know", self.view.notes.iter().chain(&report.notes));
        page.list(
            "Put back, by who took it away",
            report
                .repairs
                .iter()
                .map(|((kind, command), count)| format!("{count:>6} {kind:<10} {command}")),
        );
        page.list(
            "Put back, the latest first",
            report.last_repairs.iter().rev().map(repaired),
        );
    }
}

fn repaired(repaired: &Repaired) -> String {
    let when = Utc::of(repaired.when).to_the_second();
    let mut line = format!("{when} {}", repaired.what);
    if let Some(culprit) = &repaired.by {
        line += &format!(", taken away by {culprit}");
    }
    if let Some(after) = repaired.after {
        line += &format!(", back after {}", Brief(after));
    }
    line
}

/// What peers and programs call themselves comes from others, and must not command a terminal.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn raw(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a text cannot fail.
        writeln!(self.text, "{line}").ok();
    }

    fn line(&mut self, line: impl fmt::Display) {
        let line = tame(&line.to_string());
        self.raw(format_args!("{line}"));
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }

    fn fact(&mut self, name: &str, value: impl fmt::Display) {
        self.line(format_args!("  {name:<11}{value}"));
    }

    fn list<T: fmt::Display>(&mut self, title: &str, items: impl Iterator<Item = T>) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        self.gap();
        self.line(format_args!("{title}:"));
        for item in items.by_ref().take(SHOWN) {
            self.line(format_args!("  {item}"));
        }
        match items.count() {
            0 => {}
            more => self.line(format_args!(
                "  and {more} more (weft status --json has all)"
            )),
        }
    }
}

/// A line in which nothing commands a terminal.
pub(crate) fn tame(line: &str) -> String {
    let harmless = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    line.chars().map(harmless).collect()
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>, none: &str) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() {
        none.to_owned()
    } else {
        values.join(", ")
    }
}

struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, what) = self;
        write!(f, "{number} {what}{}", if *number == 1 { "" } else { "s" })
    }
}

/// The two greatest units: "3 d 4 h".
struct Lasting(Duration);

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _, _) => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

struct Brief(Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            micros @ 0..1_000 => write!(f, "{micros} µs"),
            micros @ 1_000..10_000 => write!(f, "{}.{} ms", micros / 1000, micros / 100 % 10),
            micros @ 10_000..10_000_000 => write!(f, "{} ms", micros / 1000),
            micros => write!(f, "{} s", micros / 1_000_000),
        }
    }
}

/// Of each list: a terminal has so many lines.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing;
    use super::*;
    use crate::reconcile::Report;
    use crate::store::Own;

    #[test]
    fn a_node_that_serves_is_told_on_one_page() {
        let (status, now) = testing::serving();
        let text = status.to_text(now + Duration::from_secs(11_545), Paint::Plain);
        let expected = "\
weftd 0.1.0 on node-1: ready, up 3 h 12 min

  network    10.5.0.0/16, vxlan, VNI 1, port 8472
             the configuration changed
  lease      10.5.63.0/24 held, ends in 20 h 47 min if not renewed
  published  192.168.9.181
  interface  eth0 192.168.9.181, MTU 1500
  devices    flannel.1, MTU 1450
  pods' MTU  1450
  peers      1, 1 route in the kernel, 1 left out
  store      etcd: well; 120 calls, 2 failed, 1 reconnect, mean 2.0 ms, slowest 14 ms
  loop       12 rounds, the last took 4.0 ms, the longest 13 ms, all 40 ms
  guard      on, 7 packets dropped

What the kernel refuses:
  route 10.5.8.0/24: no such device
";
        assert!(text.starts_with(expected), "{text}");
        for told in [
            "  10.5.7.0/24: it publishes no public address\n",
            "  subnets/10.5.9.0-24: its value is no JSON\n",
            "nft insert rule ip filter FORWARD ip saddr 10.5.0.0/16 accept",
            "       3 route      NetworkManager\n",
            "  2023-11-14T22:13:20Z route 10.5.3.0/24, taken away by pid 4711 (NetworkManager), back after 4.0 ms\n",
        ] {
            assert!(text.contains(told), "{told}\n{text}");
        }
    }

    #[test]
    fn a_node_that_does_not_serve_says_why_first() {
        let (status, now) = testing::starting();
        let text = status.to_text(now, Paint::Plain);
        let head = "weftd 0.1.0 on node-1: NOT READY, up 0 s\n  nothing is programmed yet\n";
        assert!(text.starts_with(head), "{text}");
    }

    #[test]
    fn a_lost_lease_is_loud() {
        let (mut status, now) = testing::serving();
        status.view.own = Own::Lost {
            was: testing::lease("10.5.63.0/24", "192.168.9.181"),
            why: "node-2 holds it".into(),
        };
        let text = status.to_text(now, Paint::Plain);
        assert!(
            text.contains("  lease      10.5.63.0/24 LOST: node-2 holds it\n"),
            "{text}"
        );
    }

    #[test]
    fn what_others_call_themselves_cannot_command_the_terminal() {
        let (mut status, now) = testing::serving();
        let mut report = Report::default();
        report.failed = vec!["\x1b]0;owned\x07".into(), "a\nb".into()];
        status.report = Arc::new(report);
        let text = status.to_text(now, Paint::Plain);
        assert!(
            !text.contains(['\x1b', '\x07']) && text.contains("a\u{fffd}b"),
            "{text}"
        );
    }

    #[test]
    fn colour_is_only_for_those_who_ask() {
        let (status, now) = testing::serving();
        assert!(!status.to_text(now, Paint::Plain).contains('\x1b'));
        assert!(
            status
                .to_text(now, Paint::Coloured)
                .contains("\x1b[32mready\x1b[0m")
        );
    }

    #[test]
    fn a_packet_path_says_what_it_moved_dropped_and_lacks() {
        let (status, now) = testing::forwarding();
        let text = status.to_text(now, Paint::Plain);
        for part in [
            "12 packets sent, 0 received",
            "kept out by the kernel: 5",
            "UDP_SEGMENT",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("until it is made again"), "{text}");
    }

    #[test]
    fn of_a_long_list_the_beginning_is_shown() {
        let (mut status, now) = testing::serving();
        let mut report = Report::default();
        report.failed = (0..100).map(|n| format!("failure {n}")).collect();
        status.report = Arc::new(report);
        let text = status.to_text(now, Paint::Plain);
        assert!(text.contains("failure 19\n  and 80 more"), "{text}");
    }
}
