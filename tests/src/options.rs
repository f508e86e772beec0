//! What testbed to build.

use crate::storage::Backend;

/// A host to be made.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name, at most 13 characters: a link in the fabric is called after it.
    pub name: String,
    /// Its availability zone.
    pub zone: String,
    /// Lines for its `agent.toml`, put before the first table; tables may follow.
    pub configuration: String,
}

impl HostSpec {
    /// The first `count` of node-28 (zone nova), node-31 (nova2), node-27 (nova), node-32 (nova2), node-33 (nova) …
    pub fn defaults(count: u8) -> Vec<Self> {
        let numbers = [28, 31, 27].into_iter().chain(32..).take(usize::from(count));
        let zones = ["nova", "nova2"].into_iter().cycle();
        numbers.zip(zones).map(|(number, zone)| Self::new(&format!("node-{number}"), zone)).collect()
    }

    /// A host with the standard configuration.
    pub fn new(name: &str, zone: &str) -> Self {
        Self { name: name.to_owned(), zone: zone.to_owned(), configuration: String::new() }
    }
}

/// Until when a testbed stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the [`Testbed`](crate::Testbed) is dropped, or this process ends in any way.
    Process,
    /// Until `testbed down`.
    Kept,
}

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// None: a name that no other testbed has.
    pub name: Option<String>,
    /// The hosts, in order of their addresses.
    pub hosts: Vec<HostSpec>,
    /// Whether the hosts run agents (and there are certificates and an inventory).
    pub agents: bool,
    /// What the storage node runs. Nothing: there is none.
    pub storage: Vec<Backend>,
    /// Until when it stays.
    pub lifetime: Lifetime,
}

impl Default for Options {
    /// Two hosts with agents, until dropped.
    fn default() -> Self {
        let hosts = HostSpec::defaults(2);
        Self { name: None, hosts, agents: true, storage: Vec::new(), lifetime: Lifetime::Process }
    }
}

#[cfg(test)]
mod tests {
    use super::HostSpec;

    #[test]
    fn hosts_have_unique_names_and_alternate_between_zones() {
        let hosts = HostSpec::defaults(5);
        let names: Vec<_> = hosts.iter().map(|host| (host.name.as_str(), host.zone.as_str())).collect();
        let expected =
            [("node-28", "nova"), ("node-31", "nova2"), ("node-27", "nova"), ("node-32", "nova2"), ("node-33", "nova")];
        assert_eq!(names, expected);
    }
}
