//! One list of hosts from several sources that need not agree.

use std::{collections::HashMap, net::SocketAddr};

use vmferry_core::{agent::CallError, id::HostName, migration::Endpoint, reason::Reason};

/// The hosts of all sources.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Each name once.
    pub(super) hosts: Vec<Endpoint>,
    /// Hosts of a name that another has already, and why they are left out.
    pub(super) left_out: Vec<LeftOut>,
    /// What is wrong with those that are not left out, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// A host that is not called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LeftOut {
    /// As its source has it.
    pub(crate) endpoint: Endpoint,
    /// Which other counts.
    pub(crate) why: CallError,
}

/// Hosts that several sources have are one host. A mistake in one host's configuration must not keep people from another:
///
/// - Of two with one name the first counts, as what is written in the file is what they can mend at once. The other is shown as what it is.
/// - Two at one address are both called, and its certificate says which of them is there. The other cannot be reached, as its row says.
pub(super) fn merge(sources: Vec<(String, Vec<Endpoint>)>) -> Merged {
    let mut merged = Merged::default();
    let (mut names, mut addresses) =
        (HashMap::<HostName, (String, String)>::new(), HashMap::<String, (String, HostName)>::new());
    for (place, hosts) in sources {
        for endpoint in hosts {
            let Endpoint { host, address } = &endpoint;
            let at = canonical(address);
            if let Some((first, had)) = names.get(host) {
                if canonical(had) != at {
                    let message = format!(
                        "{host} at {address} of {place} is left out: {first} has {host} at {had}; correct one of them"
                    );
                    let why = CallError { host: host.clone(), reason: Reason::InventoryConflict, message };
                    merged.left_out.push(LeftOut { endpoint, why });
                }
                continue;
            }
            if let Some((first, other)) = addresses.get(&at) {
                merged.warnings.push(format!(
                    "{host} of {place} has the address {address}, as {other} of {first} has: whose certificate is there answers, and the \
                     other cannot be reached; correct one of them"
                ));
            }
            names.insert(host.clone(), (place.clone(), address.clone()));
            addresses.entry(at).or_insert_with(|| (place.clone(), host.clone()));
            merged.hosts.push(endpoint);
        }
    }
    merged
}

/// The same for all ways of writing an address.
pub(crate) fn canonical(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        Err(_) => address.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, address: &str) -> Endpoint {
        Endpoint { host: name.parse().expect("a name"), address: address.into() }
    }

    #[test]
    fn hosts_that_cannot_both_be_are_told_with_both_places_and_hide_nobody() {
        let Merged { hosts, left_out, warnings } = merge(vec![
            ("the file".into(), vec![host("node-28", "192.0.2.10:7443"), host("node-31", "192.0.2.11:7443")]),
            ("DNS".into(), vec![host("node-28", "192.0.2.10:7443"), host("node-31", "192.0.2.12:7443")]),
            ("etcd".into(), vec![host("node-27", "192.0.2.10:7443"), host("node-1", "192.0.2.1:1")]),
        ]);
        let hosts: Vec<_> = hosts.iter().map(|host| format!("{} {}", host.host, host.address)).collect();
        assert_eq!(
            hosts,
            ["node-28 192.0.2.10:7443", "node-31 192.0.2.11:7443", "node-27 192.0.2.10:7443", "node-1 192.0.2.1:1"]
        );
        insta::assert_snapshot!(warnings.join("\n"), @"node-27 of etcd has the address 192.0.2.10:7443, as node-28 of the file has: whose certificate is there answers, and the other cannot be reached; correct one of them");
        let left_out: Vec<_> = left_out.into_iter().map(|left_out| left_out.why.message).collect();
        insta::assert_snapshot!(left_out.join("\n"), @"node-31 at 192.0.2.12:7443 of DNS is left out: the file has node-31 at 192.0.2.11:7443; correct one of them");
    }

    #[test]
    fn one_address_may_be_written_in_many_ways() {
        for (one, other) in [
            ("[2001:db8::10]:7443", "[2001:0DB8:0::10]:7443"),
            ("[::ffff:192.0.2.1]:7443", "192.0.2.1:7443"),
            ("Node-28.example.org:7443", "node-28.example.org:7443"),
        ] {
            let merged = merge(vec![("a".into(), vec![host("x", one)]), ("b".into(), vec![host("x", other)])]);
            assert_eq!((merged.hosts.len(), merged.left_out.len()), (1, 0), "{one} {other}");
            let merged = merge(vec![("a".into(), vec![host("x", one), host("y", other)])]);
            assert_eq!((merged.hosts.len(), merged.warnings.len()), (2, 1), "{one} {other}");
        }
    }
}
