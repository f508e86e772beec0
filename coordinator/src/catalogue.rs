//! The policies by which a live migration may come to its end, and where each of them is from.

use std::path::PathBuf;

use vmferry_core::{
    convergence::{Policy, overlaid},
    host::HostPolicy,
    id::HostName,
};

use crate::{exit::Failed, inventory::Inventory};

/// Where a policy is from: what comes later counts before what comes earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is always there.
    BuiltIn,
    /// The configuration of the source's agent.
    Host,
    /// The inventory.
    Inventory,
}

/// All that a migration can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Catalogue {
    inventory: PathBuf,
    /// The source, if it was asked.
    host: Option<HostName>,
    known: Vec<(Origin, Policy)>,
}

impl Catalogue {
    /// The inventory's, and those of a host.
    pub(crate) fn new(inventory: &Inventory, host: Option<(HostName, Vec<HostPolicy>)>) -> Self {
        let (host, theirs) = host.map_or((None, vec![]), |(host, theirs)| (Some(host), theirs));
        let configured = theirs.into_iter().filter(|known| known.configured).map(|known| known.policy).collect();
        let known = overlaid([
            (Origin::BuiltIn, Policy::all_named()),
            (Origin::Host, configured),
            (Origin::Inventory, inventory.policies.clone()),
        ]);
        Self { inventory: inventory.path.clone(), host, known }
    }

    /// The host whose migrations it is about, if it is.
    pub(crate) fn host(&self) -> Option<&HostName> {
        self.host.as_ref()
    }

    /// Each with where it is from, the default first.
    pub(crate) fn known(&self) -> &[(Origin, Policy)] {
        &self.known
    }

    /// The policy called `name`.
    pub(crate) fn policy(&self, name: &str) -> Result<&Policy, Failed> {
        let found = self.known.iter().find(|(_, policy)| policy.name() == name);
        found.map(|(_, policy)| policy).ok_or_else(|| Failed::usage(self.unknown(name)))
    }

    fn unknown(&self, name: &str) -> String {
        let from = |origin| {
            let names = self.known.iter().filter(|(other, _)| *other == origin).map(|(_, policy)| policy.name());
            names.collect::<Vec<_>>().join(", ")
        };
        let mut places = vec![format!("{} everywhere", from(Origin::BuiltIn))];
        let agent = self.host.as_ref().map(|host| (from(Origin::Host), format!("in the configuration of {host}")));
        let own = (from(Origin::Inventory), format!("in {}", self.inventory.display()));
        for (names, place) in agent.into_iter().chain([own]) {
            places.push(format!("{} {place}", if names.is_empty() { "none" } else { &names }));
        }
        format!("no policy {}; there are {}, each as [policy.NAME]", name.escape_debug(), places.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmferry_core::{
        convergence::{Action, Span, Step, When},
        schedule::Weights,
    };
    use vmferry_transport::CertificateFiles;

    use super::*;

    fn policy(name: &str, millis: u64) -> Policy {
        let when = When::After(Span { base: Duration::from_secs(60), per_gib: Duration::ZERO });
        let steps = vec![Step { when, action: Action::Abort }];
        Policy::new(name, Duration::from_millis(millis), None, steps).expect("valid")
    }

    fn catalogue(own: &[Policy], theirs: &[Policy]) -> Catalogue {
        let inventory = Inventory {
            path: "/home/ops/inventory.toml".into(),
            tls: CertificateFiles::in_directory("/".as_ref()),
            coordinator: None,
            hosts: vec![],
            policies: own.to_vec(),
            weights: Weights::default(),
        };
        let configured = theirs.iter().map(|policy| HostPolicy { policy: policy.clone(), configured: true });
        // Of another version.
        let old = HostPolicy { policy: policy("gentle", 999), configured: false };
        let theirs = configured.chain([old]).collect();
        Catalogue::new(&inventory, Some(("node-28".parse().expect("valid"), theirs)))
    }

    #[test]
    fn the_inventory_counts_before_the_source_and_the_source_before_what_is_always_there() {
        let (own, theirs) = ([policy("night", 7)], [policy("night", 8), policy("default", 9)]);
        let of = |own: &[Policy], theirs: &[Policy], name: &str| {
            catalogue(own, theirs).policy(name).map(|policy| policy.downtime().as_millis()).expect("known")
        };
        assert_eq!([of(&own, &theirs, "night"), of(&own, &theirs, "default")], [7, 9]);
        assert_eq!([of(&[], &theirs, "night"), of(&[], &[], "default")], [8, 50]);
        assert_eq!(of(&[policy("default", 6)], &theirs, "default"), 6);
        assert_eq!(of(&own, &theirs, "gentle"), 30, "what is always there is this version's");
    }

    #[test]
    fn of_an_unknown_policy_it_is_said_which_there_are_and_where() {
        let refused = catalogue(&[], &[policy("night", 8)]).policy("nonesuch").expect_err("unknown");
        assert_eq!(
            refused.message,
            "no policy nonesuch; there are default, gentle, never-pause, must-finish, postcopy, nova everywhere; night in the \
             configuration of node-28; none in /home/ops/inventory.toml, each as [policy.NAME]"
        );
    }
}
