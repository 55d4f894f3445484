//! What interfaces have carried, as the kernel counts it.
use std::fs;

/// Packets and bytes, one way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

/// The links of the calling thread's network.
pub(crate) fn links() -> Vec<String> {
    table().into_iter().map(|(name, _)| name).collect()
}

/// Of a link in the calling thread's network.
pub(crate) fn read(link: &str, way: Way) -> Count {
    let (_, numbers) = table()
        .into_iter()
        .find(|(name, _)| name == link)
        .unwrap_or_else(|| panic!("there is no interface {link}"));
    let first = match way {
        Way::In => 0,
        Way::Out => 8,
    };
    Count {
        bytes: numbers[first],
        packets: numbers[first + 1],
    }
}

/// Each link with its sixteen numbers: eight of what came in, eight of what went out.
fn table() -> Vec<(String, Vec<u64>)> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0));
        Some((name.trim().to_owned(), numbers.collect()))
    };
    table.lines().filter_map(line).collect()
}
