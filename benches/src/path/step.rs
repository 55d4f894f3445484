//! One measurement after the other.
use std::time::Duration;

use super::plan::{Measurement, Pace};
use super::{Load, Site, carry, over_tcp, over_udp, payload_of, search, stream};
use crate::report::{Report, Unit};

/// One thing that is measured of every contestant before the next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Tcp(u16),
    Flooded(usize),
    LossFree(usize),
    Trips,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// What something is promised of, and what is merely good to know.
    Full,
    Promised,
    /// What a machine's moods disturb most.
    Streams,
}

pub(super) fn steps(measurements: &[Measurement], extent: Extent) -> Vec<Step> {
    let (streams, sizes): (&[u16], &[usize]) = match extent {
        Extent::Full => (&[1, 4, 16], &[64, 1400]),
        Extent::Promised | Extent::Streams => (&[1, 4], &[64]),
    };
    let measurements = measurements
        .iter()
        .filter(|measurement| extent != Extent::Streams || **measurement == Measurement::Tcp);
    let steps = measurements.flat_map(|measurement| match measurement {
        Measurement::Tcp => streams.iter().copied().map(Step::Tcp).collect::<Vec<_>>(),
        Measurement::Flooded => vec![Step::Flooded(64)],
        Measurement::LossFree => sizes.iter().copied().map(Step::LossFree).collect(),
        Measurement::Trips => vec![Step::Trips],
    });
    steps.collect()
}

impl Step {
    /// The name of its foremost figure.
    pub(super) fn what(self) -> String {
        match self {
            Self::Tcp(1) => "TCP 1 stream".to_owned(),
            Self::Tcp(streams) => format!("TCP {streams} streams"),
            Self::Flooded(size) => format!("{size} B flooded"),
            Self::LossFree(size) => format!("{size} B loss-free"),
            Self::Trips => "round trip p50".to_owned(),
        }
    }

    pub(super) fn take(self, site: &Site, pace: &Pace, row: &'static str, report: &mut Report) {
        let (what, who) = (self.what(), site.contestant.name());
        let mut sample = |what: &str, unit, value| report.sample(row, what, who, unit, value);
        match self {
            Self::Tcp(streams) => {
                let stream = stream(site, streams, pace.seconds);
                sample(&what, Unit::GbitPerSecond, stream.gbit_per_second);
                let cpu = format!("CPU of {what}");
                sample(&cpu, Unit::MillisecondsPerGbit, stream.cpu_ms_per_gbit);
            }
            Self::Flooded(size) => {
                let outcome = carry(site, &load(site, size, None, pace.moment));
                sample(&what, Unit::PerSecond, outcome.received);
                sample(
                    &format!("{what}, lost"),
                    Unit::Percent,
                    outcome.loss * 100.0,
                );
            }
            Self::LossFree(size) => {
                let found = search(|rate| carry(site, &load(site, size, rate, pace.probe)));
                sample(&what, Unit::PerSecond, found.rate);
                // Then the path might do better, with a sender that can.
                let limited = f64::from(u8::from(found.is_senders_limit)) * 100.0;
                sample(&format!("{what}, sender's limit"), Unit::Percent, limited);
            }
            Self::Trips => {
                let trips = over_udp(site, pace.moment);
                sample(&what, Unit::Microseconds, trips.p50);
                sample("round trip p99", Unit::Microseconds, trips.p99);
                sample("round trip p99.9", Unit::Microseconds, trips.p999);
                let trips = over_tcp(site, pace.moment / 2);
                sample("TCP round trip p50", Unit::Microseconds, trips.p50);
                sample("TCP round trip p99", Unit::Microseconds, trips.p99);
            }
        }
    }
}

/// 64 bytes are payload, as is customary; 1400 are the packet, which every path carries whole.
fn load(site: &Site, size: usize, rate: Option<f64>, time: Duration) -> Load {
    let size = match size {
        64 => 64,
        packet => payload_of(packet, site.setting.inner),
    };
    Load { size, rate, time }
}
