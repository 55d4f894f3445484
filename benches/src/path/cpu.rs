//! How busy the machine was, whoever did the work: the kernel does much of it in nobody's name.
use std::fs;
use std::time::Duration;

/// Of the ticks in /proc/stat: part of the kernel's interface, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// Since the machine started, over all processors.
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    Duration::from_secs_f64(busy_ticks(&stat) / TICKS_PER_SECOND)
}

/// user, nice, system; not idle and iowait; irq, softirq; not what other guests stole.
fn busy_ticks(stat: &str) -> f64 {
    let ticks: Vec<f64> = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| ticks.get(*place))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert!((busy_ticks(stat) - 163.0).abs() < 1e-9);
    }
}
