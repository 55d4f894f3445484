//! Values that flags take, read from text.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::{Checksum, LogFormat, MachineId};
use crate::interface::Pattern;

pub(super) fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("must be {what}"))
}

/// An empty text is what flanneld takes for none.
pub(super) fn unless_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn path_unless_empty(text: &str) -> Option<PathBuf> {
    unless_empty(text).map(PathBuf::from)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    path_unless_empty(text).ok_or_else(|| "must be a path".to_owned())
}

pub(super) fn regex(text: &str) -> Result<Pattern, String> {
    text.parse()
        .map_err(|why: regex_lite::Error| format!("must be a regular expression: {why}"))
}

pub(super) fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let all: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .map(str::to_owned)
        .collect();
    if all.is_empty() {
        return Err("must name at least one endpoint, such as http://127.0.0.1:2379".to_owned());
    }
    Ok(all)
}

/// Where to listen, as Go's net.Listen takes a host, short of asking for a name.
pub(super) fn listening_address(text: &str) -> Result<IpAddr, String> {
    match text.trim_start_matches('[').trim_end_matches(']') {
        "" => Ok(super::EVERYWHERE),
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        address => parsed(address, "an IP address of this host, or 0.0.0.0"),
    }
}

pub(super) fn checksum(text: &str) -> Result<Checksum, String> {
    match text {
        "auto" => Ok(Checksum::Auto),
        "on" => Ok(Checksum::On),
        "off" => Ok(Checksum::Off),
        _ => Err("must be auto, on or off".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

pub(super) fn machine_id(text: &str) -> Result<MachineId, String> {
    match text.trim() {
        "" => Err("must be a file, or the id itself".to_owned()),
        file if file.starts_with('/') => Ok(MachineId::File(file.into())),
        id => Ok(MachineId::Is(id.to_owned())),
    }
}
