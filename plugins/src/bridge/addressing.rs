//! What the address management answered → what the pod and the bridge are given. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_cni::{Error, Outcome, Result, Route};

use super::conf::Gateway;

/// Completes `outcome` as the configuration wants its gateway: each address is the pod's, has a
/// gateway if the bridge is to be one, and a default route there if that is wanted too.
pub(super) fn complete(outcome: &mut Outcome, gateway: Gateway, pod_index: usize) -> Result<()> {
    if outcome.ips.is_empty() {
        return Err(Error::config("IPAM plugin returned missing IP config")
            .with_details("the address management must give at least one address"));
    }
    for ip in &mut outcome.ips {
        ip.interface = Some(pod_index);
        if gateway >= Gateway::Address && ip.gateway.is_none() {
            ip.gateway = Some(first_address(ip.address)?);
        }
    }
    if gateway == Gateway::DefaultRoute {
        add_default_routes(outcome);
    }
    Ok(())
}

/// The addresses that the bridge gets to be the gateway of every pod's subnet.
pub(super) fn bridge_addresses(outcome: &Outcome) -> Vec<IpNetwork> {
    let mut addresses = Vec::new();
    for ip in &outcome.ips {
        let Some(gateway) = ip.gateway else { continue };
        let Ok(address) = IpNetwork::new(gateway, ip.address.prefix()) else {
            continue;
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The routes the pod's table gets: each with the gateway it names, or else its family's, and of
/// identical ones only the first, since the kernel refuses the second.
pub(super) fn pod_routes(outcome: &Outcome) -> Vec<Route> {
    let gateway = |v4: bool| {
        let mut gateways = outcome.ips.iter().filter_map(|ip| ip.gateway);
        gateways.find(|gateway| gateway.is_ipv4() == v4)
    };
    let mut routes: Vec<Route> = Vec::new();
    for route in &outcome.routes {
        let mut route = route.clone();
        route.gw = route.gw.or_else(|| gateway(route.dst.is_ipv4()));
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    routes
}

/// A default route that names a gateway is somebody's choice and stays the only one.
fn add_default_routes(outcome: &mut Outcome) {
    for v4 in [true, false] {
        let of_family = |route: &&Route| route.is_default() && route.dst.is_ipv4() == v4;
        if outcome
            .routes
            .iter()
            .filter(of_family)
            .any(|route| route.gw.is_some())
        {
            continue;
        }
        let gateways = outcome.ips.iter().filter_map(|ip| ip.gateway);
        let Some(gateway) = gateways.into_iter().find(|gateway| gateway.is_ipv4() == v4) else {
            continue;
        };
        outcome
            .routes
            .push(Route::to(everything(v4), Some(gateway)));
    }
}

fn everything(v4: bool) -> IpNetwork {
    let any: IpAddr = match v4 {
        true => Ipv4Addr::UNSPECIFIED.into(),
        false => Ipv6Addr::UNSPECIFIED.into(),
    };
    // No family has addresses too short for a prefix of nothing.
    IpNetwork::new(any, 0).unwrap_or_else(|_| any.into())
}

/// The subnet's first host address, where a gateway stands unless somebody says otherwise.
fn first_address(subnet: IpNetwork) -> Result<IpAddr> {
    let network = subnet.network();
    let first = match network {
        IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|ip| IpAddr::V4(ip.into())),
        IpAddr::V6(ip) => u128::from(ip)
            .checked_add(1)
            .map(|ip| IpAddr::V6(ip.into())),
    };
    first
        .filter(|first| subnet.contains(*first))
        .ok_or_else(|| {
            Error::config(format!("{subnet} has no room for a gateway"))
                .with_details("give the address a shorter prefix, or name a gateway")
        })
}

#[cfg(test)]
mod tests {
    use weft_cni::Address;

    use super::*;

    fn outcome(ips: &[(&str, Option<&str>)], routes: &[(&str, Option<&str>)]) -> Outcome {
        let ip = |text: &Option<&str>| text.map(|text| text.parse().unwrap());
        let address = |(address, gateway): &(&str, Option<&str>)| Address {
            interface: None,
            address: address.parse().unwrap(),
            gateway: ip(gateway),
        };
        Outcome {
            ips: ips.iter().map(address).collect(),
            routes: routes
                .iter()
                .map(|(dst, gw)| Route::to(dst.parse().unwrap(), ip(gw)))
                .collect(),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_gateway_that_nobody_named_is_the_subnets_first_address() {
        let mut dual = outcome(&[("10.1.2.5/24", None), ("fd00::5/64", None)], &[]);
        complete(&mut dual, Gateway::DefaultRoute, 2).unwrap();
        assert_eq!(dual.ips[0].gateway, Some("10.1.2.1".parse().unwrap()));
        assert_eq!(dual.ips[1].gateway, Some("fd00::1".parse().unwrap()));
        assert_eq!(dual.ips[0].interface, Some(2));
        let text: Vec<String> = dual
            .routes
            .iter()
            .map(|route| route.dst.to_string())
            .collect();
        assert_eq!(text, ["0.0.0.0/0", "::/0"]);
        let bridge: Vec<String> = bridge_addresses(&dual)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(bridge, ["10.1.2.1/24", "fd00::1/64"]);
    }

    #[test]
    fn a_default_route_with_a_gateway_stays_the_only_one() {
        let mut chosen = outcome(&[("10.1.2.5/24", None)], &[("0.0.0.0/0", Some("10.1.2.9"))]);
        complete(&mut chosen, Gateway::DefaultRoute, 2).unwrap();
        assert_eq!(chosen.routes.len(), 1);
    }

    /// A default route from the configuration beside the one of isDefaultGateway: the reference
    /// plugin adds it twice and fails with "file exists".
    #[test]
    fn p19_an_identical_default_route_is_added_once() {
        let mut twice = outcome(&[("10.1.2.5/24", Some("10.1.2.1"))], &[("0.0.0.0/0", None)]);
        complete(&mut twice, Gateway::DefaultRoute, 2).unwrap();
        assert_eq!(
            twice.routes.len(),
            2,
            "the result says what the reference plugin's says"
        );
        assert_eq!(pod_routes(&twice).len(), 1);
    }

    #[test]
    fn no_address_is_an_error() {
        assert!(complete(&mut outcome(&[], &[]), Gateway::No, 2).is_err());
    }

    #[test]
    fn a_subnet_of_one_has_no_room_for_a_gateway() {
        assert!(
            complete(
                &mut outcome(&[("10.1.2.5/32", None)], &[]),
                Gateway::Address,
                2
            )
            .is_err()
        );
    }
}
